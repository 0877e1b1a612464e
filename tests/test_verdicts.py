"""One rule for verdicts: no chapter has another, and none prints a second verdict.

Guarded: over the executed chapters, the README and the opening page, that one difference
has one verdict wherever it stands; that intervals and tests are computed in one module.
"""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from test_notebooks import CHAPTERS, executed  # noqa: F401 - a fixture

from lpa_core.results.compare import HOLDS, OPPOSITE, VERDICTS

ROOT = Path(__file__).resolve().parents[1]
NUMBER = r"([+-]\d+(?:\.\d+)?(?:e-?\d+)?)"
SAID = "|".join(VERDICTS)
IN_TEXT = re.compile(rf"{NUMBER} \({NUMBER} to {NUMBER}\): ({SAID})")
IN_MARKDOWN = re.compile(rf"\| {NUMBER} \| {NUMBER} to {NUMBER} \|.*?\| ({SAID}) \|")

Printed = tuple[tuple, str]  # what tells a difference from others, and its verdict


def turned(mean: str, low: str, high: str, verdict: str) -> Printed:
    """A difference by its numbers, turned so that it is positive, and so the verdict."""
    numbers = [float(n) for n in (mean, low, high)]
    if numbers[0] < 0:
        numbers = [-numbers[0], -numbers[2], -numbers[1]]
        other = {HOLDS: OPPOSITE, OPPOSITE: HOLDS}
        verdict = other.get(verdict, verdict)
    return tuple(numbers), verdict


def in_table(frame: pd.DataFrame) -> Iterator[Printed]:
    """Of a table of findings: by set and words, and by its numbers."""
    for row in frame.to_dict("records"):
        assert row["verdict"] in VERDICTS, row
        yield (row["set"], row["difference"]), row["verdict"]
        if row["95 % interval"]:
            low, high = row["95 % interval"].split(" to ")
            yield turned(row["measured"], low, high, row["verdict"])


def printed(notebook: nbformat.NotebookNode) -> Iterator[Printed]:
    """Every verdict in the outputs of a chapter that stands beside its difference."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            texts = [output.get("text", "")]
            for kind, text in output.get("data", {}).items():
                is_one = kind == "text/html" and "verdict" in text
                for frame in tables(text) if is_one else ():
                    if "verdict" in frame.columns:
                        wanted = {"set", "difference", "measured", "95 % interval"}
                        assert wanted <= set(frame.columns), (
                            f"a table has verdicts without their differences: "
                            f"{list(frame.columns)}; use chapters.claim_table"
                        )
                        yield from in_table(frame)
                if kind.endswith(("text/html", "text/plain")):
                    texts.append(text)
            for text in texts:
                said = any(word in text for word in VERDICTS)
                for found in IN_TEXT.findall(text) if said else ():
                    yield turned(*found)


def tables(html: str) -> Iterator[pd.DataFrame]:
    """The tables of one output, their cells as text."""
    for table in BeautifulSoup(html, "html.parser").find_all("table"):
        rows = [
            [cell.get_text().strip() for cell in row.find_all(("th", "td"))]
            for row in table.find_all("tr")
        ]
        yield pd.DataFrame(rows[1:], columns=rows[0])


def contradictions(places: dict[str, list[Printed]]) -> dict[tuple, dict[str, list[str]]]:
    """Differences that have several verdicts: which, and where each stands."""
    seen: dict[tuple, dict[str, list[str]]] = {}
    for place, found in places.items():
        for key, verdict in found:
            seen.setdefault(key, {}).setdefault(verdict, []).append(place)
    return {key: said for key, said in seen.items() if len(said) > 1}


@pytest.mark.book
def test_a_difference_has_one_verdict_in_the_whole_book(executed):  # noqa: F811
    places = {name: list(printed(executed(name))) for name in CHAPTERS}
    for page in ("README.md", "book/intro.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        places[page] = [turned(*found) for found in IN_MARKDOWN.findall(text)]
    assert contradictions(places) == {}
    assert {"15_claims", "09_resolution", "06_table1"} <= {
        p for p, f in places.items() if f
    }
    assert places["README.md"]


def a_notebook(*outputs) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell("", outputs=list(outputs))
    return nbformat.v4.new_notebook(cells=[cell])


def a_table(**changes) -> nbformat.NotebookNode:
    row = {"set": "cifar10", "difference": "error of a - b", "measured": "+0.30"}
    row |= {"95 % interval": "-0.40 to +1.00", "verdict": "cannot be decided"}
    html = pd.DataFrame([row | changes]).to_html(index=False)
    return a_notebook(nbformat.v4.new_output("display_data", {"text/html": html}))


def test_two_verdicts_on_one_difference_are_found():
    same = list(printed(a_table()))
    assert contradictions({"one": same, "two": same}) == {}
    for other in (
        a_table(verdict="does not hold"),  # by its words
        a_table(difference="a beats b", verdict="holds"),  # by its numbers
        a_notebook(
            nbformat.v4.new_output("stream", text="-0.30 (-1.00 to +0.40): does not hold")
        ),
    ):
        found = contradictions({"one": same, "two": list(printed(other))})
        assert found
        for said in found.values():
            assert sorted(itertools.chain(*said.values())) == ["one", "two"]
    flipped = a_notebook(
        nbformat.v4.new_output("stream", text="-0.30 (-1.00 to +0.40): cannot be decided")
    )
    assert contradictions({"one": same, "two": list(printed(flipped))}) == {}


def test_a_table_of_verdicts_says_of_which_differences():
    html = pd.DataFrame({"what": ["a"], "verdict": ["better"]}).to_html()
    other = a_notebook(nbformat.v4.new_output("display_data", {"text/html": html}))
    with pytest.raises(AssertionError, match="verdicts without their differences"):
        list(printed(other))


# What decides, and what an interval is made of.
OWN_RULE = re.compile(
    r"1\.96|\bttest|confidence_interval|\bt\.interval|\bt\.ppf|multipletests"
    r"|def verdict\((?!self)|no difference shown"
)


def code_of(notebook: Path) -> Iterator[str]:
    """The code of a chapter but for its exercises, which check the reader's answers."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "def check_" not in source:
            yield source


def test_intervals_and_verdicts_are_computed_in_one_module():
    sources = {
        path: path.read_text(encoding="utf-8")
        for folder in ("lpa_core", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "compare.py"
    }
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        sources[path] = "\n".join(code_of(path))
    others = {
        f"{path.relative_to(ROOT)}: {found}"
        for path, text in sources.items()
        for found in OWN_RULE.findall(text)
    }
    assert others == set()
