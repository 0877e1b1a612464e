"""The lectures' slides: built from executed chapters, opened in Chromium, and printed."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
import slides
from pdf import browser_program
from playwright.sync_api import sync_playwright
from pypdf import PdfReader

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = ROOT / "_build/executed"
LAB = ROOT / "_build/lab/data"
PHOTOGRAPHS = ROOT / "_build/slides"  # what a person looks at
LECTURES = sorted(path.stem for path in (ROOT / "teaching/slides").glob("*.md"))

each_lecture = pytest.mark.parametrize("lecture", LECTURES)


@pytest.fixture(scope="module")
def chapters():
    paths = sorted(EXECUTED.glob("*.ipynb"))
    return {path.stem: nbformat.read(path, as_version=4) for path in paths}


@pytest.fixture(scope="module")
def made(tmp_path_factory, chapters):
    target = tmp_path_factory.mktemp("lectures") / "slides"
    printed = slides.write_slides(target, chapters, LAB)
    assert printed == (browser_program() is not None)
    return target


@pytest.fixture(scope="module")
def chromium():
    if browser_program() is None:
        pytest.skip("no Chromium here")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_program(), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


# -------------------------------------------------------------------------- what is in them


@each_lecture
def test_a_lecture_has_notes_for_45_minutes(made, lecture):
    html = (made / f"{lecture}.html").read_text(encoding="utf-8")
    notes = re.findall(r'<aside class="notes">\[(\d+) min\] ([^<]+)</aside>', html)
    pages = html.count("<h1>") + html.count("<h2>")
    assert len(notes) == pages >= 15
    assert all(len(said.split()) >= 15 for _, said in notes)
    assert sum(int(minutes) for minutes, _ in notes) == 45


@each_lecture
def test_numbers_and_equations_are_the_chapters(made, lecture, chapters):
    """Whatever has decimals in a page's source is not a result: those are asked for."""
    source = (ROOT / f"teaching/slides/{lecture}.md").read_text(encoding="utf-8")
    typed = re.sub(r"\{\{.*?\}\}|\$[^$]+\$", "", source)
    results = re.findall(
        r"(?<![\w-])\d+\.\d+ ?(?:points|%)|\d+ (?:points|per cent of)", typed
    )
    assert results == []
    html = (made / f"{lecture}.html").read_text(encoding="utf-8")
    assert "{{ " not in html  # what was asked for stands there
    given = slides.glued(chapters["06_table1"])["claimed-cifar10"]
    assert (f"{given:.2f} points fewer" in html) == (lecture == "lecture-2")


@each_lecture
def test_every_picture_has_an_alternative_text(made, lecture):
    html = (made / f"{lecture}.html").read_text(encoding="utf-8")
    images = re.findall(r"<img [^>]+>", html)
    assert len(images) >= 5
    for image in images:
        assert len(re.search(r'alt="([^"]+)"', image)[1]) > 20, image
        assert (made / re.search(r'src="([^"]+)"', image)[1]).is_file(), image


def test_a_page_that_asks_for_what_is_not_there_is_refused(tmp_path, chapters, monkeypatch):
    pages = tmp_path / "pages"
    shutil.copytree(slides.PAGES, pages)
    monkeypatch.setattr(slides, "PAGES", pages)
    page = pages / "lecture-1.md"
    page.write_text(page.read_text("utf-8") + '\n{{ number["02_estimator"]["gone"] }}\n')
    with pytest.raises(slides.SlideError, match="has no attribute 'gone'"):
        slides.write_slides(tmp_path / "slides", chapters, LAB)


# ------------------------------------------------------------------------------ as pictures

OUTSIDE = """() => {
  const slide = Reveal.getCurrentSlide();
  const over = [...slide.querySelectorAll('*')].filter(part => {
    if (part.closest('aside, mjx-assistive-mml')) return false;
    const box = part.getBoundingClientRect();
    return box.left < -1 || box.top < -1 || box.right > innerWidth + 1
      || box.bottom > innerHeight - 20;
  });
  const page = document.documentElement;
  return [
    ...over.map(part => `${part.tagName} ${part.textContent.slice(0, 40)}`),
    ...(page.scrollWidth > innerWidth ? ['the page scrolls'] : []),
    ...(slide.scrollWidth > slide.clientWidth + 1 ? ['the slide is too wide'] : []),
  ];
}"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@each_lecture
def test_no_slide_runs_over_and_nothing_is_fetched(made, chromium, lecture, scheme):
    page = chromium.new_page(viewport={"width": 1024, "height": 768}, color_scheme=scheme)
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(request.url))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((made.as_uri(), "data:", "blob:"))
            else faults.append(request.url)
        ),
    )
    open_slides(page, made / f"{lecture}.html")
    PHOTOGRAPHS.mkdir(parents=True, exist_ok=True)
    grounds = set()
    for number in range(page.evaluate("Reveal.getTotalSlides()")):
        page.evaluate(
            "n => { const at = Reveal.getIndices(Reveal.getSlides()[n]); "
            "Reveal.slide(at.h, at.v); }",
            number,
        )
        page.wait_for_timeout(100)
        page.screenshot(path=PHOTOGRAPHS / f"{lecture}-{number + 1:02}-{scheme}.png")
        faults += [f"slide {number + 1}: {what}" for what in page.evaluate(OUTSIDE)]
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert faults == []
    assert grounds == {"rgb(255, 255, 255)" if scheme == "light" else "rgb(23, 23, 26)"}
    page.close()


def open_slides(page, lecture: Path) -> None:
    page.goto(lecture.as_uri(), wait_until="load")
    page.wait_for_function("window.MathJax?.startup?.promise !== undefined")
    page.evaluate("() => MathJax.startup.promise.then(() => null)")


@pytest.mark.browser
@each_lecture
def test_the_speaker_sees_notes_in_a_window_of_its_own(made, chromium, lecture):
    page = chromium.new_page()
    open_slides(page, made / f"{lecture}.html")
    with page.expect_popup() as opened:
        page.keyboard.press("s")
    opened.value.wait_for_selector(".speaker-controls-notes .value")
    opened.value.wait_for_function(
        "() => document.querySelector('.speaker-controls-notes .value')"
        ".textContent.includes('min]')"
    )
    page.close()


@pytest.mark.browser
@each_lecture
def test_paper_has_two_slides_a_page_and_no_notes(made, chromium, lecture):
    printed = PdfReader(made / f"{lecture}.pdf")
    html = (made / f"{lecture}.html").read_text(encoding="utf-8")
    titles = re.findall(r"<h[12]>([^<]+)</h[12]>", html)
    assert len(printed.pages) == (len(titles) + 1) // 2
    text = "".join(sheet.extract_text() for sheet in printed.pages)
    assert " min]" not in text
    last = printed.pages[-1].extract_text()
    assert all(title.split()[0] in last for title in titles[-(2 - len(titles) % 2) :])
    width, height = printed.pages[0].mediabox[2:]
    assert height > width
