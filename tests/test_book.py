"""The built book, opened in the system's Chromium: wide, narrow, and without a network."""

import functools
import re
import runpy
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urldefrag, urljoin, urlsplit

import pytest
import yaml
from browser import (
    DISK,
    HTML,
    ICONS,
    OF_THEME_AND_WIDTH,
    WIDE,
    Visit,
    serious_barriers,
)
from bs4 import BeautifulSoup
from playwright.sync_api import Error

ROOT = Path(__file__).resolve().parents[1]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
CHAPTERS = [chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]]
PAGES = [f"{name}.html" for name in (TOC["root"], *CHAPTERS)]
MOVED = runpy.run_path(str(ROOT / "book/_ext/book_pages.py"))["MOVED"]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
UNPUBLISHED = CONFIG["sphinx"]["config"]["unpublished"]
pytestmark = pytest.mark.browser
every_page = pytest.mark.parametrize("page", PAGES)


@pytest.fixture(scope="module")
def start(chromium, site):
    """start(page) -> the Visit, on the site or at another `home`, in one window each."""
    contexts = {}

    def start(page: str, home: str = site) -> Visit:
        if home not in contexts:
            contexts[home] = chromium.new_context(
                viewport={"width": 1280, "height": 900},
                color_scheme="light",
                reduced_motion="reduce",
                offline=home.startswith("file:"),
            )
            contexts[home].set_default_timeout(120_000)  # machines are busy at times
        return Visit(contexts[home], home, page)

    yield start
    for context in contexts.values():
        context.close()


@pytest.fixture
def visit(start):
    """As `start`; the tabs are closed behind the test."""
    visits = []

    def visit(*where) -> Visit:
        visits.append(start(*where))
        return visits[-1]

    yield visit
    for one in visits:
        one.page.close()


@dataclass
class Seen:
    """What one visit of a page found: as it opens, on paper, then with all unfolded."""

    titles: int
    formulas: int
    formulas_with_errors: int
    prose: str  # without code and formulas
    unfolded: int  # solutions and cells that are not folded away, or do not open
    width: dict  # the screen's -> the document's, in pixels
    wide: dict  # the screen's width -> elements that reach beyond it
    clipped: list  # tables of which a wide screen shows a part
    first: dict  # a screen -> what stands first on it, its top and its bottom
    printed: tuple  # on paper: solutions, those in sight, what is cut, what lies beyond
    charts: list  # on a telephone: name, pixels beyond its frame, share of its own width
    barriers: dict  # light or dark -> serious and critical ones
    outside: list
    faults: list


@pytest.fixture(scope="module")
def seen(start):
    """seen(page) -> Seen. A page is opened once, whatever number of tests asks for it."""

    @functools.cache
    def seen(page: str) -> Seen:
        visit = start(page)
        try:
            return look(visit)
        finally:
            visit.page.close()

    return seen


def look(visit: Visit) -> Seen:
    page = visit.page
    article = page.locator("article")
    width, wide, barriers, first = {}, {}, {}, {}
    for screen in SCREENS:
        resize(page, screen)
        first[screen] = article.evaluate(SUBSTANCE)
    printed = on_paper(page, article)
    resize(page, SCREENS[0])
    unfolded = unfold(article)
    clipped = page.evaluate(CLIPPED)
    for scheme, size in (("light", SCREENS[0]), ("dark", (360, 800))):
        page.emulate_media(color_scheme=scheme)
        resize(page, size)
        page.locator(f"html[data-theme={scheme}]").wait_for()
        page.evaluate(AT_REST)
        width[size[0]] = page.evaluate("document.documentElement.scrollWidth")
        wide[size[0]] = page.evaluate(WIDE)
        rules = None if scheme == "light" else OF_THEME_AND_WIDTH
        barriers[scheme] = serious_barriers(page, rules=rules)
    charts = page.evaluate(CHARTS)
    return Seen(
        titles=article.locator("h1").count(),
        formulas=article.locator("mjx-container").count(),
        formulas_with_errors=article.locator("mjx-merror, [data-mjx-error]").count(),
        prose=article.evaluate(PROSE),
        unfolded=unfolded,
        width=width,
        wide=wide,
        clipped=clipped,
        first=first,
        printed=printed,
        charts=charts,
        barriers=barriers,
        outside=visit.outside,
        faults=visit.faults,
    )


