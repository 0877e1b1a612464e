"""Two lectures as slides, from the book's own figures, equations and numbers.

sphinx-revealjs turns the pages of `teaching/slides` into reveal.js slides. Their contents
come from the executed chapters and the records; a page that refers to something missing is
an error. The slides need no server and no internet.
"""

import base64
import contextlib
import io
import json
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
from directives import blocks, glued, options
from pdf import browser_program
from playwright.sync_api import sync_playwright
from readme import against_rivals
from sphinx.cmd.build import build_main
from sphinx_revealjs.utils import get_revealjs_path

from lpa_core.results import (
    claims_overview,
    difference_text,
    judge_claims,
    paper,
    read_measurements,
    read_records,
)
from lpa_core.results.parts import FULL

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "teaching/slides"
# The parts of reveal.js that a lecture loads.
KEPT = (
    "LICENSE",
    "dist/reset.css",
    "dist/reveal.css",
    "dist/reveal.js",
    "dist/theme/white.css",
    "dist/theme/fonts/source-sans-pro",
    "plugin/notes/notes.js",
)
# Pictures that stand in for an interactive page, which `tools/lab.py` draws.
STILL = re.compile(r'<img src="\.\./_static/lab/data/([\w.-]+)"[^>]* alt="([^"]+)"')
PICTURES = {"image/svg+xml": "svg", "image/png": "png"}


class SlideError(ValueError):
    """A page cannot be turned into slides."""


def image(name: str, alt: str) -> str:
    """MyST: a picture from the folder `figures`, in the free space of its slide."""
    return f"```{{image}} figures/{name}\n:alt: {alt}\n:class: r-stretch\n```"


def collect(
    chapters: dict[str, nbformat.NotebookNode], root: Path, lab: Path, figures: Path
) -> dict[str, object]:
    """The contents that a page may use; pictures are written into the folder `figures`.

    Args:
        chapters: the executed chapters, by name.
        root: the repository, for the opening page's pictures and the drawings.
        lab: the folder of the interactive pages' pictures, `_build/lab/data`.

    Returns:
        `number`: the values that each chapter passes to its text; `equation`, `theorem` and
        `figure` by label; and the results of `measured`.
    """
    number, equation, theorem, figure = {}, {}, {}, {}
    figures.mkdir(parents=True, exist_ok=True)

    def read(text: str, folder: Path) -> None:
        for block in blocks(text):
            given = options(block)
            label = given.get("label") or given.get("name", "")
            if block["name"] == "math":
                equation[label] = f"$$\n{block['body'].strip()}\n$$"
            elif block["name"] == "prf:theorem":
                theorem[label] = block["body"].strip()
            elif block["name"] in ("figure", "image"):
                path = (folder / block["title"].strip()).resolve()
                shutil.copy(path, figures)
                figure[label or path.stem] = image(path.name, given.get("alt", ""))
        for name, alt in STILL.findall(text):
            shutil.copy(lab / name, figures)
            figure[Path(name).stem] = image(name, alt)

    opening = root / "book/intro.md"
    read(opening.read_text(encoding="utf-8"), opening.parent)
    for name, notebook in chapters.items():
        number[name] = glued(notebook)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                read(cell.source, root / "notebooks")
                continue
            shown = cell.metadata.get("mystnb", {})
            if "figure" not in shown:
                continue
            for kind, data in pictures(cell):
                label = shown["figure"]["name"]
                (figures / f"{label}.{kind}").write_bytes(data)
                figure[label] = image(f"{label}.{kind}", shown["image"]["alt"])
    return {
        "number": number,
        "equation": equation,
        "theorem": theorem,
        "figure": figure,
        **measured(),
    }


def pictures(cell: nbformat.NotebookNode) -> list[tuple[str, bytes]]:
    """(suffix, content) of each picture that a code cell shows."""
    found = []
    for output in cell.outputs:
        for mime, suffix in PICTURES.items():
            if data := output.get("data", {}).get(mime):
                found.append(
                    (suffix, data.encode() if suffix == "svg" else base64.b64decode(data))
                )
                break
    return found


