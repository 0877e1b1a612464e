"""The pages of the teacher pack besides chapters: lab, questions, and pages as HTML."""

import copy
import math
import re
from pathlib import Path

import nbformat
import yaml
from markdown_it import MarkdownIt

TEACHING = Path(__file__).resolve().parents[1] / "teaching"
LAB = TEACHING / "lab.ipynb"
CHAPTERS = TEACHING / "chapters.yml"
LAB_LIMIT = 20 * 60  # seconds of compute that the lab may take
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
:root {{ color-scheme: light dark }}
body {{ max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 sans-serif }}
table {{ border-collapse: collapse }}
td, th {{ border: 1px solid; padding: .2rem .5rem; text-align: left }}
@media print {{ body {{ margin: 0; font-size: 11pt }} li, tr {{ break-inside: avoid }} }}
</style></head><body>
{body}</body></html>
"""


def as_html(page: Path) -> str:
    """A Markdown page as HTML that can be opened without a server and printed."""
    text = page.read_text(encoding="utf-8")
    title = re.findall(r"^# (.+)$", text, re.MULTILINE)[0]
    return PAGE.format(
        title=title, body=MarkdownIt("commonmark").enable("table").render(text)
    )


def in_words(seconds: float) -> str:
    """A measured duration in words, rounded up."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min"


def write_lab(target: Path, lab, durations: dict[str, float], machine: str, given) -> None:
    """The lab's sheet, its plan with measured times, and two versions of its notebook.

    Args:
        lab: the executed notebook.
        durations: seconds that the lab's three notebooks took, by name.
        given: which outputs a handout keeps, `teacher_pack.given`.

    Raises:
        ValueError: they took longer than a lab may.
    """
    total = sum(durations.values())
    if total > LAB_LIMIT:
        raise ValueError(
            f"the lab's notebooks took {in_words(total)}, "
            f"but may take at most {in_words(LAB_LIMIT)}"
        )
    target.mkdir(parents=True)
    plan = (TEACHING / "lab_plan.md").read_text(encoding="utf-8")
    times = {name: in_words(seconds) for name, seconds in durations.items()}
    plan = plan.format(machine=machine, total=in_words(total), **times)
    (target / "plan.md").write_text(plan, encoding="utf-8")
    sheet = (TEACHING / "lab_sheet.md").read_text(encoding="utf-8")
    (target / "sheet.md").write_text(sheet, encoding="utf-8")
    for who in ("student", "instructor"):
        made = copy.deepcopy(lab)
        made.metadata.pop("papermill", None)
        for cell in made.cells:
            tags = cell.metadata.get("tags", [])
            cell.metadata = {"tags": tags} if tags else {}
            if cell.cell_type == "code":
                cell.execution_count = None
                cell.outputs = [] if who == "student" else given(cell.outputs, False)
        nbformat.write(made, target / f"{who}.ipynb")


def write_questions(target: Path, titles: dict[str, str]) -> None:
    """A page of questions for students, and one with the answers for instructors.

    Args:
        titles: the chapters' titles by name, in the book's order.
    """
    taught = yaml.safe_load(CHAPTERS.read_text(encoding="utf-8"))
    pages = {"student": ["# Questions"], "instructor": ["# Questions and answers"]}
    for chapter, (name, title) in enumerate(titles.items(), 1):
        for who, lines in pages.items():
            lines += ["", f"## {chapter} {title}", ""]
            for number, question in enumerate(taught[name]["questions"], 1):
                lines.append(
                    f"{number}. *{question['kind'].capitalize()}.* {question['ask']}"
                )
                if who == "instructor":
                    lines += ["", f"   **Answer:** {question['answer']}", ""]
    for who, lines in pages.items():
        page = target / who / "questions.md"
        page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_exam(target: Path) -> None:
    """The exam's sheet and its rubric, both for the instructors' folder `target`."""
    exam = yaml.safe_load((TEACHING / "exam.yml").read_text(encoding="utf-8"))
    total = sum(task["points"] for task in exam["tasks"])
    head = f"{exam['minutes']} minutes, {total} points. Allowed: {exam['allowed']}"
    sheet, rubric = ["# Exam", "", head], ["# Exam: solutions and rubric", "", head]
    for number, task in enumerate(exam["tasks"], 1):
        title = f"## {number}. {task['title']} ({task['points']} points)"
        sheet += ["", title, "", task["ask"]]
        rubric += ["", title, "", task["ask"], "", f"**Solution.** {task['solution']}", ""]
        rubric += ["| points | for |", "|---|---|"]
        rubric += [f"| {points} | {what} |" for points, what in task["earns"]]
        rubric += ["", "| common misconception | reply |", "|---|---|"]
        rubric += [f"| {said} | {reply} |" for said, reply in task["misconceptions"]]
    for name, lines in (("exam", sheet), ("exam_rubric", rubric)):
        (target / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_projects(target: Path) -> None:
    """The briefs of the projects for students, and notes for instructors."""
    for name, who in (("projects", "student"), ("projects_notes", "instructor")):
        page = (TEACHING / f"{name}.md").read_text(encoding="utf-8")
        (target / who / f"{name}.md").write_text(page, encoding="utf-8")
