"""Handouts for a class: each chapter in two versions, for students and for instructors.

    python tools/teacher_pack.py EXECUTED TARGET

EXECUTED is the folder of executed chapters (`_build/executed`, the source of numbers,
figures and times) and of the executed lab. TARGET is the folder to write; TARGET.zip has
the same contents. `student/` has the chapters without solutions, with the given figures and
room for answers. `instructor/` has all outputs, the solutions, and each code exercise
solved in a cell that has run its own check. Both are plain notebooks: syntax that only the
book's builder understands is replaced by text that Jupyter and Colab can show. The pack
also has the lab, slides, questions, an exam, projects and assignments for nbgrader.
"""

import argparse
import ast
import copy
import math
import os
import re
import shutil
import symtable
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import yaml
from assignments import assignment, write_course
from directives import FENCED, blocks, glued, options
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_markdown_cell
from pybtex.database import Entry, parse_file
from readme import parts
from slides import PICTURES, SlideError, lectures, write_slides
from teaching_pages import (
    CHAPTERS,
    LAB,
    as_html,
    in_words,
    write_exam,
    write_lab,
    write_projects,
    write_questions,
)

ROOT = Path(__file__).resolve().parents[1]
TEACHING = ROOT / "teaching"
README = TEACHING / "pack.md"  # the beginning of the pack's README
LARGEST = 40e6  # bytes of the archive
PER_EXERCISE = {False: 8, True: 15}  # minutes: by hand, in code
PROOFS = {"prf:theorem": "Theorem", "prf:corollary": "Corollary", "prf:lemma": "Lemma"}
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DEFINITION = re.compile(r"^(?![ |*#>-])([^\n]+)\n: +", re.MULTILINE)
NUMBERS = (
    "*Numbers in the text are those of the book's own run. The results of your run appear "
    "below the cells.*"
)
YOURS = "*Your answer:*\n\n&nbsp;"


class PackError(ValueError):
    """A chapter cannot be turned into a handout."""


@dataclass
class Exercise:
    label: str
    title: str
    solution: str | None = None  # its text
    cells: list[int] = field(default_factory=list)  # the code cells that belong to it


@dataclass
class Book:
    """The targets that a page of the book may refer to."""

    numbers: dict[str, str]  # of equations, figures, theorems and exercises, by label
    works: dict[str, Entry]
    site: str
    repository: str
    order: dict[str, int] = field(default_factory=dict)  # a chapter's number, by its name
    published: bool = True  # whether these addresses exist


def number_labels(chapters: dict[str, nbformat.NotebookNode]) -> dict[str, str]:
    """The number that the book gives to each label: `3.2` is the second in chapter 3."""
    numbers = {}
    for number, notebook in enumerate(chapters.values(), start=1):
        counts: dict[str, int] = {}

        def count(kind: str, label: str | None, counts=counts, chapter=number) -> None:
            counts[kind] = counts.get(kind, 0) + 1
            if label:
                numbers[label] = f"{chapter}.{counts[kind]}"

        for cell in notebook.cells:
            if cell.cell_type == "code":
                if figure := cell.metadata.get("mystnb", {}).get("figure"):
                    count("figure", figure.get("name"))
                continue
            for block in blocks(cell.source):
                label = options(block).get("label") or options(block).get("name")
                if block["name"] in ("exercise", "figure"):
                    count(block["name"], label)
                elif block["name"] == "math" and label:
                    count("math", label)
                elif block["name"] in PROOFS:
                    count(block["name"], label)
    return numbers


# -------------------------------------------------------------- what MyST alone understands


def cited(work: Entry, in_brackets: bool) -> str:
    assert work.persons is not None and work.fields is not None
    people = work.persons.get("author", [])
    names = [" ".join(person.last_names) for person in people]
    who = names[0] if len(names) < 2 else " and ".join(names[:2]) if len(names) == 2 else ""
    who = who or f"{names[0]} et al."
    who = re.sub(r"[{}]", "", who)
    year = work.fields["year"]
    return f"({who}, {year})" if in_brackets else f"{who} ({year})"


