"""The built book, opened in the system's Chromium: wide, narrow, and without a network."""

import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import Error, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build/html"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
CHAPTERS = [chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]]
PAGES = [f"{name}.html" for name in (TOC["root"], *CHAPTERS)]
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

# Barriers that the tools put there and that a page cannot mend: (axe's rule, the element).
NOT_OURS = [
    # docutils writes role="list" over entries that have the role doc-biblioentry
    ("aria-required-children", 'class="citation-list"'),
]

pytestmark = pytest.mark.browser
every_page = pytest.mark.parametrize("page", PAGES)


@pytest.fixture(scope="module")
def site():
    """The book's address on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    handler = functools.partial(Quiet, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        message = f"no Chromium here (looked for {', '.join(names)})"
        if os.environ.get("CI"):
            pytest.fail(f"{message}: CI installs one first, see .ci/run", pytrace=False)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page in a browser of its own, which reaches nothing but the book."""

    def __init__(self, chromium, home: str, width: int = 1280, scheme: str = "light"):
        self.context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.home, self.outside, self.faults = home, [], []
        self.context.route("**/*", self.guard)
        self.context.set_default_timeout(120_000)  # machines are busy at times
        self.page = self.context.new_page()
        self.page.on("console", self.console)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("requestfailed", lambda r: self.faults.append(f"failed: {r.url}"))
        self.page.on("response", self.response)

    def guard(self, route):
        if route.request.url.startswith((self.home, "data:", "blob:")):
            return route.continue_()
        self.outside.append(route.request.url)
        return route.abort()

    def console(self, message):
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def response(self, response):
        if response.status >= 400:
            self.faults.append(f"{response.status}: {response.url}")

    def open(self, page: str):
        self.page.goto(urljoin(self.home, page), wait_until="networkidle")
        # formulas change the layout: wait until they are set
        self.page.wait_for_function("() => window.MathJax?.startup?.promise ?? true")
        self.page.evaluate("() => window.MathJax?.startup?.promise?.then(() => null)")
        return self.page


@pytest.fixture
def visit(chromium, site):
    """visit(page, width=1280, …) -> the Visit, its page open."""
    visits = []

    def start(page: str, width: int = 1280, home: str = site, **more) -> Visit:
        visits.append(Visit(chromium, home, width, **more))
        visits[-1].open(page)
        return visits[-1]

    yield start
    for one in visits:
        one.context.close()


@functools.cache
def soup(page: str) -> BeautifulSoup:
    return BeautifulSoup((HTML / page).read_text(encoding="utf-8"), "html.parser")


# ------------------------------------------------------------------------------- opening


@every_page
def test_page_opens_without_a_fault_and_asks_nobody_else(visit, page):
    seen = visit(page)
    assert seen.outside == []
    assert seen.faults == []
    assert seen.page.locator("article h1").count() == 1


@every_page
def test_page_reads_from_the_disk(visit, page):
    """Opened as a file, without any server."""
    seen = visit(page, home=HTML.as_uri() + "/")
    assert seen.outside == []
    # The theme preloads its icons in a way that browsers refuse to files; the style sheet
    # then loads the same ones.
    assert [f for f in seen.faults if not re.search("webfonts|ERR_FAILED", f)] == []
    icons = "900 16px 'Font Awesome 6 Free'"
    assert seen.page.evaluate("font => document.fonts.check(font)", icons)
    assert seen.page.locator("article").inner_text().strip()
    if soup(page).select(".math"):
        assert seen.page.locator("mjx-container").count() > 0


def test_the_address_itself_leads_to_the_first_page(visit):
    seen = visit("index.html")
    seen.page.wait_for_url(re.compile(re.escape(PAGES[0])))
    assert seen.faults == []


# --------------------------------------------------------------------------------- reading


@every_page
def test_formulas_are_set(visit, page):
    article = visit(page).page.locator("article")
    formulas = soup(page).select("article .math")
    assert article.locator("mjx-container").count() >= len(formulas)
    assert article.locator("mjx-merror, [data-mjx-error]").count() == 0
    prose = article.evaluate(
        """article => {
            const copy = article.cloneNode(true);
            const other = copy.querySelectorAll('pre, code, mjx-container, script');
            other.forEach(e => e.remove());
            return copy.textContent;
        }"""
    )
    assert not re.search(r"\$\$|\\\(|\\\[|\\begin\{", prose)


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
    silent = [img["src"][-60:] for img in article.select("img")
              if not img.get("alt", "").strip() or img["alt"].startswith(("_", "../_"))]
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
    file = re.compile(rf"{address}/(?:blob|edit)/{repository['branch']}/(.+)")
    files = {match[1] for link in links if (match := file.search(link))}
    assert files
    assert [f for f in files if not (ROOT / f).is_file()] == []
    if page.startswith("notebooks/"):
        assert any("colab.research.google.com" in link for link in links)
        assert any("mybinder.org" in link for link in links)


# ---------------------------------------------------------------------------------- shape


@every_page
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(visit, page, width):
    seen = visit(page, width)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    wide = seen.page.evaluate(
        """() => {
            const scrolls = e => e && e !== document.body && (
                ['auto', 'scroll', 'hidden'].includes(getComputedStyle(e).overflowX)
                || scrolls(e.parentElement));
            const article = document.querySelector('article');
            return [...article.querySelectorAll('*')].filter(e =>
                e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
                && e.offsetParent && !e.closest('svg') && !scrolls(e.parentElement)
                && !scrolls(e)
            ).map(e => e.outerHTML.slice(0, 100));
        }"""
    )
    assert wide == []


def test_search_finds_a_word_of_the_book(visit):
    seen = visit("search.html?q=compatibility")
    hits = seen.page.locator("#search-results li a")
    hits.first.wait_for()
    assert "notebooks/" in " ".join(h.get_attribute("href") for h in hits.all())
    assert seen.outside == []


# ---------------------------------------------------------------------------- access to all


@every_page
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_barrier(visit, page, scheme):
    seen = visit(page, scheme=scheme)
    results = Axe().run(seen.page)
    barriers = [
        f"{violation['id']} ({violation['impact']}): {node['html'][:150]}"
        for violation in results.response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
        if not any(
            violation["id"] == rule and part in node["html"] for rule, part in NOT_OURS
        )
    ]
    assert barriers == []


def test_the_guard_sees_a_request_that_leaves(visit):
    """The tests above would notice: a picture from elsewhere is caught and blocked."""
    seen = visit(PAGES[0])
    with pytest.raises(Error):
        seen.page.evaluate("fetch('https://example.org/x.js')")
    assert seen.outside == ["https://example.org/x.js"]
