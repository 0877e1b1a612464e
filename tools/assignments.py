"""The exercises in code as assignments for nbgrader; their checks are the hidden tests.

A student's function is a solution cell. The check is in a locked cell, which nbgrader
restores from the source for grading, and a hidden assertion requires that it passes.
"""

import ast
import copy
import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

CONFIG = """c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "attention"
c.ClearSolutions.code_stub = {"python": "# your lines\\nraise NotImplementedError"}
"""


def marked(cell, grade_id: str, points: int = 0):
    """A cell with nbgrader's metadata: a test with points, or a solution without."""
    cell.metadata = {
        "nbgrader": {
            "grade": points > 0,
            "grade_id": grade_id,
            "locked": points > 0,
            "schema_version": 3,
            "solution": points == 0,
            "task": False,
        }
        | ({"points": points} if points else {})
    }
    return cell


def split(source: str) -> tuple[str, str, str]:
    """The solved cell of an exercise: its function's name, the solution, and the check."""
    name = re.findall(r"^def check_(\w+)\(function\)", source, re.MULTILINE)[0]
    start = next(
        node.lineno
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == f"check_{name}"
    )
    lines = source.splitlines()
    check = [line for line in lines[start - 1 :] if not line.startswith("assert check_")]
    return name, "\n".join(lines[: start - 1]).strip(), "\n".join(check).strip()


def assignment(name: str, title: str, needed: list) -> nbformat.NotebookNode:
    """A chapter's exercises in code, with the cells that they need.

    Args:
        needed: these cells of the instructors' notebook, in order (`teacher_pack.needed`).
    """
    cells = [new_markdown_cell(f"# {title}: exercises in code")]
    for cell in needed:
        if "exercise" not in cell.metadata.get("tags", []):
            cell = copy.deepcopy(cell)
            cell.outputs, cell.execution_count = [], None
            cells.append(cell)
            continue
        function, solution, check = split(cell.source)
        body = f"### BEGIN SOLUTION\n{solution}\n### END SOLUTION"
        hidden = (
            "### BEGIN HIDDEN TESTS\n"
            f'assert check_{function}({function}).startswith("right")\n'
            "### END HIDDEN TESTS"
        )
        cells.append(
            new_markdown_cell(f"Write `{function}`. The chapter says what it does.")
        )
        cells.append(marked(new_code_cell(body), function))
        cells.append(marked(new_code_cell(f"{check}\n{hidden}"), f"check_{function}", 1))
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata["kernelspec"] = {
        "display_name": "Python 3", "language": "python", "name": "python3"
    }  # fmt: skip
    return made


def write_course(target: Path, notebooks: dict[str, nbformat.NotebookNode]) -> None:
    """A course folder of nbgrader with one assignment per chapter."""
    target.mkdir(parents=True)
    (target / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    for name, notebook in notebooks.items():
        folder = target / "source" / name
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / f"{name}.ipynb")
