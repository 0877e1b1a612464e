"""The built book in the system's Chromium: what the tests that open it share."""

import functools
import http.server
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build/html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
# The folder of the site's address, in which it is published.
FOLDER = urlsplit(CONFIG["html"]["baseurl"]).path
# The theme preloads its icons in a way that browsers refuse to files; the style sheet then
# loads the same ones.
ICONS = re.compile("webfonts|ERR_FAILED")
DISK = HTML.as_uri() + "/"
FLAGS = [
    "--no-sandbox",
    # Nothing leaves this machine, whatever a page asks for.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
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


@contextmanager
def serve() -> Iterator[str]:
    """The book's address here: its folder, and 404.html for what is not there."""

    class Pages(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

        def translate_path(self, path):
            inside = path.removeprefix(FOLDER) if path.startswith(FOLDER) else "outside"
            return super().translate_path(f"/{inside}")

        def send_error(self, code, *words):
            if code != 404:
                return super().send_error(code, *words)
            content = (HTML / "404.html").read_bytes()
            self.send_response(404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    handler = functools.partial(Pages, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}{FOLDER}"
        server.shutdown()
        thread.join()


@contextmanager
def launch() -> Iterator:
    """The browser, with a Playwright of its own."""
    with sync_playwright() as playwright, start(playwright.chromium) as browser:
        yield browser


@contextmanager
def start(kind, *flags: str) -> Iterator:
    """One more browser; a test that has none is skipped, and fails where CI runs it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        message = f"no Chromium here (looked for {', '.join(names)})"
        if os.environ.get("CI"):
            pytest.fail(f"{message}: CI installs one first, see .ci/run", pytrace=False)
        pytest.skip(message)
    browser = kind.launch(executable_path=program, args=[*FLAGS, *flags])
    yield browser
    browser.close()


class Visit:
    """A page in a tab of its own; it notes what goes wrong and who else is asked."""

    def __init__(self, context, home: str, page: str):
        self.home, self.outside, self.faults = home, [], []
        self.page = context.new_page()
        self.page.on("request", self.request)
        self.page.on("console", self.console)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("requestfailed", lambda r: self.faults.append(f"failed: {r.url}"))
        self.page.on("response", self.response)
        self.open(page)

    def request(self, request):
        if not request.url.startswith((self.home, "data:", "blob:")):
            self.outside.append(request.url)

    def console(self, message):
        # A browser asks each host for this one, of a page that names no icon as well.
        ours = not message.location["url"].endswith("/favicon.ico")
        if message.type == "error" and ours:
            self.faults.append(f"console: {message.text}")

    def response(self, response):
        if response.status >= 400:
            self.faults.append(f"{response.status}: {response.url}")

    def open(self, page: str):
        self.page.goto(urljoin(self.home, page), wait_until="load")
        # formulas change the layout: wait until they are set
        self.page.wait_for_function("() => window.MathJax?.startup?.promise ?? true")
        self.page.evaluate("() => window.MathJax?.startup?.promise?.then(() => null)")


WIDE = """() => {
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


# A page has thousands of highlighted words, cells of tables, items of lists. Of those that
# hold nothing but text, one of each kind and colour in each kind and colour of box is
# looked at: what they look like depends on nothing else.
REPEATED = """() => {
    const seen = new Set();
    for (const one of document.querySelectorAll('article :is(span, td, th, li, p, dd)')) {
        if (one.children.length) continue;
        // axe does not judge the contrast of a single character
        const long = one.textContent.trim().length > 1;
        const kinds = [getComputedStyle(one).color, long];
        for (let e = one; e && e.tagName !== 'ARTICLE'; e = e.parentElement)
            kinds.push(
                e.tagName,
                e.getAttribute('class')?.replace(/\\d+/g, ''),
                getComputedStyle(e).backgroundColor,
            );
        const kind = kinds.join(' ');
        one.toggleAttribute('data-repeated', seen.has(kind));
        seen.add(kind);
    }
}"""

# What may be otherwise in another theme or on a screen of another width.
OF_THEME_AND_WIDTH = [
    "aria-hidden-focus",
    "button-name",
    "color-contrast",
    "link-in-text-block",
    "link-name",
    "scrollable-region-focusable",
    "target-size",
]


def serious_barriers(page, part: str = "html", rules: list[str] | None = None) -> list[str]:
    """What axe finds on a page, or in the part of it that a selector names, by all rules or
    some."""
    page.evaluate(REPEATED)
    # elsewhere the sticky header may lie over a button, which is then too small a target
    page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
    # without preload: axe would fetch style sheets by itself, from the wrong folder
    options = {"resultTypes": ["violations"], "preload": False}
    # what axe finds by it is moderate at most, and it takes a fifth of the time
    options["rules"] = {"region": {"enabled": False}}
    if rules:
        options["runOnly"] = {"type": "rule", "values": rules}
    context = {"include": [[part]], "exclude": [["[data-repeated]"]]}
    found = Axe().run(page, context=context, options=options).response
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:150]}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
        if not any(
            violation["id"] == rule and part in node["html"] for rule, part in NOT_OURS
        )
    ]
