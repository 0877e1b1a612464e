"""Sphinx makes the slides from these pages.

`tools/slides.py` puts `shown.json` beside them, which holds what they ask for: numbers,
equations, theorems, tables and figures of the executed chapters, by their names.
"""

import json
from pathlib import Path

project = "Learn to Pay Attention"
language = "en"
extensions = ["myst_parser", "sphinx_revealjs"]
root_doc = "lecture-1"
exclude_patterns = ["_static"]
myst_enable_extensions = [
    "amsmath",
    "attrs_block",
    "colon_fence",
    "dollarmath",
    "substitution",
]
myst_substitutions = json.loads(Path("shown.json").read_text(encoding="utf-8"))
mathjax_path = "mathjax.js"
revealjs_static_path = ["_static"]
revealjs_style_theme = "white"
revealjs_css_files = ["slides.css"]
revealjs_script_conf = {
    "width": 1024,
    "height": 768,
    "margin": 0.04,
    "center": False,
    "hash": True,
    "slideNumber": "c/t",
    "transition": "none",
    "pdfSeparateFragments": False,
    "pdfMaxPagesPerSlide": 1,
}
revealjs_script_plugins = [
    {"name": "RevealNotes", "src": "revealjs/plugin/notes/notes.js"},
]
