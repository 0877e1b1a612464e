"""Makes the built pages smaller, and adds the page for unknown addresses.

* Only pages with formulas load MathJax, which has two megabytes.
* The theme loads its icons twice, as fonts and as 1.5 megabytes of script, and preloads all
  its fonts. The fonts that are used are enough.
* Excerpts on the search page are plain text, without TeX (`search.js`).
* Renamed chapters leave a page at their old address that redirects to the new one.
* `404.html` is served at any address, so its links start from the site's address.
"""

import re
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from sphinx.errors import ExtensionError

LOST = """
<h1>There is no such page</h1>
<p>The address may be mistyped, or the page may have moved: chapters are numbered, and
numbers change.</p>
<p>Start from <a href="{root}">the opening page</a>, or <a href="search.html">search the
book</a>.</p>
"""
MOVED = {  # old address: new one
    "notebooks/04_training": "notebooks/05_training",
    "notebooks/05_table1": "notebooks/06_table1",
    "notebooks/10_attach": "notebooks/16_attach",
    "notebooks/11_adversarial": "notebooks/10_adversarial",
    "notebooks/12_cross_domain": "notebooks/11_cross_domain",
    "notebooks/13_segmentation": "notebooks/12_segmentation",
    "notebooks/14_query_maps": "notebooks/13_query_maps",
    "notebooks/15_levels": "notebooks/14_levels",
    "notebooks/16_running": "notebooks/17_running",
    "notebooks/17_claims": "notebooks/15_claims",
    "book/api/batch": "book/api/plan",
}
LEADS_ON = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<title>This page has moved</title>
<meta http-equiv="refresh" content="0; url={to}" />
<link rel="canonical" href="{to}" />
<meta name="robots" content="noindex" />
</head>
<body>
<main><h1>This page has moved</h1><p>It is now <a href="{to}">{to}</a>.</p></main>
</body>
</html>
"""
NEEDLESS = re.compile(
    r'\s*<script src="[^"]*/fontawesome/[^"]*\.js[^"]*"></script>'
    r'|\s*<link rel="preload" as="font"[^>]*/fontawesome/[^>]*>'
)


def lighten(app, page, template, context, doctree):
    """Leave MathJax out of pages without formulas; set the icon for home screens."""
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


def add_excerpts(app, page, template, context, doctree):
    """The search page's own script."""
    if page == "search":
        app.add_js_file("search.js", loading_method="defer")


def lost_page(app):
    """A page in the book's layout for unknown addresses."""
    root = app.builder.get_relative_uri("404", app.config.root_doc)
    yield "404", {"title": "No such page", "body": LOST.format(root=root)}, "page.html"


def finish(app, fault):
    """Remove what no page needs, and write redirects for pages that moved."""
    if fault or app.builder.format != "html" or app.builder.name != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        lighter = NEEDLESS.sub("", text)
        if path.name == "404.html" and path.parent == Path(app.outdir):
            lighter = from_anywhere(lighter, urlsplit(app.config.html_baseurl).path)
        if lighter != text:
            path.write_text(lighter, encoding="utf-8")
    for old, new in MOVED.items():
        page = Path(app.outdir, f"{old}.html")
        if new not in app.env.found_docs:  # only part of the book is built
            continue
        if page.exists():
            raise ExtensionError(f"{page} is a page of the book: remove {old} from MOVED")
        to = app.builder.get_relative_uri(old, new)
        page.write_text(LEADS_ON.format(to=to), encoding="utf-8")
    for script in Path(app.outdir, "_static/vendor/fontawesome").rglob("*.js*"):
        script.unlink()


def from_anywhere(page: str, start: str) -> str:
    """A page whose relative links start from `start`, at any address."""
    page = re.sub(r'href="#', 'href="404.html#', page)
    return page.replace("<head>", f'<head>\n    <base href="{escape(start)}" />', 1)


def setup(app):
    app.connect("html-page-context", add_excerpts, priority=400)
    app.connect("html-page-context", lighten, priority=900)
    app.connect("html-collect-pages", lost_page)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