def measured() -> dict[str, object]:
    """The results in the records, as Markdown tables.

    Returns:
        `paper`: errors in per cent of its Table 1, by network and data set; `rivals`: the
        results on the first claim on CIFAR-10, and `how`, the training runs; `claims`: how
        many parts of each claim have which verdict.
    """
    records = read_records()
    found = [(what, f) for what, f in against_rivals(records, "cifar10") if f is not None]
    rivals = [[what, difference_text(f.measured), f.verdict] for what, f in found]
    overview = claims_overview(judge_claims(records, read_measurements()))
    overview = overview.drop(columns="at equal cost")
    return {
        "rivals": table(
            ["`vgg-att2` compared with", "points fewer (95 %)", "verdict"], rivals
        ),
        "how": next((f.how for _, f in found if not f.part.endswith(FULL)), "not run"),
        "claims": table(list(overview.columns), overview.to_numpy().tolist()),
        "paper": {
            network: {data: f"{figure.mean:.2f}" for data, figure in row.items() if figure}
            for network, row in paper.table1().items()
        },
    }


def table(head: list[str], rows: list[list]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def lectures() -> dict[str, list[int]]:
    """Minutes of each slide, from the start of its notes, by the lecture's page."""
    return {
        f"slides/{page.stem}.html": list(
            map(int, re.findall(r"^\[(\d+) min\]", page.read_text("utf-8"), re.MULTILINE))
        )
        for page in sorted(PAGES.glob("*.md"))
    }


def write_slides(
    target: Path, chapters: dict[str, nbformat.NotebookNode], lab: Path, root: Path = ROOT
) -> bool:
    """Write the lectures to the folder `target`: one HTML file each, and their assets.

    If Chromium is installed, each is also printed, two slides per page, without notes.

    Returns:
        Whether they were printed.

    Raises:
        SlideError: a page refers to a number, equation or figure that does not exist.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="slides-") as folder:
        source = Path(folder) / "source"
        shutil.copytree(PAGES, source)
        shown = collect(chapters, root, lab, source / "figures")
        (source / "shown.json").write_text(json.dumps(shown), encoding="utf-8")
        static = source / "_static"
        static.mkdir()
        shutil.move(source / "slides.css", static)
        shutil.copy(root / "book/_static/mathjax/tex-svg-full.js", static / "mathjax.js")
        made = Path(folder) / "made"
        words = ["-q", "-W", "--keep-going", "-b", "revealjs", str(source), str(made)]
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            failed = build_main(words)
        if failed:
            raise SlideError(f"the slides were not made:\n{said.getvalue().strip()}")
        built = [made / f"{page.stem}.html" for page in sorted(PAGES.glob("*.md"))]
        for lecture in built:
            shutil.copy(lecture, target)
        shutil.copytree(made / "_images", target / "_images")
        for name in ("mathjax.js", "slides.css"):
            (target / "_static").mkdir(exist_ok=True)
            shutil.copy(static / name, target / "_static")
        for name in KEPT:
            path, copied = get_revealjs_path() / name, target / "_static/revealjs" / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy)(path, copied)
    program = browser_program()
    if program:
        print_slides(program, [target / lecture.name for lecture in built])
    return program is not None


def print_slides(program: str, pages: list[Path]) -> None:
    """A PDF beside each lecture, two slides per page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        for lecture in pages:
            page = browser.new_page(color_scheme="light")
            page.goto(f"{lecture.resolve().as_uri()}?print-pdf", wait_until="load")
            page.wait_for_function("window.MathJax?.startup?.promise !== undefined")
            page.evaluate("() => MathJax.startup.promise.then(() => null)")
            page.wait_for_selector(".pdf-page")
            page.pdf(path=lecture.with_suffix(".pdf"), prefer_css_page_size=True)
        browser.close()