def reference(work: Entry) -> str:
    """One line of a list of works."""
    assert work.fields is not None
    said = [cited(work, in_brackets=False)]
    for name in ("title", "booktitle", "journal", "publisher", "url"):
        if value := work.fields.get(name):
            said.append(re.sub(r"[{}\\]", "", value))
    return ". ".join(said) + "."


def plain(text: str, book: Book, values: dict[str, object], used: set[str]) -> str:
    """The book's Markdown converted for Jupyter and Colab; adds cited works to `used`."""

    def role(match: re.Match) -> str:
        name, content = match[1], match[2]
        target = re.fullmatch(r"(?s)(.*?)\s*<([^>]+)>", content)
        if name in ("cite:t", "cite:p"):
            keys = [key.strip() for key in content.split(",")]
            used.update(keys)
            return ", ".join(cited(book.works[key], name == "cite:p") for key in keys)
        if name == "glue:text":
            key, _, spec = content.partition(":")
            return format(values[key], spec)
        if name == "eq":
            return f"({book.numbers[content]})"
        if name == "numref":
            return f"figure {book.numbers[content]}"
        if name == "prf:ref":
            return f"theorem {book.numbers[content]}"
        return target[1] if target else f"`{content}`" if ":" in name else content

    def block(match: re.Match) -> str:
        name, title, body = match["name"], match["title"].strip(), match["body"].strip()
        number = book.numbers.get(options(match).get("label", ""))
        if name == "math":
            tag = rf" \tag{{{number}}}" if number else ""
            return f"$$\n{body}{tag}\n$$"
        if name == "exercise":
            return f"### Exercise {number}: {title}\n\n{body}"
        if name == "solution":
            return f"**Solution of exercise {book.numbers[title]}**\n\n{body}"
        if name in PROOFS:
            return f"**{PROOFS[name]} {number}{f' ({title})' if title else ''}.** {body}"
        if name == "prf:proof":
            return f"*Proof.* {body}{chr(10) * 2 if body.endswith('$$') else ' '}∎"
        if name == "figure":
            return f"![{options(match).get('alt', '')}]({title})\n\n*{body}*"
        raise PackError(f"no plain form of the directive {{{name}}} is known")

    text = FENCED.sub(block, text)
    text = DEFINITION.sub(r"**\1.** ", text)
    text = re.sub(r"\{([\w:-]+)\}`([^`]+)`", role, text)
    if not book.published:  # the text without the link
        text = re.sub(r"(?<!!)\[([^]]+)\]\(\.\./book/[\w-]+\.md[^)]*\)", r"\1", text)
    return re.sub(r"\]\(\.\./book/([\w-]+)\.md", rf"]({book.site}book/\1.html", text)


# -------------------------------------------------------------------- exercises and answers


def exercises(name: str, notebook: nbformat.NotebookNode) -> list[Exercise]:
    """The exercises of a chapter with their solutions. Raises PackError if one has none."""
    found: list[Exercise] = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            if found and found[-1].solution is None:
                found[-1].cells.append(index)
            continue
        for block in blocks(cell.source):
            if block["name"] == "exercise":
                found.append(
                    Exercise(options(block).get("label", ""), block["title"].strip())
                )
            elif block["name"] == "solution":
                match = [e for e in found if e.label == block["title"].strip()]
                if not match:
                    raise PackError(
                        f"{name}: a solution of {block['title'].strip()!r}, but no exercise"
                    )
                match[0].solution = block["body"]
    for exercise in found:
        if exercise.solution is None:
            raise PackError(f"{name}: exercise {exercise.title!r} has no solution")
        if exercise.cells and not CODE.search(exercise.solution):
            raise PackError(
                f"{name}: the solution of {exercise.title!r} has no code to run"
            )
    return found


def defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def solved(source: str, solution: str) -> str:
    """A student's cell in which the solution's code replaces the function to be written."""
    found = CODE.search(solution)
    assert found is not None  # `exercises` rejects a solution without code
    code = found[1].strip()
    names = set().union(*(defined(node) for node in ast.parse(code).body))
    lines = source.splitlines()
    open_ = [n for n in ast.parse(source).body if defined(n) & names]
    if not open_:
        raise PackError(f"the solution defines {sorted(names)}, the exercise none of them")
    for node in reversed(open_):
        lines[node.lineno - 1 : node.end_lineno] = []
    start = open_[0].lineno - 1
    lines[start:start] = code.splitlines()
    return asserted("\n".join(lines))


def asserted(source: str) -> str:
    """A cell that stops a run if its check, printed in the last line, fails."""
    printed = re.search(r"^print\((check_\w+\(\w+\))\)$", source, re.MULTILINE)
    if not printed:
        raise PackError("an exercise in code ends with print(check_NAME(NAME))")
    return f'{source}\nassert {printed[1]}.startswith("right")'


def handout(
    name: str, notebook: nbformat.NotebookNode, book: Book, for_students: bool
) -> nbformat.NotebookNode:
    """One chapter as a plain Jupyter notebook, from the executed `notebook`."""
    values, used = glued(notebook), set()
    answers = {i: e for e in exercises(name, notebook) for i in e.cells}
    cells = []
    figure = 0
    for index, cell in enumerate(notebook.cells):
        cell = copy.deepcopy(cell)
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            continue
        if cell.cell_type == "code":
            shown = cell.metadata.get("mystnb", {}).get("figure")
            cell.outputs = given(cell.outputs, for_students)
            cell.execution_count = None
            cell.metadata = {"tags": tags} if tags else {}
            if index in answers:
                if for_students:
                    cell.source = f"# Your turn\n{cell.source}"
                else:
                    exercise = answers[index]
                    assert exercise.solution is not None  # as `exercises` made sure
                    try:
                        cell.source = solved(cell.source, exercise.solution)
                    except PackError as error:
                        raise PackError(f"{name}: {exercise.title!r}: {error}") from None
                cell.outputs = []  # those of the unsolved cell
                cell.metadata = {"tags": [*tags, "exercise"]}
            cells.append(cell)
            if shown:
                figure += 1
                caption = plain(shown["caption"], book, values, used)
                cells.append(
                    new_markdown_cell(f"*Figure {book.order[name]}.{figure}: {caption}*")
                )
            continue
        by_hand = False
        text = cell.source
        for block in reversed(blocks(cell.source)):
            if block["name"] == "figure":
                figure += 1
            if block["name"] == "solution" and for_students:
                own = [
                    e
                    for e in exercises(name, notebook)
                    if e.label == block["title"].strip()
                ]
                room = "" if own[0].cells else YOURS
                text = text[: block.start()] + room + text[block.end() :]
                by_hand = by_hand or bool(room)
        text = plain(text, book, values, used)
        if text.strip():
            cells.append(new_markdown_cell(re.sub(r"\n{3,}", "\n\n", text).strip()))
    cells[0].source += f"\n\n{NUMBERS}"
    if used:
        works = sorted(reference(book.works[key]) for key in used)
        cells.append(new_markdown_cell("## Works\n\n" + "\n".join(f"* {w}" for w in works)))
    made = nbformat.v4.new_notebook(cells=cells, metadata=copy.deepcopy(notebook.metadata))
    made.metadata.pop("papermill", None)
    return made


def given(outputs: list, for_students: bool) -> list:
    """The outputs of a handout's cell: all of them, or for students only the figures."""
    kept = [
        output
        for output in outputs
        if "scrapbook" not in output.get("metadata", {}) and output.get("name") != "stderr"
    ]
    if for_students:
        kept = [output for output in kept if set(PICTURES) & set(output.get("data", {}))]
    for output in kept:
        if "execution_count" in output:
            output["execution_count"] = None
    return kept


