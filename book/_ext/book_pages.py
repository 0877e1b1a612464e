"""How light the built pages are, and the page for addresses that lead nowhere.

* MathJax, two megabytes of it, is loaded by pages with formulas alone.
* The theme loads its icons twice, as fonts and as a megabyte and a half of script, and asks
  for all its fonts before any is needed. The fonts that are used are enough.
* `404.html` is served at whatever address was asked for: its links start from the site's.
"""

import re
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

LOST = """
<h1>There is no such page</h1>
<p>The address may be mistyped, or the page may have moved: chapters are numbered, and
numbers change.</p>
<p>Start from <a href="{root}">the opening page</a>, or <a href="search.html">search the
book</a>.</p>
"""
NEEDLESS = re.compile(
    r'\s*<script src="[^"]*/fontawesome/[^"]*\.js[^"]*"></script>'
    r'|\s*<link rel="preload" as="font"[^>]*/fontawesome/[^>]*>'
)


def lighten(app, page, template, context, doctree):
    """Leave MathJax out where there is nothing to set; name the icon of home screens."""
    if "pathto" not in context:
        return
    body = context.get("body") or ""
    if not re.search(r'class="[^"]*\bmath\b|text_latex', body):
        context["script_files"] = [
            file for file in context["script_files"] if "mathjax" not in str(file.filename)
        ]
    icon = escape(context["pathto"]("_static/touch-icon.png", resource=True))
    context["metatags"] = (
        context.get("metatags", "") + f'\n<link rel="apple-touch-icon" href="{icon}" />'
    )


def lost_page(app):
    """A page in the book's own frame for addresses that lead nowhere."""
    root = app.builder.get_relative_uri("404", app.config.root_doc)
    yield "404", {"title": "No such page", "body": LOST.format(root=root)}, "page.html"


def finish(app, fault):
    """Take out of the pages what none of them needs."""
    if fault or app.builder.format != "html" or app.builder.name != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        lighter = NEEDLESS.sub("", text)
        if path.name == "404.html" and path.parent == Path(app.outdir):
            lighter = from_anywhere(lighter, urlsplit(app.config.html_baseurl).path)
        if lighter != text:
            path.write_text(lighter, encoding="utf-8")
    for script in Path(app.outdir, "_static/vendor/fontawesome").rglob("*.js*"):
        script.unlink()


def from_anywhere(page: str, start: str) -> str:
    """A page whose relative links start from `start`, wherever it is shown."""
    page = re.sub(r'href="#', 'href="404.html#', page)
    return page.replace("<head>", f'<head>\n    <base href="{escape(start)}" />', 1)


def setup(app):
    app.connect("html-page-context", lighten, priority=900)
    app.connect("html-collect-pages", lost_page)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
