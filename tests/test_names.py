"""NAMES.md is the list of the package's words: what it says is gone is gone."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lpa_core"


def table(last_column_of: str) -> list[list[str]]:
    """The rows of NAMES.md's table whose heading starts with those words."""
    lines = (ROOT / "NAMES.md").read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(last_column_of))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def defined(source: str) -> set[str]:
    """Names of functions, classes, arguments, fields and attributes that are set."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                names.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


@functools.cache
def names_in(file: Path) -> set[str]:
    return defined(file.read_text(encoding="utf-8"))


WORDS = table("| in the field")
FILES = table("| what is in it")


def test_the_tables_are_read():
    assert len(WORDS) > 10 and len(FILES) > 5
    assert defined(
        "def f(a, *, b): pass\nclass C:\n  c: int\n  def m(self): self.d = 1"
    ) == {*("f", "a", "b", "C", "c", "m", "self", "d")}


@pytest.mark.parametrize("row", WORDS, ids=lambda row: row[1])
def test_a_word_stands_where_the_table_says_and_the_old_one_nowhere(row):
    _, ours, where, gone = row
    (name,) = quoted(where)
    place = PACKAGE / name
    here = place.rglob("*.py") if place.is_dir() else [place]
    defined_here = set().union(*map(names_in, here))
    assert [word for word in quoted(ours) if word not in defined_here] == []
    old = set(quoted(gone))
    left = {path.name: old & names_in(path) for path in PACKAGE.rglob("*.py")}
    left["loop.py"] -= {"watch"}  # for one release: `run(watch=…)` warns
    assert {file: names for file, names in left.items() if names} == {}


@pytest.mark.parametrize("row", FILES, ids=lambda row: quoted(row[1])[0])
def test_a_file_has_its_new_name_only(row):
    _, ours, gone = row
    assert all((PACKAGE / name).is_file() for name in quoted(ours))
    assert not any((PACKAGE / name).exists() for name in quoted(gone))