# What is unfolded fades in; half faded it has neither its colours nor its place.
AT_REST = """async () => {
    await new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)));
    const moving = document.getAnimations();
    await Promise.all(moving.map(one => one.finished.catch(() => null)));
}"""
SCREENS = (1280, 900), (390, 844)
PAPER = (718, 1000)  # A4 less a margin of one centimetre, in CSS pixels


def resize(page, size: tuple[int, int]) -> None:
    if page.viewport_size != dict(zip(("width", "height"), size, strict=True)):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.wait_for_timeout(400)  # the theme takes 300 ms to see another width


def on_paper(page, article) -> tuple:
    """Solutions, those of them in sight, what is cut and what reaches beyond the text."""
    resize(page, PAPER)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    solutions = article.locator(".solution")
    shown = [s.inner_text()[:60] for s in solutions.all() if s.is_visible()]
    found = solutions.count(), shown, article.evaluate(CUT), article.evaluate(BEYOND)
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    return found


PROSE = """article => {
    const copy = article.cloneNode(true);
    copy.querySelectorAll('pre, code, mjx-container, script').forEach(e => e.remove());
    return copy.textContent;
}"""
CHARTS = """async () => {
    const charts = [...document.querySelectorAll(
        'article figure img[src$=".svg"]:not(.drawing)')];
    await Promise.all(charts.map(e => e.decode()));
    return charts.map(e => [
        e.src.split('/').pop(),
        e.getBoundingClientRect().right - e.closest('figure').getBoundingClientRect().right,
        e.clientWidth / e.naturalWidth,
    ]);
}"""
IS_CLIPPED = "e => e.scrollWidth > e.parentElement.clientWidth + 1"
CLIPPED = f"""() => [...document.querySelectorAll('article table')]
    .filter({IS_CLIPPED})
    .map(e => e.innerText.slice(0, 80))"""


def unfold(article) -> int:
    """Click on all that is folded away; how many were open before or stayed closed."""
    wrong = 0
    for solution in article.locator(".solution.dropdown").all():
        content = solution.locator("> section, > div").first
        before = content.is_visible()
        solution.locator(".admonition-title button").first.click(timeout=10_000)
        wrong += before or not content.is_visible()
    for details in article.locator("details").all():
        if details.get_attribute("open") is None:
            details.locator("> summary").click(timeout=10_000)
            wrong += details.get_attribute("open") is None
    return wrong


@functools.cache
def soup(page: str) -> BeautifulSoup:
    return BeautifulSoup((HTML / page).read_text(encoding="utf-8"), "html.parser")


# ------------------------------------------------------------------------------- opening


@every_page
def test_page_opens_without_a_fault_and_asks_nobody_else(seen, page):
    assert seen(page).outside == []
    assert seen(page).faults == []
    assert seen(page).titles == 1


def test_pages_that_no_contents_name_open_too(visit):
    """The search page, the indices and the like; of the modules' sources every eighth."""
    others = {p.relative_to(HTML).as_posix() for p in HTML.rglob("*.html")} - set(PAGES)
    others -= {f"{old}.html" for old in MOVED}
    others = [page for page in sorted(others) if not page.startswith("_static/")]
    sources = [page for page in others if page.startswith("_modules/lpa_core/")]
    assert len(sources) > 40
    others = [page for page in others if page not in sources] + sources[::8]
    assert "search.html" in others
    for page in others:
        opened = visit(page)
        assert (page, opened.outside, opened.faults) == (page, [], [])


