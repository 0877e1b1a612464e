"""The interactive parts: pages that hold one load its scripts, other pages load nothing.

A page places one with `<div class="lpa-lab" data-lab="score">…</div>`. What it loads later
is written by tools/lab.py into `_static/lab/data`.
"""

import re

NEEDED = {
    "score": ["lab/lab.js", "lab/score.js"],
    "explorer": ["lab/lab.js", "lab/explorer.js"],
    "own": ["lab/data/catalogue.js", "lab/lab.js", "lab/own.js"],
}


def add_scripts(app, page, template, context, doctree):
    """The scripts and the style of the parts that a page holds."""
    parts = re.findall(r'data-lab="(\w+)"', context.get("body") or "")
    if not parts:
        return
    app.add_css_file("lab/lab.css")
    for file in dict.fromkeys(file for part in parts for file in NEEDED[part]):
        app.add_js_file(file, loading_method="defer")


def setup(app):
    app.connect("html-page-context", add_scripts, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
