"""The house: layout, pins, notebooks as they are stored, the book's configuration."""

import ast
import io
import itertools
import json
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from set_repository import PLACEHOLDER

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def tracked() -> list[Path]:
    """Files in the repository: what git knows, or would take in."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a git repository")
    return [p for n in listing.stdout.split("\0") if n and (p := ROOT / n).is_file()]


def tracked_texts() -> dict[str, str]:
    """Their texts, but for what others wrote and binary files."""
    texts = {}
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        if "mathjax/" in name:
            continue
        try:
            texts[name] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return texts


# ------------------------------------------------------------------------------ layout


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "LICENSE",
        "CITATION.cff",
        "Makefile",
        "requirements.txt",
        "pyproject.toml",
        "_config.yml",
        "_toc.yml",
        "Snakefile",
        ".ci/run",
        ".github/workflows",
        ".github/ISSUE_TEMPLATE",
        ".pre-commit-config.yaml",
        "CONTRIBUTING.md",
        "NAMES.md",
        "book/references.bib",
        "book/_static",
        "notebooks",
        "lpa_core",
        "results",
        "weights",
        "tests",
        "tools",
    ],
)
def test_the_house_has_its_rooms(name):
    assert (ROOT / name).exists()


def test_every_python_that_is_promised_is_tested():
    workflow = yaml.safe_load(text(".github/workflows/pythons.yml"))
    pythons = workflow["jobs"]["wheel"]["strategy"]["matrix"]["python"]
    assert pythons == [f"3.{n}" for n in range(11, 15)]
    assert f"Python {pythons[0]} to {pythons[-1]}" in text("README.md")
    assert f'requires-python = ">={pythons[0]}"' in text("pyproject.toml")


def test_the_ci_script_can_be_run():
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)


def test_workflow_actions_are_pinned_by_digest():
    """A tag can be moved to other code, a digest cannot; the version is said beside it."""
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    used = [
        line.strip().removeprefix("- ").removeprefix("uses: ")
        for path in workflows
        for line in path.read_text(encoding="utf-8").splitlines()
        if "uses: " in line
    ]
    action = r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+"
    image = r"docker://[\w./-]+:[\d.]+@sha256:[0-9a-f]{64}"
    assert used
    assert [line for line in used if not re.fullmatch(f"{action}|{image}", line)] == []


def test_commit_hooks_call_programs_of_the_pinned_environment():
    repos = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]  # nothing is cloned
    programs = {hook["entry"].split()[0] for hook in repos[0]["hooks"]}
    pinned = pins()
    for program in programs:
        assert program.startswith(".venv/bin/")
        assert Path(program).name in pinned
    names = {Path(program).name for program in programs}
    assert names == {"ruff", "codespell", "nbstripout", "basedpyright"}


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "lpa_core/py.typed").read_text() == ""


def test_license_is_mit():
    assert text("LICENSE").startswith("MIT License\n")
    assert tomllib.loads(text("pyproject.toml"))["project"]["license"] == "MIT"


def test_citation_names_the_book_and_the_paper():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["title"] == yaml.safe_load(text("_config.yml"))["title"]
    paper = citation["references"][0]
    assert paper["title"] == "Learn to Pay Attention"
    assert paper["year"] == 2018
    assert [a["family-names"] for a in paper["authors"]] == [
        "Jetley",
        "Lord",
        "Lee",
        "Torr",
    ]


def test_one_version():
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    assert f'__version__ = "{version}"' in text("lpa_core/__init__.py")
    assert yaml.safe_load(text("CITATION.cff"))["version"] == version


def test_one_repository_address():
    """_config.yml sets it; every other place says the same."""
    config = yaml.safe_load(text("_config.yml"))
    address = config["repository"]["url"]
    owner, name = address.split("/")[-2:]
    pages = f"https://{owner}.github.io/{name}"
    assert config["html"]["baseurl"] == f"{pages}/"
    hosts = r"(?:github\.com|colab\.research\.google\.com/github|mybinder\.org/v2/gh)"
    found = {
        (file, match)
        for file, content in tracked_texts().items()
        for match in re.findall(rf"https://{hosts}/([\w.-]+/{name})", content)
        + re.findall(rf"https://([\w.-]+)\.github\.io/{name}", content)
    }
    assert {file for file, match in found} >= {
        "CITATION.cff",
        "pyproject.toml",
        "book/intro.md",
        *(f"notebooks/{path.name}" for path in NOTEBOOKS),
    }
    assert sorted(f for f in found if f[1] not in (f"{owner}/{name}", owner)) == []


@pytest.fixture
def copy(tmp_path):
    """A copy of the tracked texts, in which the command can write."""
    for name, content in tracked_texts().items():
        path = tmp_path / "book" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return tmp_path / "book"


def set_repository(folder: Path, url: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/set_repository.py", url]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_repository_moves_and_moves_back(copy):
    before = contents(copy)
    old = yaml.safe_load(text("_config.yml"))["repository"]["url"]
    assert set_repository(copy, old).stdout.startswith("0 files changed")
    done = set_repository(copy, "https://github.com/Some-One/paying.attention.git")
    assert done.returncode == 0, done.stderr
    moved = contents(copy)
    assert moved.keys() == before.keys()
    assert not [n for n, c in moved.items() if old.split("/", 3)[3].encode() in c]
    assert b"https://some-one.github.io/paying.attention/" in moved["_config.yml"]
    assert b"cd paying.attention\n" in moved["book/intro.md"]
    assert b"  unpublished: false\n" in moved["_config.yml"]
    badge = b"google.com/github/Some-One/paying.attention/blob/main/notebooks/"
    assert moved["README.md"].count(badge) == len(NOTEBOOKS)
    assert b"as soon as the book has a repository" in before["README.md"]
    assert b"as soon as the book has a repository" not in moved["README.md"]
    for path in NOTEBOOKS:
        assert (
            b"git+https://github.com/Some-One/paying.attention\\"
            in moved[f"notebooks/{path.name}"]
        )
    assert set_repository(copy, old).returncode == 0
    assert contents(copy) == before


def test_moving_is_completed_by_the_same_command(copy):
    url = "https://github.com/some-one/attention"
    half = contents(copy)
    assert set_repository(copy, url).returncode == 0
    whole = contents(copy)
    # Interrupted: some files were written, _config.yml was not.
    for name, content in half.items():
        if name == "_config.yml" or name > "notebooks/09":
            (copy / name).write_bytes(content)
    assert set_repository(copy, url).returncode == 0
    assert contents(copy) == whole


def test_a_repository_that_is_the_placeholder_is_not_published():
    config = yaml.safe_load(text("_config.yml"))
    here = tuple(config["repository"]["url"].split("/")[-2:])
    assert config["sphinx"]["config"]["unpublished"] == (here == PLACEHOLDER)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "github.com/a/b",
        "http://github.com/a/b",
        "https://gitlab.com/a/b",
        "https://github.com/a",
        "https://github.com/a/b/tree/main",
        "https://github.com/a/..",
        "https://github.com/-a/b",
        "https://github.com/a/b c",
    ],
)
def test_an_address_that_is_none_changes_nothing(copy, url):
    before = contents(copy)
    done = set_repository(copy, url)
    assert done.returncode == 2
    assert "must be https://github.com/OWNER/NAME" in done.stderr
    assert f"(got {url!r})" in done.stderr
    assert contents(copy) == before


# -------------------------------------------------------------------------------- pins


def pinned_lines() -> list[str]:
    """One line a package, its hashes at the end."""
    return text("requirements.txt").replace(" \\\n    ", " ").splitlines()


def pins() -> dict[str, Requirement]:
    lines = (line.split(" --hash=")[0] for line in pinned_lines())
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def test_every_requirement_is_pinned_once_and_sorted():
    lines = pinned_lines()
    pin = r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*( ; .+?)?( --hash=sha256:[0-9a-f]{64})+"
    for line in lines:
        assert re.fullmatch(pin, line), line[:200]
    names = [canonicalize_name(line.split("==")[0]) for line in lines]
    assert names == sorted(set(names))


def test_jupyter_book_is_the_last_that_reads_config_yml():
    assert str(pins()["jupyter-book"].specifier) == "==1.0.4.post1"


def test_the_pins_hold_everything_that_pyproject_asks_for():
    project = tomllib.loads(text("pyproject.toml"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *itertools.chain(*extras)]
    pinned = pins()
    for line in wanted:
        want = Requirement(line)
        name = canonicalize_name(want.name)
        assert name in pinned, f"{name} is not pinned"
        version = str(pinned[name].specifier).removeprefix("==")
        assert want.specifier.contains(version), f"{name}: {version} against {line}"


# --------------------------------------------------------------------------- notebooks


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_every_chapter_is_in_the_book():
    toc = yaml.safe_load(text("_toc.yml"))
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    pages = [toc["root"], *chapters]
    for page in pages:
        assert list(ROOT.glob(f"{page}.*")), f"_toc.yml names {page}, which is not there"
    stems = [f"notebooks/{path.stem}" for path in NOTEBOOKS]
    assert sorted(p for p in pages if p.startswith("notebooks/")) == stems


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_stored_without_outputs(path):
    for cell in cells(path):
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert "papermill" not in cell["metadata"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_open_with_a_title(path):
    first = cells(path)[0]
    assert first["cell_type"] == "markdown"
    assert "".join(first["source"]).startswith("# ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_parameter_has_a_type_and_a_comment(path):
    tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "one cell tagged `parameters`, no more, no less"
    source = "".join(tagged[0]["source"])
    statements = ast.parse(source).body
    assert statements
    comments = {
        token.end[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and token.string.lstrip("# ")
    }
    for statement in statements:
        line = ast.get_source_segment(source, statement)
        assert isinstance(statement, ast.AnnAssign), f"no type: {line}"
        assert statement.value is not None, f"no default: {line}"
        assert statement.end_lineno in comments, f"no comment: {line}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_smoke_is_the_default_profile(path):
    tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    source = "".join(tagged[0]["source"])
    values = {
        s.target.id: s.value.value
        for s in ast.parse(source).body
        if isinstance(s.value, ast.Constant)
    }
    assert values["profile"] == "smoke"


# --------------------------------------------------------------------------- one machine


def test_no_file_names_one_machine():
    """Paths of somebody's machine, and package mirrors, are of no use to others."""
    # put together here, so that this file does not find itself
    homes = "|".join(["/" + "home/", "/" + "root/", "/" + "work/", "/" + "Users/"])
    mirrors = "|".join(["/" + "opt/", "extra-" + "index-url", "file" + "://"])
    wrong = re.compile(rf"(?<![\w.~<*])({homes}|{mirrors})")
    found = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, content in tracked_texts().items()
        for number, line in enumerate(content.splitlines(), 1)
        if wrong.search(line)
    ]
    assert found == []


def test_no_large_files():
    large = {p.name: p.stat().st_size for p in tracked() if p.stat().st_size > 8_000_000}
    assert large == {}


def test_chapters_are_executed_again_when_a_grid_or_the_papers_numbers_change(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "Snakefile").read_text(encoding="utf-8")
    found = re.search(r"^CODE = .*?^\)$", text, re.MULTILINE | re.DOTALL)
    assert found
    given = {"Path": Path}
    exec(found.group(), given)
    code = {Path(name) for name in given["CODE"]}
    listed = subprocess.run(["git", "ls-files", "lpa_core"], capture_output=True, text=True)
    # Nothing is listed in an unpacked archive.
    assert {Path(name) for name in listed.stdout.split()} <= code
    assert {Path("lpa_core/plan/laptop.yaml"), Path("lpa_core/results/paper.json")} <= code
    assert not [path for path in code if path.suffix == ".pyc"]