@pytest.mark.parametrize("address", ["gone.html", "notebooks/old/99_gone.html"])
def test_a_wrong_address_leads_to_a_page_that_leads_on(visit, site, address):
    opened = visit(address)
    assert opened.faults[0] == f"404: {site}{address}"
    assert len(opened.faults) == 2  # and the console's word about the same
    page = opened.page
    assert page.get_by_role("heading", name="There is no such page", level=1).is_visible()
    logo = page.locator(".navbar-brand img").first
    assert logo.evaluate("image => image.naturalWidth") > 0
    page.get_by_role("link", name="the opening page").click()
    page.wait_for_url(f"{site}{PAGES[0]}")


@pytest.mark.quiet
@every_page
def test_page_from_the_disk_works_and_is_readable_within_a_second(visit, page):
    """Opened as a file, without any server or network."""
    opened = visit(page, DISK)
    assert opened.outside == []
    assert [fault for fault in opened.faults if not ICONS.search(fault)] == []
    icons = "900 16px 'Font Awesome 6 Free'"
    assert opened.page.evaluate("font => document.fonts.check(font)", icons)
    assert opened.page.locator("article").inner_text().strip()
    if soup(page).select(".math"):
        assert opened.page.locator("mjx-container").count() > 0
    # A machine is busy at times, a heavy page is slow each time: two of up to twelve loads.
    times = [readable_after(opened.page)]
    while sum(t < 1 for t in times) < 2 and len(times) < 12:
        opened.page.reload(wait_until="load")
        times.append(readable_after(opened.page))
    assert sum(t < 1 for t in times) == 2, f"seconds: {times}"


def readable_after(page) -> float:
    """Seconds until the page stood there with its text, as the browser clocked them."""
    painted = "() => performance.getEntriesByName('first-contentful-paint').length"
    page.wait_for_function(painted)
    milliseconds = page.evaluate(
        """() => Math.max(
            performance.getEntriesByName('first-contentful-paint')[0].startTime,
            performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd)"""
    )
    return milliseconds / 1000


def test_the_first_page_weighs_less_than_a_megabyte(visit):
    """Its text and pictures; the theme and MathJax are every page's, and fetched once."""
    weight = visit(PAGES[0]).page.evaluate(
        r"""() => ['navigation', 'resource'].flatMap(t => performance.getEntriesByType(t))
            .filter(e => !/[/]_static[/](mathjax|vendor|scripts|styles)[/]/.test(e.name))
            .reduce((sum, entry) => sum + entry.encodedBodySize, 0)"""
    )
    assert 20_000 < weight < 1_000_000


def test_the_address_itself_leads_to_the_first_page(visit):
    opened = visit("index.html")
    opened.page.wait_for_url(re.compile(re.escape(PAGES[0])))
    assert opened.faults == []


@pytest.mark.parametrize("old", MOVED)
def test_an_old_address_leads_to_the_new_one(visit, site, old):
    opened = visit(f"{old}.html")
    opened.page.wait_for_url(f"{site}{MOVED[old]}.html")
    opened.page.locator("article h1").wait_for()
    assert opened.faults == []


