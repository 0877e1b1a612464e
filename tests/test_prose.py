"""How the pages read: plain sentences, and code that fits its block."""

import json
import re
import warnings
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.front_matter import front_matter_plugin
from mdit_py_plugins.myst_role import myst_role_plugin

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports what setuptools has deprecated
    import textstat

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [
    ROOT / f"book/{name}.md" for name in ("intro", "audit", "deviations", "photograph")
]
READING_EASE = 55  # Flesch's "fairly difficult" ends at 60, "difficult" at 50
COLUMNS = 72  # what fits beside the contents in a window of 1280 pixels


def markdown(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def sentences(text: str) -> str:
    """Paragraphs and list items, with code, formulas and roles left out."""
    parser = MarkdownIt().enable("table").use(front_matter_plugin)
    parser = parser.use(dollarmath_plugin).use(myst_role_plugin)
    kept, table = [], 0
    for token in parser.parse(text):
        table += (token.type == "table_open") - (token.type == "table_close")
        heading = kept and kept[-1] == "#"
        if token.type == "heading_open":
            kept.append("#")
        elif token.type == "inline" and heading:
            kept.pop()
        elif token.type == "inline" and not table:
            words = [
                child.content if child.type == "text" else " "
                for child in token.children or ()
                if child.type in ("text", "softbreak")
            ]
            kept.append("".join(words))
    return "\n\n".join(kept)


def test_only_sentences_are_read():
    text = (
        "# A heading\n\nOne `code` and $x^2$ {glue:text}`n`.\n\n```python\nx = 1\n```\n\n"
    )
    text += "| a | b |\n|---|---|\n| c | d |\n\n* An item.\n"
    assert sentences(text).split() == ["One", "and", ".", "An", "item."]


@pytest.mark.parametrize("page", [*CHAPTERS, *PAGES], ids=lambda page: page.stem)
def test_a_page_is_easy_enough_to_read(page):
    found = textstat.flesch_reading_ease(sentences(markdown(page)))
    assert found >= READING_EASE


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda page: page.stem)
def test_code_fits_its_block(chapter):
    """No line that a reader sees is so long that its block scrolls sideways; solutions
    have blocks too."""
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    blocks = [
        "".join(cell["source"])
        for cell in cells
        if cell["cell_type"] == "code"
        and "remove-cell" not in cell["metadata"].get("tags", [])
    ]
    fenced = re.findall(r"```python\n(.*?)```", markdown(chapter), re.DOTALL)
    lines = [line for block in (*blocks, *fenced) for line in block.splitlines()]
    assert [line for line in lines if len(line) > COLUMNS] == []
