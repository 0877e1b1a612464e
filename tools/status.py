"""The book's status page: what ran, when, where, and what did not.

All of it comes from the executed chapters (the output of papermill and `notebook.begin`),
the records and the measurements. The same files produce the same page.

    python tools/status.py _build/status.md --executed _build/executed
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from lpa_core.provenance import write_whole
from lpa_core.results import paper
from lpa_core.results.side_by_side import (
    NOT_RUN,
    figure6_beside,
    figure9_beside,
    profiles,
    repetitions,
    table1_beside,
    table2_beside,
    table3_beside,
)
from lpa_core.results.store import escaped, read_measurements, read_records
from lpa_core.results.verify import Files, summary, verify, wrong
from lpa_core.tasks.measurement import Measurement
from lpa_core.training import Record
from tools.readme import parts

__all__ = ["Chapter", "Sources", "fill", "read_chapter", "write"]

BLOCK = re.compile(
    r"(<!-- made by the build -->\n).*?(<!-- /made by the build -->)", re.DOTALL
)
# What `notebook.begin` prints.
OPENING = re.compile(
    r"^computing on (?P<place>\S+), (?P<threads>\d+) threads\n"
    r"(?P<device>.+), python (?P<python>\S+), torch (?P<torch>\S+), "
    r"lpa_core (?P<lpa_core>\S+)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Sources:
    """The files that the page is made from.

    Attributes:
        executed: folder of the executed chapters.
        notebooks: folder of all chapters, beside the book's `_toc.yml`.
        benchmarks: folder of Snakemake's measurements of each, NAME.tsv, or None.
        records, measurements: files of lines. weights: folder of the shipped weights.
    """

    executed: Path
    notebooks: Path
    records: Path
    measurements: Path
    weights: Path
    benchmarks: Path | None = None


@dataclass(frozen=True)
class Chapter:
    """How one chapter ran.

    Attributes:
        name: of its file, without suffix. title: its first heading.
        state: "ran", "failed", "interrupted" or "not run".
        profile: the profile that it ran with.
        started: UTC, to the minute. seconds: from start to end.
        opening: machine and versions printed by `notebook.begin`, by name.
    """

    name: str
    title: str
    state: str
    profile: str = ""
    started: str = ""
    seconds: float | None = None
    opening: dict[str, str] | None = None


def write(target: Path, page: Path, sources: Sources) -> None:
    """Write the page at `page` to `target`, with its tables filled in.

    Raises:
        OSError: a file or folder does not exist.
        ValueError: the page has no place for the tables, or a chapter is not a notebook.
    """
    text = fill(page.read_text(encoding="utf-8"), tables(sources))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, text.encode())


def fill(text: str, made: str) -> str:
    """A page with the generated text in its place.

    Raises:
        ValueError: there is no such place.
    """
    if not BLOCK.search(text):
        raise ValueError("the page has no block between `made by the build` comments")
    return BLOCK.sub(lambda m: f"{m[1]}\n{made}\n{m[2]}", text)


def tables(sources: Sources) -> str:
    """All generated sections, as Markdown."""
    records = read_records(sources.records)
    there = sources.measurements.exists()
    measurements = read_measurements(sources.measurements) if there else []
    parts = [
        chapter_part(read_chapters(sources), sources.benchmarks),
        record_part(records),
        measurement_part(measurements),
        missing_part(records, measurements),
        check_part(sources),
    ]
    return "\n\n".join(parts)


# ----------------------------------------------------------------------------- chapters


def read_chapters(sources: Sources) -> list[Chapter]:
    """All chapters in the book's order, whose contents lie beside the notebooks."""
    if not sources.executed.is_dir():
        raise FileNotFoundError(f"no folder of executed chapters at {sources.executed}")
    listed = [
        f"{file}.ipynb" for _, files in parts(sources.notebooks.parent) for file in files
    ]
    stored = [sources.notebooks.parent / file for file in listed]
    return [read_chapter(sources.executed / path.name, path) for path in stored]


def read_chapter(executed: Path, stored: Path) -> Chapter:
    """How a chapter ran, from papermill's metadata.

    Raises:
        ValueError: one of the files is not a notebook.
    """
    name, title = stored.stem, title_of(notebook(stored))
    if not executed.exists():
        return Chapter(name, title, NOT_RUN)
    found = notebook(executed)
    papermill = found.get("metadata", {}).get("papermill", {})
    text = printed(found)
    opening = OPENING.search(text)
    profile = re.search(r"\bprofile = '(\w+)'", text)
    return Chapter(
        name=name,
        title=title,
        state=state_of(papermill),
        profile=profile[1] if profile else "",
        started=(papermill.get("start_time") or "")[:16].replace("T", " "),
        seconds=papermill.get("duration"),
        opening=opening.groupdict() if opening else None,
    )