# ---------------------------------------------------------------------- run what is solved


def names(source: str) -> tuple[set[str], set[str]]:
    """The global names that a cell binds, and those that it reads."""
    top = symtable.symtable(source, "<cell>", "exec")
    bound = {
        s.get_name()
        for s in top.get_symbols()
        if s.is_assigned() or s.is_imported() or s.is_namespace()
    }
    read, waiting = set(), [top]
    while waiting:
        table = waiting.pop()
        waiting += table.get_children()
        read |= {
            s.get_name()
            for s in table.get_symbols()
            if s.is_referenced() and (table is top or s.is_global())
        }
    return bound, read


def imports_of(source: str) -> str:
    nodes = ast.parse(source).body
    found = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(ast.unparse(node) for node in found)


def needed(listed: list) -> list:
    """The code cells of a notebook that its exercises need.

    If only a cell's imports are needed, only the imports are returned.
    """
    kept, wanted = [], set()
    for cell in reversed([cell for cell in listed if cell.cell_type == "code"]):
        bound, read = names(cell.source)
        imports = imports_of(cell.source)
        always = {"colab", "parameters", "exercise"} & set(cell.metadata.get("tags", []))
        if always or "notebook.begin(" in cell.source or bound & wanted - names(imports)[0]:
            kept.append(cell)
            wanted |= read
        elif bound & wanted:
            kept.append(nbformat.v4.new_code_cell(imports))
    return kept[::-1]


def run_solutions(name: str, notebook: nbformat.NotebookNode) -> None:
    """Run the solved exercises of an instructors' notebook, and add their output."""
    short = nbformat.v4.new_notebook(
        cells=copy.deepcopy(needed(notebook.cells)), metadata=notebook.metadata
    )
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            short,
            timeout=600,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
        )
        try:
            client.execute()
        except CellExecutionError as error:
            raise PackError(f"{name}: a solution does not run: {error}") from None
    solved = [c for c in short.cells if "exercise" in c.metadata.get("tags", [])]
    open_ = [c for c in notebook.cells if "exercise" in c.metadata.get("tags", [])]
    for cell, done in zip(open_, solved, strict=True):
        cell.outputs = given(done.outputs, for_students=False)


# --------------------------------------------------------------------------------- the pack


def measured(notebook: nbformat.NotebookNode) -> float:
    """Seconds that papermill took to execute a whole notebook."""
    return notebook.metadata["papermill"]["duration"]


def title_of(notebook: nbformat.NotebookNode) -> str:
    return re.findall(r"^# (.+)$", notebook.cells[0].source, re.MULTILINE)[0]


def machine(notebook: nbformat.NotebookNode) -> str:
    """The processor that a chapter ran on, as `notebook.begin` printed it."""
    for cell in notebook.cells:
        if "notebook.begin(" in cell.source:
            lines = "".join(o.get("text", "") for o in cell.outputs).splitlines()
            threads = re.search(r"computing on (.+)", lines[1])
            return f"{lines[2].partition(', python')[0]} ({threads[1] if threads else '?'})"
    return "an unknown machine"


def minutes(notebook: nbformat.NotebookNode, found: list[Exercise]) -> int:
    """The approximate time that a class needs for a chapter, in steps of five minutes.

    Reading at 100 words per minute, without code, plus PER_EXERCISE.
    """
    prose = [FENCED.sub("", c.source) for c in notebook.cells if c.cell_type == "markdown"]
    reading = len(" ".join(prose).split()) / 100
    answering = sum(PER_EXERCISE[bool(exercise.cells)] for exercise in found)
    return 5 * math.ceil((reading + answering) / 5)


def origin(book: Book) -> str:
    """Where the pack comes from, and whether its notebooks can install `lpa_core`."""
    if book.published:
        return f"Made from {book.repository}."
    return (
        "Made from a copy of the book that has no repository yet. So neither Colab nor the "
        "first cell of a notebook can download `lpa_core`: install it first with "
        "`pip install FOLDER`, where FOLDER is your copy of the book."
    )


