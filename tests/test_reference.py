"""The reference part: glossary, notation, the package's pages, the bibliography."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
GLOSSARY = (BOOK / "glossary.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*BOOK.rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
}
MODULES = re.findall(r"automodule:: ([\w.]+)", "\n".join(PAGES.values()))
# Packages that stand on a page as a whole, by their modules' names.
DESCRIBED_BY_MODULES = {"lpa_core.tasks"}


def entries() -> list[list[str]]:
    """The glossary's entries, each by its names: the term, then what else it is called."""
    block = GLOSSARY[GLOSSARY.index("```{glossary}") :]
    names = re.findall(r"^((?:[^`\s].*\n)+)  ", block, re.MULTILINE)
    return [group.splitlines() for group in names]


def test_terms_are_in_order_and_explained_once():
    first = [names[0] for names in entries()]
    assert len(first) > 40
    assert first == sorted(first, key=str.lower)
    every = [name for names in entries() for name in names]
    assert len(every) == len(set(map(str.lower, every)))


@pytest.mark.parametrize("names", entries(), ids=lambda names: names[0])
def test_every_term_is_used_on_another_page(names):
    either = "|".join(map(re.escape, names))
    used = re.compile(rf"\{{term\}}`(?:[^`<]*<(?:{either})>|(?:{either}))`")
    assert [
        name for name, text in PAGES.items() if used.search(text) and "glossary" not in name
    ]


def test_the_notation_names_code_that_is_there():
    links = re.findall(r"\{py:\w+\}`(?:[^`<]*<|~)([\w.]+)>?`", PAGES["book/notation.md"])
    assert len(links) > 20
    for link in links:
        module = max(
            (name for name in ("lpa_core", *MODULES) if link.startswith(f"{name}.")),
            key=len,
        )
        found = importlib.import_module(module)
        for name in link[len(module) + 1 :].split("."):
            fields = getattr(found, "_fields", getattr(found, "__dataclass_fields__", ()))
            assert hasattr(found, name) or name in fields, link
            found = getattr(found, name, None)


def public_packages() -> list[str]:
    folder = ROOT / "lpa_core"
    names = [f"lpa_core.{path.parent.name}" for path in folder.glob("*/__init__.py")]
    return sorted(set(names) - DESCRIBED_BY_MODULES)


def test_every_package_and_task_has_its_entry():
    tasks = {
        f"lpa_core.tasks.{p.stem}" for p in (ROOT / "lpa_core/tasks").glob("[a-z]*.py")
    }
    assert set(public_packages()) | tasks <= set(MODULES)
    assert {"lpa_core.attention", "lpa_core.notebook", "lpa_core.plots"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_says_what_it_is(module):
    found = importlib.import_module(module)
    assert found.__doc__ and found.__all__
    for name in found.__all__:
        thing = getattr(found, name)
        ours = getattr(thing, "__module__", "").startswith("lpa_core")
        if ours and (inspect.isclass(thing) or inspect.isroutine(thing)):
            assert (thing.__doc__ or "").strip(), f"{module}.{name} says nothing of itself"


def test_what_the_book_builds_on_is_cited_and_listed():
    keys = set(re.findall(r"@\w+\{([\w-]+),", (BOOK / "references.bib").read_text("utf-8")))
    text = "\n".join(PAGES.values())
    cited = {
        key.strip()
        for group in re.findall(r"\{cite:[tp]\}`([^`]+)`", text)
        for key in group.split(",")
    }
    assert cited == keys


@pytest.mark.parametrize("file", sorted((ROOT / "lpa_core").rglob("*.py")), ids=str)
def test_a_named_tuple_describes_its_fields_where_they_stand(file):
    """Described in the docstring as well, a field stands on its page twice: a warning."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and any(
            isinstance(base, ast.Name) and base.id == "NamedTuple" for base in node.bases
        ):
            assert "Attributes:" not in (ast.get_docstring(node) or ""), node.name


def test_every_choice_says_whose_it_is():
    """Each numbered point of the deviations is the paper's, the scripts' or ours."""
    text = (ROOT / "book/deviations.md").read_text(encoding="utf-8")
    points = re.findall(r"^(\d+)\. (\S+)", text, flags=re.MULTILINE)
    assert [int(number) for number, _ in points] == list(range(1, len(points) + 1))
    assert {mark for _, mark in points} == {"**paper**", "**scripts**", "**ours**"}


def test_the_reference_stands_last():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    assert [part["caption"] for part in toc["parts"]] == [
        "The idea", "Try it", "Building it", "What attention does", "The paper's tables",
        "What holds, and what followed", "Running it", "Appendix", "Reference",
    ]  # fmt: skip
    entries = [chapter["file"] for chapter in toc["parts"][-1]["chapters"]]
    assert entries == [
        f"book/{name}"
        for name in (
            "glossary",
            "notation",
            "api/index",
            "audit",
            "deviations",
            "style",
            "publishing",
            "status",
            "bibliography",
        )
    ]
    listed = {
        s["file"] for c in toc["parts"][-1]["chapters"] for s in c.get("sections", ())
    }
    pages = {name.removesuffix(".md") for name in PAGES if name.startswith("book/api/")}
    assert listed | {"book/api/index"} == pages
