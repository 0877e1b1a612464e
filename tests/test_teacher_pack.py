"""The teacher pack, and Colab: handouts made of the executed chapters, run where there is
nothing but what Colab has.

The bare environment has the packages named in COLAB with what they need, and not one more;
`lpa_core` comes into it by the chapters' own first cell.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
import teacher_pack
import teaching_pages
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = ROOT / "_build/executed"
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
COLAB = (
    "torch",
    "torchvision",
    "numpy",
    "matplotlib",
    "scikit-learn",
    "scikit-image",
    "pandas",
    "tqdm",
    "ipykernel",
    "ipython",
    "pip",
)
PICTURES = {"image/png", "image/svg+xml"}
# Of these only what their exercises need is run, unless `--whole` says otherwise: they
# train or measure, and the book's own run does so as well.
LONG = (
    *("05_training", "06_table1", "07_table2", "08_query", "09_resolution"),
    *("10_adversarial", "11_cross_domain", "12_segmentation", "13_query_maps"),
    *("14_levels", "16_attach", "17_running"),
)


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    target = tmp_path_factory.mktemp("handouts") / "pack"
    command = [sys.executable, "tools/teacher_pack.py", str(EXECUTED), str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def cells(folder: Path, chapter: str) -> list:
    return nbformat.read(folder / f"{chapter}.ipynb", as_version=4).cells


# ---------------------------------------------------------------------------- what is in it


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_students_get_the_chapter_without_its_solutions(pack, chapter):
    book = cells(EXECUTED, chapter)
    code = [c.source for c in book if c.cell_type == "code"]
    handed_out = cells(pack / "student", chapter)
    # What runs is what ran for the book, in the same order.
    assert [
        c.source.removeprefix("# Your turn\n") for c in handed_out if c.cell_type == "code"
    ] == code
    assert sum(c.source.startswith("# Your turn\n") for c in handed_out) >= 1
    text = "\n".join(c.source for c in handed_out)
    for exercise in teacher_pack.exercises(chapter, nbformat.from_dict({"cells": book})):
        assert exercise.title in text
        for line in exercise.solution.strip().splitlines():
            if len(line) > 25 and not any(line in source for source in code):
                assert line not in text, line
    outputs = [o for c in handed_out for o in c.get("outputs", [])]
    assert all(PICTURES & set(o["data"]) for o in outputs)
    figures = [
        o for c in book for o in c.get("outputs", []) if PICTURES & set(o.get("data", {}))
    ]
    assert len(outputs) == len(figures)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_handouts_are_plain_markdown_with_the_numbers_in_place(pack, chapter):
    for who in ("student", "instructor"):
        for cell in cells(pack / who, chapter):
            if cell.cell_type == "markdown":
                assert not re.search(r"\{[a-z:]+\}`|^[`:]{3,}\{", cell.source, re.MULTILINE)
                prose = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
                for address in re.findall(r"\]\(([^)\s]+)\)", prose):
                    assert address.startswith(("http", "#")) or (
                        (pack / who / address).exists()
                    ), address


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_instructors_get_solutions_in_words_and_in_a_cell_that_insists(pack, chapter):
    listed = cells(pack / "instructor", chapter)
    solved = [c for c in listed if "exercise" in c.metadata.get("tags", [])]
    assert solved
    for cell in solved:
        assert "None  # your" not in cell.source
        last = cell.source.splitlines()[-1]
        assert re.fullmatch(r'assert check_\w+\(\w+\)\.startswith\("right"\)', last)
        assert "".join(o.get("text", "") for o in cell.outputs).startswith("right")
    text = "\n".join(c.source for c in listed if c.cell_type == "markdown")
    asked = re.findall(r"^### Exercise (\d+\.\d+): \S", text, re.MULTILINE)
    answered = re.findall(r"^\*\*Solution of exercise (.+)\*\*$", text, re.MULTILINE)
    assert answered == asked and len(asked) >= 2


def test_the_overview_has_every_exercise(pack):
    text = (pack / "README.md").read_text(encoding="utf-8")
    assert text.count("in code, checked") >= len(CHAPTERS)
    assert text.count("by hand or in words") >= len(CHAPTERS)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (pack / link).exists(), link
    minutes = re.findall(r"^\| \[\d+ .*\) \| (\d+) \| \d+ \|", text, re.MULTILINE)
    assert len(minutes) == len(CHAPTERS)
    assert all(int(m) % 5 == 0 and 20 <= int(m) <= 90 for m in minutes)
    taught = yaml.safe_load(teacher_pack.CHAPTERS.read_text(encoding="utf-8"))
    trained = [what for one in taught.values() for what in one["exercises"].values()]
    assert text.count("| in code") + text.count("| by hand") == len(trained)
    assert all(f"| {what} |" in text for what in trained)


def test_the_overview_lists_what_is_there_with_minutes_as_measured(pack):
    text = (pack / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]+ \| ([^|]+) \|$", text, re.M))
    took = [
        nbformat.read(EXECUTED / f"{name}.ipynb", as_version=4).metadata["papermill"]
        for name in CHAPTERS
    ]
    whole = sum(run["duration"] for run in took)
    assert rows[f"{len(CHAPTERS)} chapters"] == teaching_pages.in_words(whole)
    assert rows["a lab"] in (pack / "lab/plan.md").read_text(encoding="utf-8")
    listed = {link for link in re.findall(r"\]\(([^)#]+\.html)\)", text)}
    assert len(listed) >= 10
    assert all((pack / link).is_file() for link in listed)


def test_nothing_in_the_pack_is_fetched_from_elsewhere(pack):
    for page in pack.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"([^\"]+)", text)
        assert not [address for address in loaded if "//" in address], page


def test_students_get_no_exam_and_no_notes_for_instructors(pack):
    assert not [path.name for path in (pack / "student").iterdir() if "exam" in path.name]
    assert (pack / "instructor/exam_rubric.html").is_file()
    assert (pack / "student/projects.html").is_file()
    assert not (pack / "student/projects_notes.html").exists()


def test_no_answer_is_among_what_students_get(pack):
    taught = yaml.safe_load(teacher_pack.CHAPTERS.read_text(encoding="utf-8"))
    student, instructor = (
        (pack / who / "questions.md").read_text(encoding="utf-8")
        for who in ("student", "instructor")
    )
    for question in (q for one in taught.values() for q in one["questions"]):
        assert question["ask"] in student and question["ask"] in instructor
        assert question["answer"] in instructor
        if len(question["answer"]) > 12:  # a number may well stand in another question
            assert question["answer"] not in student
    assert "Answer" not in student


def test_the_lab_fits_its_minutes_and_was_measured(pack):
    plan = (pack / "lab/plan.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\d+) \|", plan, re.MULTILINE)
    assert sum(int(minutes) for _, minutes in rows) == 90
    starts = [sum(int(m) for _, m in rows[:k]) for k in range(len(rows))]
    assert starts == [int(start) for start, _ in rows]
    took = sum(
        nbformat.read(path, as_version=4).metadata["papermill"]["duration"]
        for path in (
            EXECUTED / "01_idea.ipynb",
            EXECUTED / "02_estimator.ipynb",
            EXECUTED / "teaching/lab.ipynb",
        )
    )
    assert took < 20 * 60
    assert teaching_pages.in_words(took) in plan
    assert any(c.get("outputs") for c in cells(pack / "lab", "instructor"))
    assert not any(c.get("outputs") for c in cells(pack / "lab", "student"))


def test_a_lab_that_takes_too_long_is_refused(tmp_path):
    with pytest.raises(ValueError, match="took 21 min, but may take at most 20 min"):
        teaching_pages.write_lab(tmp_path / "lab", None, {"lab": 1201.0}, "", None)


def test_the_archive_holds_the_pack(pack):
    archive = pack.with_name("pack.zip")
    assert archive.stat().st_size < teacher_pack.LARGEST
    with zipfile.ZipFile(archive) as opened:
        inside = {name for name in opened.namelist() if not name.endswith("/")}
    assert inside == {
        str(path.relative_to(pack.parent)) for path in pack.rglob("*") if path.is_file()
    }


def test_an_exercise_without_a_purpose_is_named():
    solution = ("markdown", "```{solution} ex-add\n3\n```")
    listed = chapter_of(("markdown", "# Sums"), EXERCISE, solution)
    listed.metadata["papermill"] = {"duration": 1.0}
    book = teacher_pack.Book({"ex-add": "1.1"}, {}, "", "", {"01_x": 1})
    with pytest.raises(teacher_pack.PackError, match="01_x: .* what 'ex-add' trains"):
        teacher_pack.overview({"01_x": listed}, book, {}, {})


# -------------------------------------------------------------------------------- bad input


def chapter_of(*sources: tuple[str, str]) -> nbformat.NotebookNode:
    new = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    return nbformat.v4.new_notebook(cells=[new[kind](source) for kind, source in sources])


EXERCISE = ("markdown", "```{exercise} Add\n:label: ex-add\n\nAdd.\n```")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([EXERCISE], "x: exercise 'Add' has no solution"),
        (
            [
                EXERCISE,
                ("code", "a = None"),
                ("markdown", "```{solution} ex-add\nThree.\n```"),
            ],
            "x: the solution of 'Add' has no code to run",
        ),
        ([("markdown", "```{solution} ex-gone\nThree.\n```")], "a solution of 'ex-gone'"),
    ],
)
def test_a_chapter_that_cannot_be_handed_out_is_named(sources, message):
    with pytest.raises(teacher_pack.PackError, match=re.escape(message)):
        teacher_pack.exercises("x", chapter_of(*sources))


def test_a_chapter_that_was_not_executed_stops_it_and_the_old_pack_stays(tmp_path, capsys):
    old = tmp_path / "pack"
    old.mkdir()
    (old / "mine.txt").write_text("notes")
    some = tmp_path / "executed"
    some.mkdir()
    shutil.copy(EXECUTED / f"{CHAPTERS[0]}.ipynb", some)
    with pytest.raises(teacher_pack.PackError, match=f"not executed: {CHAPTERS[1]}, "):
        teacher_pack.make_pack(some, old)
    assert [path.name for path in old.iterdir()] == ["mine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["executed", "pack"]


def test_what_was_to_be_written_gives_way_to_the_solution():
    cell = "import math\n\n\ndef f(x):\n    return None  # yours\n\n\nprint(check_f(f))"
    solution = "Think.\n\n```python\ndef f(x):\n    return math.sqrt(x)\n```\n"
    assert teacher_pack.solved(cell, solution) == (
        "import math\n\n\ndef f(x):\n    return math.sqrt(x)\n\n\nprint(check_f(f))\n"
        'assert check_f(f).startswith("right")'
    )
    with pytest.raises(teacher_pack.PackError, match="the exercise none of them"):
        teacher_pack.solved("g = None", solution)
    with pytest.raises(teacher_pack.PackError, match="ends with print"):
        teacher_pack.solved("def f(x):\n    return None\n\n\nf(2)", solution)


def test_definitions_are_put_in_words():
    book = teacher_pack.Book({}, {}, "", "")
    text = "One cycle\n: The rate rises\n  and falls.\n\nDropout\n: In one place.\n"
    assert teacher_pack.plain(text, book, {}, set()) == (
        "**One cycle.** The rate rises\n  and falls.\n\n**Dropout.** In one place.\n"
    )


# ----------------------------------------------------------- run where Colab's packages are


def closure(names: tuple[str, ...]) -> set[str]:
    """The distributions named and all that they need here."""
    found, waiting = set(), [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        found.add(name)
        requirements = map(Requirement, needed)
        waiting += [
            canonicalize_name(r.name)
            for r in requirements
            if r.marker is None or r.marker.evaluate({"extra": ""})
        ]
    return found


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A Python with Colab's packages and no other, and the variables to run it with."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True
    )
    python = folder / "env/bin/python"
    site = next((folder / "env/lib").glob("python*/site-packages"))
    for name in closure(COLAB):
        distribution = importlib.metadata.distribution(name)
        for top in {
            file.parts[0] for file in distribution.files or [] if ".." not in file.parts
        }:
            there = Path(distribution.locate_file(top))
            if there.exists() and not (site / top).exists() and top != "__pycache__":
                (site / top).symlink_to(there)
    kernel = folder / "jupyter/kernels/bare/kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(
        json.dumps({"argv": argv, "display_name": "bare", "language": "python"})
    )
    # The address in the first cell leads to a repository made of the files as they are now.
    repository = folder / "repository"
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listing.returncode:
        pytest.skip("not a git repository")
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("book/_static/mathjax"):
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, repository / name)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], cwd=repository, check=True)
    address = re.search(
        r'source = "git\+([^"]+)"', cells(ROOT / "notebooks", CHAPTERS[0])[1].source
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    } | {
        "JUPYTER_PATH": str(folder / "jupyter"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": address[1],
        "OMP_NUM_THREADS": "1",
        "LPA_DATA": str(folder / "no-data"),
        "PIP_COMPILE": "0",  # bytecode is made of what is imported
    }
    asked = [
        python,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "-d",
        folder / "probe",
        "hatchling",
    ]
    if subprocess.run(asked, capture_output=True, env=environment).returncode:
        pytest.skip("pip has no index to install lpa_core's needs from")
    return python, environment


def test_the_cells_that_an_exercise_needs():
    exercise = {"tags": ["exercise"]}
    make = nbformat.v4.new_code_cell
    listed = [
        make("import numpy as np\nslow = train(np)"),
        make("def twice(x):\n    y = 2 * x\n    return np.sum(y)"),
        make("y = train()"),
        make("def f(y):\n    return twice(y)\nf(3)", metadata=exercise),
        make("f = None"),
    ]
    assert [cell.source for cell in teacher_pack.needed(listed)] == [
        "import numpy as np", listed[1].source, listed[3].source
    ]  # fmt: skip


@pytest.fixture(scope="session")
def handed_in(pack, bare, tmp_path_factory, request):
    """The instructors' notebooks, executed in the bare environment from another folder."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shorter = tmp_path_factory.mktemp("shorter")
    _, environment = bare
    whole = request.config.getoption("--whole")

    def execute(chapter: str) -> str:
        source = pack / "instructor" / f"{chapter}.ipynb"
        if chapter in LONG and not whole:
            notebook = nbformat.read(source, as_version=4)
            notebook.cells = teacher_pack.needed(notebook.cells)
            source = shorter / source.name
            nbformat.write(notebook, source)
        command = [
            *(sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "bare"),
            *(str(source), f"{chapter}.ipynb"),
        ]
        done = subprocess.run(
            command,
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        return done.stderr[-3000:] if done.returncode else ""

    faults = {CHAPTERS[0]: execute(CHAPTERS[0])}  # installs lpa_core, for all that follow
    if not faults[CHAPTERS[0]]:
        with ThreadPoolExecutor(2) as pool:
            faults |= dict(zip(CHAPTERS[1:], pool.map(execute, CHAPTERS[1:]), strict=True))
    return elsewhere, faults


def test_the_bare_environment_is_bare(bare):
    python, environment = bare
    said = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = {canonicalize_name(package["name"]) for package in json.loads(said.stdout)}
    assert set(map(canonicalize_name, COLAB)) <= names
    assert not names & {"papermill", "jupyter-book", "myst-nb", "snakemake", "pytest"}


def test_installing_lpa_core_leaves_torch_alone(handed_in, bare):
    site = next((bare[0].parents[1] / "lib").glob("python*/site-packages"))
    assert (site / "lpa_core/_shipped/weights").is_dir()
    for name in ("torch", "torchvision", "numpy"):
        assert (site / name).is_symlink()


def test_all_that_the_chapters_import_is_in_colab(handed_in, bare):
    """Of whole chapters, also where only the cells of exercises are run."""
    sources = [
        cell.source
        for chapter in CHAPTERS
        for cell in cells(ROOT / "notebooks", chapter)
        if cell.cell_type == "code"
    ]
    wanted = sorted(
        {
            line
            for source in sources
            for line in teacher_pack.imports_of(source).splitlines()
        }
    )
    assert len(wanted) > 50
    python, environment = bare
    asked = subprocess.run(
        [python, "-c", "\n".join(wanted)], env=environment, capture_output=True, text=True
    )
    assert asked.returncode == 0, asked.stderr[-1000:]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_instructors_notebooks_run_in_colab_and_solve_their_exercises(handed_in, chapter):
    folder, faults = handed_in
    assert chapter in faults, f"{CHAPTERS[0]} could not install lpa_core: {faults}"
    assert not faults[chapter], faults[chapter]
    solved = [
        "".join(o.get("text", "") for o in cell.outputs)
        for cell in cells(folder, chapter)
        if "exercise" in cell.metadata.get("tags", [])
    ]
    assert solved and all(text.startswith("right") for text in solved), solved