def contents(chapters: dict[str, nbformat.NotebookNode], lab: dict[str, float]) -> str:
    """Markdown table of the pack's contents, with class time and measured compute.

    Args:
        lab: seconds that the lab's notebooks took, by name.
    """
    exam = yaml.safe_load((TEACHING / "exam.yml").read_text(encoding="utf-8"))
    taught = yaml.safe_load(CHAPTERS.read_text(encoding="utf-8"))
    asked = sum(len(one["questions"]) for one in taught.values())
    times = [minutes(notebook, exercises(n, notebook)) for n, notebook in chapters.items()]
    rows = [
        ("a lab", "[sheet](lab/sheet.html), [plan](lab/plan.html)", "90",
         in_words(sum(lab.values()))),
        *(
            (f"lecture {n}", f"[{len(spoken)} slides]({page})", str(sum(spoken)), "–")
            for n, (page, spoken) in enumerate(lectures().items(), 1)
        ),
        (f"{len(chapters)} chapters", "`student/`, `instructor/`", str(sum(times)),
         in_words(sum(map(measured, chapters.values())))),
        (f"{asked} questions", "[asked](student/questions.html), "
         "[answered](instructor/questions.html)", "–", "–"),
        ("an exam", "[sheet](instructor/exam.html), [rubric](instructor/exam_rubric.html)",
         str(exam["minutes"]), "–"),
        ("three projects", "[briefs](student/projects.html), "
         "[notes](instructor/projects_notes.html)", "two weeks", "–"),
        ("assignments for nbgrader", "`grading/`", "–", "–"),
    ]  # fmt: skip
    head = ["| what | where | class minutes | compute, measured |", "|---|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def overview(
    chapters: dict[str, nbformat.NotebookNode],
    book: Book,
    trained: dict[str, str],
    lab: dict[str, float],
) -> str:
    """The instructor's overview: order, times, and what each exercise trains.

    Args:
        trained: what each exercise trains, by its label.
        lab: seconds that the lab's notebooks took, by name.

    Raises:
        PackError: `trained` has no entry for an exercise.
    """
    found = {name: exercises(name, notebook) for name, notebook in chapters.items()}
    times = {name: minutes(notebook, found[name]) for name, notebook in chapters.items()}
    titles = {name: title_of(notebook) for name, notebook in chapters.items()}
    text = README.read_text(encoding="utf-8").format(
        origin=origin(book),
        contents=contents(chapters, lab),
        by_hand=PER_EXERCISE[False],
        in_code=PER_EXERCISE[True],
        machine=machine(next(iter(chapters.values()))),
    )
    lines = [text.rstrip(), "", "## The chapters", ""]
    lines += [
        "| chapter | class, minutes | compute, seconds | needs |",
        "|---|---|---|---|",
    ]
    for name, notebook in chapters.items():
        head = notebook.cells[0].source
        needs = re.search(r"^You need (.+)", head, re.MULTILINE | re.DOTALL)
        linked = re.findall(r"\]\((\w+)\.ipynb\)", needs[1] if needs else "")
        link = f"[{book.order[name]} {titles[name]}](student/{name}.ipynb)"
        needs_first = ", ".join(str(book.order[other]) for other in linked) or "–"
        took = math.ceil(measured(notebook))
        lines.append(f"| {link} | {times[name]} | {took} | {needs_first} |")
    lines += ["", "## The exercises", "", "| exercise | kind | trains |", "|---|---|---|"]
    for name in chapters:
        for exercise in found[name]:
            if exercise.label not in trained:
                raise PackError(
                    f"{name}: {CHAPTERS.name} does not say what {exercise.label!r} trains"
                )
            number = book.numbers[exercise.label]
            kind = "in code, checked" if exercise.cells else "by hand or in words"
            link = f"[{number} {exercise.title}](instructor/{name}.ipynb)"
            lines.append(f"| {link} | {kind} | {trained[exercise.label]} |")
    return "\n".join(lines) + "\n"