def state_of(papermill: dict) -> str:
    """The state from papermill's metadata; a chapter without an end was interrupted."""
    if papermill.get("exception"):
        return "failed"
    return "ran" if papermill.get("end_time") else "interrupted"


def notebook(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a complete notebook: {error!r}") from error
    return found


def title_of(found: dict) -> str:
    first = "".join(found["cells"][0]["source"]) if found["cells"] else ""
    return first.partition("\n")[0].removeprefix("# ")


def printed(found: dict) -> str:
    return "".join(
        "".join(output.get("text", ""))
        for cell in found["cells"]
        for output in cell.get("outputs", [])
        if output.get("output_type") == "stream"
    )


def chapter_part(chapters: list[Chapter], benchmarks: Path | None) -> str:
    rows = []
    for number, chapter in enumerate(chapters, start=1):
        # Only chapters in the book can be linked.
        link = f"{{doc}}`../notebooks/{chapter.name}`"
        memory = peak_memory(benchmarks, chapter.name)
        rows.append(
            (
                number,
                chapter.title if chapter.state == NOT_RUN else link,
                chapter.state,
                chapter.profile,
                chapter.started,
                "" if chapter.seconds is None else f"{chapter.seconds:.0f}",
                "" if memory is None else f"{memory:.0f}",
            )
        )
    columns = ["no.", "chapter", "state", "profile", "started (UTC)", "seconds"]
    ran = sum(chapter.state == "ran" for chapter in chapters)
    return (
        f"## Chapters\n\n{ran} of {len(chapters)} chapters ran to completion.\n\n"
        f"{table([*columns, 'memory, MB'], rows)}\n\n{machines(chapters)}"
    )


def machines(chapters: list[Chapter]) -> str:
    """The machines of the chapters: one row for each machine and set of versions."""
    groups: dict[tuple, list[str]] = {}
    for number, chapter in enumerate(chapters, start=1):
        if chapter.opening:
            key = tuple(chapter.opening.values())
            groups.setdefault(key, []).append(str(number))
    if not groups:
        return "The chapters do not say on which machine they ran."
    columns = ["computed on", "threads", "device", "python", "torch", "lpa_core"]
    rows = [(*key, ", ".join(numbers)) for key, numbers in groups.items()]
    return table([*columns, "chapters"], rows)


def peak_memory(benchmarks: Path | None, name: str) -> float | None:
    """The peak memory of a chapter in megabytes; None if it was not measured."""
    path = benchmarks / f"{name}.tsv" if benchmarks else None
    if path is None or not path.exists():
        return None
    with open(path, encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t"), {})
    try:
        return float(row["max_rss"])
    except (KeyError, ValueError):
        return None  # too short a run to be measured


# ------------------------------------------------------------------------------ results


def record_part(records: list[Record]) -> str:
    rows = []
    for shared, runs in repetitions(records).items():
        errors = [run.metrics["test_error"] for run in runs]
        spread = f" ± {stdev(errors):.2f}" if len(errors) > 1 else ""
        rows.append(
            (
                shared.network,
                shared.dataset,
                f"{mean(errors):.2f}{spread}",
                len(runs),
                listed(run.spec.seed for run in runs),
                f"{shared.width:g}",
                f"{shared.recipe}, {shared.epochs} epochs",
                profiles(runs),
                listed(run.device for run in runs),
                listed(run.threads for run in runs),
                days(runs),
            )
        )
    columns = ["network", "data set", "test error, %", "n", "seeds", "width", "recipe"]
    columns += ["profile", "device", "threads", "trained"]
    partly = sum(record.spec.train_images is not None for record in records)
    more = f" In addition, {partly} on part of a set." if partly else ""
    whole = len(records) - partly
    said = f"{whole} training runs on complete data sets.{more}"
    return f"## Records\n\n{said}\n\n{table(columns, rows)}"


def listed(values: Iterable) -> str:
    return ", ".join(map(str, sorted(set(values))))


def days(runs: Sequence[Record | Measurement]) -> str:
    """The first and the last day of some runs."""
    first, *_, last = sorted(f"{run.started:%Y-%m-%d}" for run in (runs[0], *runs))
    return first if first == last else f"{first} to {last}"


def measurement_part(measurements: list[Measurement]) -> str:
    groups: dict[tuple, list[Measurement]] = {}
    for m in measurements:
        key = (m.task, m.data.name, m.data.split, m.data.images, m.device)
        groups.setdefault(key, []).append(m)
    rows = []
    for (task, name, split, images, device), found in groups.items():
        networks = {(m.network, m.weights.width) for m in found if m.weights}
        rows.append(
            (
                task,
                f"{name} {split}",
                images,
                len(found),
                listed(name for name, _ in networks),
                listed(f"{width:g}" for _, width in networks),
                device,
                days(found),
            )
        )
    columns = ["task", "images from", "images", "n", "networks", "widths", "device"]
    return (
        f"## Measurements\n\n{len(measurements)} measurements of trained networks and of "
        "methods without a network, made with `python -m lpa_core` and the task's name.\n\n"
        f"{table([*columns, 'measured'], rows)}"
    )


def missing_part(records: list[Record], measurements: list[Measurement]) -> str:
    """What was run and what was not, for each of the paper's tables."""
    full = [
        r
        for r in records
        if (r.spec.width, r.spec.overrides) == (1, None)
        and r.spec.recipe.startswith("paper")
        and r.epochs == r.spec.chosen_recipe().epochs
    ]
    rows = []
    for name, beside, sets in (
        ("Table 1", table1_beside, sets_of(paper.table1())),
        ("Table 2", table2_beside, sets_of(paper.table2())),
    ):
        for dataset in sets:
            as_in_paper = beside(full, dataset)
            at_full = int(as_in_paper.groupby("network").n.sum().gt(0).sum())
            rows.append(missing(name, dataset, beside(records, dataset), str(at_full)))
    networks = figure6_beside(measurements, "cub200")
    rows.append(missing("Figure 6", "cub200", networks))
    trained = ("cifar10", "cifar100")
    for dataset in next(iter(paper.table3().values())):
        for own in trained:
            frame = table3_beside(measurements, dataset, own)
            rows.append(missing("Table 3", f"{dataset}, trained on {own}", frame))
    for own in trained:
        frame = figure9_beside(measurements, trained_on=own)
        rows.append(missing("Figure 9", f"object_discovery, trained on {own}", frame))
    rows = [row for row in rows if row[2]]  # the paper does not have all combinations
    columns = ["in the paper", "images", "rows", "run", "as in the paper", "not run"]
    return (
        "## What was not run\n\nThe rows of the paper's tables and figures, and how many "
        'of them have a run of any size. "As in the paper" counts those at full width with '
        f"the paper's recipe.\n\n{table(columns, rows)}"
    )


def sets_of(reported: paper.Table) -> list[str]:
    return list(next(iter(reported.values())))


def missing(name: str, images: str, frame, at_full: str = "") -> tuple:
    """One row: a network or method is run if any of its numbers is."""
    first = frame.columns[0]
    in_paper = frame[frame.paper != "not reported"][first].unique()
    ran = set(frame[frame.measured != NOT_RUN][first])
    names = [network for network in in_paper if network not in ran]
    done = len(in_paper) - len(names)
    return name, images, len(in_paper), done, at_full, ", ".join(names) or "none"


def check_part(sources: Sources) -> str:
    files = Files(sources.records, sources.measurements, sources.weights, read_data=False)
    findings = verify(files)
    faults = wrong(findings)
    frame = summary(findings)
    undecided = sum(finding.state == "not checked" for finding in findings)
    said = [
        "## Are the records valid?",
        f"`python -m lpa_core records verify` made {len(findings)} checks: {len(faults)} "
        f"found something wrong, and {undecided} could not be made where this was built.",
        *(f"* {escaped(fault)}" for fault in faults),
        table(list(frame.columns), frame.itertuples(index=False)),
    ]
    return "\n\n".join(said)


def table(columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    """A Markdown table; the cells are escaped text."""

    def line(cells: Iterable) -> str:
        return "| " + " | ".join(map(escaped, cells)) + " |"

    rule = "|" + "---|" * len(columns)
    return "\n".join([line(columns), rule, *map(line, rows)])


# ------------------------------------------------------------------------------ command


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Write the book's status page.")
    parser.add_argument("target", type=Path, help="file to write, ending in .md")
    add = parser.add_argument
    add("--executed", type=Path, required=True, help="folder of executed chapters")
    add("--notebooks", type=Path, default="notebooks", help="folder of all chapters")
    add("--benchmarks", type=Path, help="folder of Snakemake's measurements of each")
    add("--page", type=Path, default="book/status.md", help="page to fill in")
    add("--records", type=Path, default="results/records.jsonl")
    add("--measurements", type=Path, default="results/measurements.jsonl")
    add("--weights", type=Path, default="weights", help="folder of the shipped weights")
    given = vars(parser.parse_args(words))
    target, page = given.pop("target"), given.pop("page")
    try:
        write(target, page, Sources(**given))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
