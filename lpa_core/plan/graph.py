"""The batch as a graph: which rule of the Snakefile takes what from which."""

import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from lpa_core.plan.plan import Plan, Step, write_plan

__all__ = ["RULES", "from_dot", "levels", "rule_graph"]

# Of each rule those whose results it takes, from nothing to the book. This is what is shown
# where there is no Snakefile, and what a test holds against the Snakefile where there is.
RULES = {
    "book": ["execute", "status"],
    "execute": ["measure", "ship", "train"],
    "measure": ["train"],
    "ship": ["train"],
    "status": ["execute"],
    "train": [],
}
ASKED = ("--config", "profile=laptop", "train=true", "plan=plan.json", "--", "book")
MADE = {"_build", "runs", ".snakemake", ".git", ".venv"}
RECORDED = {"records.jsonl", "measurements.jsonl"}


def rule_graph(repository: Path | None = None) -> dict[str, list[str]]:
    """Of each rule those that it takes from, as Snakemake sees it where nothing is made.

    Args:
        repository: the folder of the Snakefile; None looks beside lpa_core. Without a
            Snakefile or Snakemake the answer is `RULES`.

    Raises:
        RuntimeError: Snakemake does not understand the Snakefile.
    """
    repository = repository or Path(__file__).parents[2]
    if find_spec("snakemake") is None or not (repository / "Snakefile").exists():
        return {rule: list(inputs) for rule, inputs in RULES.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        as_if_new(repository, folder)
        write_plan(smallest_plan(), folder / "plan.json", folder / "_build")
        command = [sys.executable, "-m", "snakemake", "--rulegraph", "dot", "--cores", "1"]
        done = subprocess.run(
            [*command, "--nolock", *ASKED], cwd=folder, capture_output=True, text=True
        )
    if done.returncode:
        raise RuntimeError(f"snakemake --rulegraph: {done.stderr.strip()[-500:]}")
    return from_dot(done.stdout)


def smallest_plan() -> Plan:
    """One step of each stage."""
    train = Step(name="a", stage="train", todo=True, why="", words=[])
    after = {"todo": True, "why": "", "words": [], "after": ["a"]}
    ship = Step(name="b", stage="ship", **after)
    measure = Step(name="c", stage="measure", **after)
    return Plan(profile="laptop", device="", steps=[train, ship, measure])


def as_if_new(repository: Path, folder: Path) -> None:
    """Links to what is stored, without what was made and what was recorded."""
    for path in repository.iterdir():
        if path.name == "results":
            (folder / "results").mkdir()
            for file in path.iterdir():
                if file.name not in RECORDED:
                    (folder / "results" / file.name).symlink_to(file)
        elif path.name not in MADE:
            (folder / path.name).symlink_to(path)


def from_dot(text: str) -> dict[str, list[str]]:
    """The graph that a text in Graphviz's language describes, its rules by name.

    Raises:
        ValueError: there is no graph in it.
    """
    names = dict(re.findall(r'^\s*(\d+)\[.*?label = "(\w+)', text, re.MULTILINE))
    if not names:
        raise ValueError(f"no rule in {text[:100]!r}")
    graph: dict[str, list[str]] = {name: [] for name in sorted(names.values())}
    for source, target in re.findall(r"^\s*(\d+) -> (\d+)", text, re.MULTILINE):
        graph[names[target]].append(names[source])
    return {name: sorted(inputs) for name, inputs in graph.items()}


def levels(graph: dict[str, list[str]]) -> dict[str, int]:
    """How many steps each rule is from those that take from none.

    Raises:
        ValueError: it goes round in a circle, or takes from what it does not have.
    """
    found: dict[str, int] = {}
    while len(found) < len(graph):
        ready = {
            rule: max((found[i] + 1 for i in inputs), default=0)
            for rule, inputs in graph.items()
            if rule not in found and all(i in found for i in inputs)
        }
        if not ready:
            raise ValueError(f"no order of {', '.join(sorted(set(graph) - set(found)))}")
        found |= ready
    return found