def in_order(root: Path) -> list[str]:
    """The notebooks' names in the order of the book's chapters."""
    return [Path(file).name for _, files in parts(root) for file in files]


def make_pack(executed: Path, target: Path, root: Path = ROOT) -> int:
    """Write the pack of all chapters in `executed` or nothing; returns their number."""
    names = in_order(root)
    missing = [name for name in names if not (executed / f"{name}.ipynb").is_file()]
    if missing:
        raise PackError(f"not executed: {', '.join(missing)} (`make book` executes them)")
    chapters = {n: nbformat.read(executed / f"{n}.ipynb", as_version=4) for n in names}
    config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    book = Book(
        number_labels(chapters),
        parse_file(str(root / "book/references.bib")).entries,
        config["html"]["baseurl"],
        config["repository"]["url"],
        {name: number for number, name in enumerate(names, start=1)},
        not config["sphinx"]["config"]["unpublished"],
    )
    lab = executed / "teaching" / LAB.name
    if not lab.is_file():
        raise PackError(f"not executed: {LAB.name} (`make teacher-pack` executes it)")
    taught = yaml.safe_load(CHAPTERS.read_text(encoding="utf-8"))
    trained = {
        label: what for one in taught.values() for label, what in one["exercises"].items()
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pack-") as folder:
        new = Path(folder) / target.name
        made = {
            (who, name): handout(name, notebook, book, who == "student")
            for who in ("student", "instructor")
            for name, notebook in chapters.items()
        }
        solved = [(name, made["instructor", name]) for name in chapters]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(run_solutions, *zip(*solved, strict=True)))
        for (who, name), notebook in made.items():
            (new / who).mkdir(parents=True, exist_ok=True)
            copy_pictures(notebook, root, new)
            nbformat.write(notebook, new / who / f"{name}.ipynb")
        played = {n: measured(chapters[n]) for n in ("01_idea", "02_estimator")}
        ran = nbformat.read(lab, as_version=4)
        played["lab"] = measured(ran)
        (new / "README.md").write_text(overview(chapters, book, trained, played), "utf-8")
        try:
            write_lab(new / "lab", ran, played, machine(ran), given)
        except ValueError as error:
            raise PackError(str(error)) from None
        try:
            printed = write_slides(
                new / "slides", chapters, executed.parent / "lab/data", root
            )
        except SlideError as error:
            raise PackError(str(error)) from None
        if not printed:
            print("the slides were not printed: there is no Chromium here", file=sys.stderr)
        heads = {name: title_of(notebook) for name, notebook in chapters.items()}
        write_questions(new, heads)
        write_exam(new / "instructor")
        write_projects(new)
        course = {
            name: assignment(name, heads[name], needed(notebook.cells))
            for name, notebook in solved
        }
        write_course(new / "grading", course)
        for page in sorted(new.rglob("*.md")):
            page.with_suffix(".html").write_text(as_html(page), "utf-8")
        archive = Path(shutil.make_archive(str(new), "zip", folder, target.name))
        if archive.stat().st_size > LARGEST:
            raise PackError(
                f"the archive has {archive.stat().st_size / 1e6:.0f} MB, more than the "
                f"allowed {LARGEST / 1e6:.0f}: use smaller figures"
            )
        if target.exists():
            os.replace(target, Path(folder) / "old")
        os.replace(new, target)
        os.replace(archive, target.with_name(archive.name))
    return len(chapters)


def copy_pictures(notebook: nbformat.NotebookNode, root: Path, target: Path) -> None:
    """Copy pictures from the book's folders beside the handouts that show them."""
    for cell in notebook.cells:
        for picture in re.findall(r"!\[[^]]*\]\(\.\./(book/[^)]+)\)", cell.source):
            (target / picture).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / picture, target / picture)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("executed", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    try:
        count = make_pack(given.executed, given.target)
    except PackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{given.target}: {count} chapters for students and for instructors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