def test_every_page_that_was_renamed_has_left_word():
    command = ["git", "log", "--format=", "--name-only", "--", "notebooks", "book"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    ever = {Path(p) for p in said.stdout.split() if p.endswith((".ipynb", ".md"))}
    if not ever:
        pytest.skip("no history here")
    gone = {p.with_suffix("").as_posix() for p in ever if not (ROOT / p).exists()}
    assert gone - MOVED.keys() == set()


# --------------------------------------------------------------------------------- reading


@every_page
def test_formulas_are_set(seen, page):
    assert seen(page).formulas >= len(soup(page).select("article .math"))
    assert seen(page).formulas_with_errors == 0
    assert not re.search(r"\$\$|\\\(|\\\[|\\begin\{", seen(page).prose)


@every_page
def test_what_is_folded_away_opens(seen, page):
    """Solutions and folded cells: closed at first, open after a click."""
    assert seen(page).unfolded == 0


def test_solutions_are_folded_away():
    """All that the chapters have, and each is one that the test above opens."""
    written = [p.read_text("utf-8") for p in (ROOT / "notebooks").glob("*.ipynb")]
    solutions = [s for page in PAGES for s in soup(page).select("article .solution")]
    assert len(solutions) >= sum(text.count("{solution}") for text in written) > 0
    assert [s["id"] for s in solutions if "dropdown" not in s["class"]] == []


@every_page
def test_no_cell_failed(page):
    assert soup(page).select(".output.traceback, .myst-nb-error") == []
    assert "Traceback (most recent call last)" not in soup(page).get_text()


@every_page
def test_no_reference_is_left_open(page):
    article = soup(page).select_one("article")
    assert [e.get_text() for e in article.select(".problematic, .system-message")] == []
    for code in article.select("pre, code"):
        code.extract()
    assert not re.search(r"\{(cite|eq|ref|numref|glue|doc)\b[^}]*\}`", str(article))


@every_page
def test_pictures_say_what_they_show(page):
    article = soup(page).select_one("article")
    silent = [
        img["src"][-60:]
        for img in article.select("img")
        if not img.get("alt", "").strip() or img["alt"].startswith(("_", "../_"))
    ]
    assert silent == []


@every_page
def test_links_within_the_book_lead_somewhere(page):
    broken = []
    for link in soup(page).select("a[href]"):
        target, anchor = urldefrag(link["href"])
        if urlsplit(target).scheme or target.startswith("//"):
            continue
        name = unquote(urlsplit(urljoin(f"/{page}", target)).path).lstrip("/") or page
        if name.endswith("/"):
            name += "index.html"
        if not (HTML / name).is_file() or not found(name, unquote(anchor)):
            broken.append(link["href"])
    assert broken == []


def found(name: str, anchor: str) -> bool:
    """Whether a file of the book has that anchor, or none is asked for."""
    if not anchor or not name.endswith(".html"):
        return True
    return soup(name).find(id=anchor) is not None


@every_page
def test_buttons_point_at_what_is_in_the_repository(page):
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    address = repository["url"].removeprefix("https://github.com/")
    links = [a["href"] for a in soup(page).select("a[href^=http]")]
    file = re.compile(rf"/{address}/(?:blob|edit)/{repository['branch']}/([^#?]+)")
    files = {match[1] for link in links if (match := file.search(link))}
    assert bool(files) != UNPUBLISHED  # tests/test_buttons.py: what they do until then
    assert [f for f in files if not (ROOT / f).is_file()] == []


@every_page
@pytest.mark.skipif(not UNPUBLISHED, reason="the repository is set")
def test_no_link_leads_to_a_repository_that_is_not_set(page):
    repository = CONFIG["repository"]["url"].removeprefix("https://github.com/")
    links = [a for a in soup(page).select("a[href]") if "btn" in a.get("class", [])]
    assert not [a["href"] for a in soup(page).select("a[href]") if repository in a["href"]]
    waiting = [a for a in links if a["href"].endswith("#not-yet-published")]
    assert waiting
    assert all("does not work yet" in a["title"] for a in waiting)


@pytest.mark.skipif(UNPUBLISHED, reason="no repository: see tests/test_buttons.py")
@pytest.mark.parametrize("chapter", [c for c in CHAPTERS if c.startswith("notebooks/")])
def test_launch_buttons_open_this_notebook(chapter):
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    owner_name, branch = urlsplit(repository["url"]).path.strip("/"), repository["branch"]
    assert (ROOT / f"{chapter}.ipynb").is_file()
    launch = soup(f"{chapter}.html").select(".dropdown-launch-buttons a[href]")
    colab, binder = (
        [urlsplit(a["href"]) for a in launch if urlsplit(a["href"]).netloc == host]
        for host in ("colab.research.google.com", "mybinder.org")
    )
    assert [link.path for link in colab] == [
        f"/github/{owner_name}/blob/{branch}/{chapter}.ipynb"
    ]
    assert [link.path for link in binder] == [f"/v2/gh/{owner_name}/{branch}"]
    assert parse_qs(binder[0].query) == {"urlpath": [f"lab/tree/{chapter}.ipynb"]}


# ---------------------------------------------------------------------------------- shape


@every_page
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(seen, page, width):
    assert seen(page).width[width] <= width
    assert seen(page).wide[width] == []


@every_page
def test_tables_show_their_last_column(seen, page):
    """It says what comes of it; on a telephone one scrolls to it."""
    assert seen(page).clipped == []


def test_the_counts_of_the_claims_are_in_sight_on_a_telephone(visit):
    page = visit(next(page for page in PAGES if page.endswith("15_claims.html"))).page
    page.set_viewport_size({"width": 390, "height": 844})
    counts = page.locator(".cell_output table").first
    assert counts.locator("tbody tr").count() >= 8
    assert not counts.evaluate(IS_CLIPPED)


@every_page
def test_charts_fit_a_telephone_with_letters_that_can_be_read(seen, page):
    """Of 10 points, the smallest in a chart, 8.6 pixels are left, or more."""
    for chart, beyond, shrunk in seen(page).charts:
        assert beyond <= 1 and 10 * 96 / 72 * shrunk > 8.6, (chart, beyond, shrunk)


def test_the_claims_have_their_chart(seen):
    page = next(page for page in PAGES if page.endswith("15_claims.html"))
    assert len(seen(page).charts) == 1


def test_a_figure_opens_by_itself(visit):
    page = visit(next(page for page in PAGES if page.endswith("06_table1.html"))).page
    figure = page.locator("article figure img").first
    source = figure.evaluate("image => image.src")
    assert source.endswith(".svg")  # sharp at any size
    figure.click()
    page.wait_for_url(source)


@pytest.mark.parametrize("home", ["site", "disk"])
def test_search_finds_a_word_of_the_book(visit, site, home):
    opened = visit("search.html?q=compatibility", site if home == "site" else DISK)
    hits = opened.page.locator("#search-results li a")
    hits.first.wait_for()
    assert "notebooks/" in " ".join(hit.get_attribute("href") for hit in hits.all())
    assert opened.outside == []


TEX = re.compile(r"[\\$]|\bfrac\b|mathcal")
EXCERPTS = "#search-results li .context"


@pytest.mark.parametrize("word", ["softmax", "entropy"])
def test_excerpts_of_a_search_are_plain_text(visit, word):
    """A word that stands beside formulas."""
    page = visit(f"search.html?q={word}").page
    page.locator(EXCERPTS).nth(4).wait_for()
    excerpts = page.locator(EXCERPTS).all_inner_texts()
    assert [text for text in excerpts if TEX.search(text)] == []
    assert [text for text in excerpts if word in text.lower()]
    # There is TeX in the pages that they come from.
    hit = page.locator("#search-results li:has(.context) a").first.get_attribute("href")
    assert TEX.search(soup(urldefrag(hit)[0]).select_one("article").get_text())


def test_the_search_field_has_one_frame(visit):
    field = visit("search.html").page.locator("form.bd-search input").last
    frames = field.evaluate(
        """input => [input, input.parentElement].map(
            e => parseFloat(getComputedStyle(e).borderTopWidth))"""
    )
    assert sum(width > 0 for width in frames) == 1


# ----------------------------------------------------------------------------- first screen

# Where the first thing of substance begins and ends: a paragraph, picture, equation or
# table of the first section, after what the chapter is for and what it needs.
SUBSTANCE = """article => {
    const kinds = 'p, img, div.math, mjx-container[display], dl, table';
    const first = [...article.querySelectorAll(kinds)].find(e =>
        !/^(After this chapter you can|You need)/.test(e.textContent)
        && !e.closest('.cell_input') && e.getBoundingClientRect().height > 0);
    const box = first.getBoundingClientRect();
    return [first.textContent.slice(0, 60), box.top + scrollY, box.bottom + scrollY];
}"""


@pytest.mark.parametrize("screen", SCREENS, ids="{0[0]} x {0[1]}".format)
@pytest.mark.parametrize("page", [PAGES[0], *(p for p in PAGES if "notebooks/" in p)])
def test_the_idea_is_on_the_first_screen(seen, page, screen):
    said, top, bottom = seen(page).first[screen]
    assert 0 < top < bottom <= screen[1], said


# ------------------------------------------------------------------------------------ print

CUT = """article => [...article.querySelectorAll('*')].filter(e => {
    const style = getComputedStyle(e);
    const boxed = ['auto', 'scroll', 'hidden', 'clip'].includes(style.overflowX);
    return boxed && e.clientWidth > 1 && e.scrollWidth > e.clientWidth + 1
        && !e.closest('svg, mjx-container');
}).map(e => e.outerHTML.slice(0, 80))"""
BEYOND = """article => {
    const right = article.getBoundingClientRect().right;
    return [...article.querySelectorAll('p, pre, table, img, mjx-container')].filter(e =>
        e.offsetParent && e.getBoundingClientRect().right > right + 8
    ).map(e => e.outerHTML.slice(0, 80));
}"""


@every_page
def test_on_paper_nothing_is_cut_and_solutions_stay_closed(seen, page):
    solutions, shown, cut, beyond = seen(page).printed
    assert solutions == len(soup(page).select("article .solution"))
    assert (shown, cut, beyond) == ([], [], [])


# ---------------------------------------------------------------------------- access to all


@every_page
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_barrier(seen, page, scheme):
    """With everything unfolded: in light on a wide screen, by all rules; then in dark on a
    narrow one, by those whose answer may have changed."""
    assert seen(page).barriers[scheme] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_link_under_the_pointer_is_readable(visit, scheme):
    page = visit(PAGES[1]).page
    page.emulate_media(color_scheme=scheme)
    page.locator(f"html[data-theme={scheme}]").wait_for()
    page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
    link = page.locator("article p a.reference:visible").first
    page.evaluate(AT_REST)
    at_rest = link.evaluate("e => getComputedStyle(e).color")
    link.hover()
    page.evaluate(AT_REST)
    assert link.evaluate("e => e.matches(':hover') && getComputedStyle(e).color") != at_rest
    link.evaluate("e => e.id = 'pointed-at'")
    assert serious_barriers(page, "#pointed-at", ["color-contrast"]) == []


CELLS = """[...document.querySelectorAll('article tbody td:not(:has(*))')]
    .filter(e => e.textContent.trim().length > 3 && e.checkVisibility())"""


@pytest.mark.parametrize(
    "fault",
    [
        "style.color = '#ddd'",
        "parentElement.style.setProperty('background', '#444', 'important')",
    ],
)
def test_one_barrier_among_many_cells_is_seen(visit, fault):
    """The last of hundreds of cells that look alike, less legible than the others."""
    page = visit(next(page for page in PAGES if page.endswith("15_claims.html"))).page
    page.evaluate(f"{CELLS}.at(-1).{fault}")
    found = serious_barriers(page, "article", ["color-contrast"])
    assert found and all(barrier.startswith("color-contrast") for barrier in found)


def test_a_request_that_leaves_is_seen(visit):
    """The tests above would notice: a picture from elsewhere is noted, and not fetched."""
    opened = visit(PAGES[0])
    with pytest.raises(Error):
        opened.page.evaluate("fetch('https://example.org/x.js')")
    assert opened.outside == ["https://example.org/x.js"]
