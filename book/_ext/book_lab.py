"""The interactive parts: only pages that contain one load its scripts.

A page places one with `<div class="lpa-lab" data-lab="score">…</div>`. tools/lab.py writes
its data into `_static/lab/data`.
"""

import re

NEEDED = {
    "score": ["lab/lab.js", "lab/score.js"],
    "explorer": ["lab/lab.js", "lab/explorer.js"],
    "own": ["lab/data/catalogue.js", "lab/lab.js", "lab/own.js"],
}


def add_scripts(app, page, template, context, doctree):
    """Add the scripts and styles of the interactive parts on a page."""
    parts = re.findall(r'data-lab="(\w+)"', context.get("body") or "")
    if not parts:
        return
    app.add_css_file("lab/lab.css")
    for file in dict.fromkeys(file for part in parts for file in NEEDED[part]):
        app.add_js_file(file, loading_method="defer")


def setup(app):
    app.connect("html-page-context", add_scripts, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
