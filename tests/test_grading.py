"""The assignments, graded by nbgrader: right, wrong and tampered submissions.

They are made from the notebooks as they are stored, so that no book has to be built.
"""

import os
import subprocess
import sys
from pathlib import Path

import assignments
import nbformat
import pytest
import teacher_pack

pytest.importorskip("nbgrader", reason="nbgrader grades: pip install lpa_core[teach]")
ROOT = Path(__file__).resolve().parents[1]

CHAPTER = "02_estimator"  # with two exercises in code


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A course with one assignment, and the students' version of it."""
    folder = tmp_path_factory.mktemp("class") / "course"
    notebook = nbformat.read(ROOT / f"notebooks/{CHAPTER}.ipynb", as_version=4)
    answers = {i: e for e in teacher_pack.exercises(CHAPTER, notebook) for i in e.cells}
    for index, exercise in answers.items():
        cell = notebook.cells[index]
        cell.source = teacher_pack.solved(cell.source, exercise.solution)
        cell.metadata = {"tags": ["exercise"]}
    made = assignments.assignment(CHAPTER, "It", teacher_pack.needed(notebook.cells))
    assignments.write_course(folder, {CHAPTER: made})
    nbgrader(folder, "generate_assignment", CHAPTER, "--create")
    return folder


def nbgrader(folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "nbgrader", *words]
    # It calls alembic by name, in an environment that is not active too.
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": programs}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_students_get_neither_solutions_nor_hidden_tests(course):
    text = (course / f"release/{CHAPTER}/{CHAPTER}.ipynb").read_text(encoding="utf-8")
    assert "def check_estimate" in text and "your lines" in text
    for hidden in ("np.tanh(", "softmax(dim=1)", "HIDDEN TESTS", "startswith"):
        assert hidden not in text, hidden


def hand_in(course: Path, student: str, written: dict[str, str], tampered=False) -> None:
    """A submission with `written` in the solution cells, by their function's name."""
    notebook = nbformat.read(course / f"release/{CHAPTER}/{CHAPTER}.ipynb", as_version=4)
    for cell in notebook.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        if grade_id in written:
            cell.source = written[grade_id]
        elif tampered and grade_id.startswith("check_"):
            cell.source = f"def {grade_id}(function):\n    return 'right'"
    folder = course / "submitted" / student / CHAPTER
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / f"{CHAPTER}.ipynb")


RIGHT = {
    "tanh_score": "def tanh_score(local, g, u):\n"
    '    return np.einsum("c,chw->hw", u, np.tanh(local + g[:, None, None]))',
    "estimate": "def estimate(local, g):\n"
    '    scores = torch.einsum("bchw,bc->bhw", local, g)\n'
    "    a = scores.flatten(1).softmax(dim=1).view_as(scores)\n"
    '    return torch.einsum("bhw,bchw->bc", a, local), a',
}
WRONG = {name: code.replace("np.tanh(", "(").replace("dim=1", "dim=0")
         for name, code in RIGHT.items()}  # fmt: skip


def test_right_and_wrong_submissions_get_their_points(course):
    hand_in(course, "right", RIGHT)
    hand_in(course, "half", WRONG | {"estimate": RIGHT["estimate"]})
    hand_in(course, "wrong", WRONG)
    hand_in(course, "cheat", WRONG, tampered=True)
    hand_in(course, "empty", {})
    nbgrader(course, "autograde", CHAPTER, "--create")
    nbgrader(course, "export", "--to", "grades.csv")
    import pandas as pd

    grades = pd.read_csv(course / "grades.csv").set_index("student_id")
    assert grades["score"].to_dict() == {
        "right": 2, "half": 1, "wrong": 0, "cheat": 0, "empty": 0
    }  # fmt: skip
    assert set(grades["max_score"]) == {2}
