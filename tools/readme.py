"""Generates the chapters, results and pictures of the README and the opening page.

All of it is made from chapters, records and weights: `python tools/readme.py`.
"""

import argparse
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import yaml
from matplotlib.figure import Figure
from torch import Tensor

from lpa_core.data import load_photographs
from lpa_core.maps import effective_share
from lpa_core.plots import as_svg, set_style, show_opening, show_steps
from lpa_core.provenance import write_whole
from lpa_core.results.claims import (
    COMPARED_ON,
    Finding,
    attention_shares,
    claim_findings,
    shown,
    title,
)
from lpa_core.results.paper import table1
from lpa_core.results.parts import FULL
from lpa_core.results.side_by_side import NOT_RUN, summarise
from lpa_core.results.steps import error_steps
from lpa_core.results.store import escaped, read_records, shipped_network
from lpa_core.tasks.classify import probabilities
from lpa_core.training import Record

__all__ = [
    "against_rivals",
    "chapters",
    "headline",
    "long_table",
    "opening_block",
    "update",
    "with_blocks",
]

PICTURED, LEVEL, PHOTOGRAPH = "vgg-att3-concat-pc", "layer10", "cat"
STATIC = Path("book", "_static")
TITLE = "Learn to Pay Attention", "taught, reproduced, audited"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
NO_BADGES = (
    "*Each chapter gets a Colab badge as soon as the book has a repository: "
    "[publishing](book/publishing.md) explains how.*"
)
PROFILES = ("smoke", "laptop", "gpu", "paper")
BETTER = "vgg-att2-concat-pc"
RIVALS = {
    "vgg": "the plain VGG, the paper's baseline",
    "vgg-hires": "the same fine grid, no attention",
    "vgg-mean2": "the same grid and layers, all positions weighted equally",
    "vgg-wide": "the plain VGG, 3.5 times as wide, which costs the same",
}


# ------------------------------------------------------------------------------- results


def in_a_sentence(records: list[Record]) -> str:
    """How much of the gain is there without attention, on each set."""
    return attention_shares(claim_findings(1, records, []))


def headline(records: list[Record]) -> str:
    """Markdown, a table: how many fewer errors attention makes than the VGG and than the
    controls, a row for each data set and rival."""
    lines = [
        f"| `{BETTER}` compared with | data | fewer errors in the paper, points "
        "| fewer errors here, points "
        "| 95 % interval | training runs | p | p (Holm) | verdict | size |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    ways = []
    for dataset in COMPARED_ON:
        for what, finding in against_rivals(records, dataset):
            cells = ["", NOT_RUN, *[""] * 4, NOT_RUN, ""]
            if finding is not None:
                cells = figures(finding)
                ways.append(finding.how)
            lines.append(" | ".join([f"| {what}", title(dataset), *cells]) + " |")
    how = " or ".join(dict.fromkeys(ways))
    note = f"Trained here: {how}; the paper: width 1, 300 epochs." if how else ""
    return "\n".join([*lines, "", note]).rstrip() + "\n"


def against_rivals(records: list[Record], dataset: str) -> list[tuple[str, Finding | None]]:
    """The findings of the first claim and its controls on one set: what is compared with,
    in words, and the finding. That on networks of full width comes first, if there is one.
    A control that was not run on the set has no row.
    """
    found = {
        f.part: f for f in claim_findings(1, records, [], dataset) if f.measured is not None
    }
    rows = [
        (f"`{rival}`: {what}", found.get(part))
        for rival, what in RIVALS.items()
        if (part := f"error of {rival} - {BETTER}") in found or rival == "vgg"
    ]
    full = found.get(f"error of vgg - {BETTER}{FULL}")
    if full is not None:
        rows.insert(0, (f"`vgg`, full width: {RIVALS['vgg']}", full))
    return rows


def figures(finding: Finding) -> list[str]:
    """The table cells of one difference: the paper's, mean, interval, runs, verdict."""
    measured = finding.measured
    assert measured is not None
    low, high = measured.low, measured.high
    known = low is not None and high is not None
    return [
        "" if finding.paper is None else f"{finding.paper:+.2f}",
        f"{measured.mean:+.2f}",
        f"{low:+.2f} to {high:+.2f}" if known else "",
        shown(measured.trainings) + (" (one spread borrowed)" if measured.borrowed else ""),
        *("" if p is None else f"{p:.2g}" for p in (measured.p, finding.corrected)),
        finding.verdict,
        finding.size,
    ]


def long_table(records: list[Record]) -> str:
    """Markdown table of the networks trained on real sets, with the paper's numbers."""
    records = [record for record in records if record.spec.dataset != "embedded"]
    if not records:
        return "No runs are recorded yet.\n"
    lines = [
        "| network | data | test error, % | n | width | recipe | minutes per run | device "
        "| paper, % (width 1, 300 epochs) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    in_paper = table1()
    for row in summarise(records).to_dict("records"):
        figure = in_paper.get(row["network"], {}).get(row["dataset"])
        lines.append(
            f"| {row['network']} | {row['dataset']} "
            f"| {row['test_error']:.2f}{spread(row['std'])} "
            f"| {row['n']} | {row['width']:g} | {row['recipe']}, {row['epochs']} epochs "
            f"| {in_minutes(row['minutes'])} | {escaped(row['device'])} "
            f"| {f'{figure.mean:.2f}{spread(figure.std)}' if figure else ''} |"
        )
    return "\n".join(lines) + "\n"


def in_minutes(minutes: float) -> str:
    """Two digits below ten minutes, whole minutes above: 0.35, 3.9, 291."""
    return f"{minutes:.2g}" if minutes < 9.95 else f"{minutes:.0f}"


def spread(std: float | None) -> str:
    return "" if std is None or pd.isna(std) else f" ± {std:.2f}"


# ------------------------------------------------------------------------------ chapters


def chapters(root: Path) -> str:
    """Markdown table of the chapters: learning objective, compute, Colab badge.

    As long as the book has no repository, a line says so instead of the badges. Names and
    times come from the chapters' own first cells, objectives from `teaching/chapters.yml`,
    parts and order from `_toc.yml`.
    """
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    name = config["repository"]["url"].removeprefix("https://github.com/")
    branch = config["repository"]["branch"]
    colab = f"https://colab.research.google.com/github/{name}/blob/{branch}"
    published = not config["sphinx"]["config"]["unpublished"]
    able = abilities(root)
    head = ["chapter", "you will be able to", *PROFILES] + [""] * published
    lines = [row(head), row(["---"] * len(head))]
    number = 0
    for part, files in parts(root):
        lines.append(row([f"**{part}**"] + [""] * (len(head) - 1)))
        for file in files:
            number += 1
            title, times = first_cell(root / f"{file}.ipynb")
            badge = [f"[![Colab]({BADGE})]({colab}/{file}.ipynb)"] * published
            first = f"[{number} {title}]({file}.ipynb)"
            lines.append(row([first, able[file], *(times[p] for p in PROFILES), *badge]))
    if not published:
        lines += ["", NO_BADGES]
    return "\n".join(lines) + "\n"


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def parts(root: Path) -> Iterator[tuple[str, list[str]]]:
    """The book's parts that have chapters, with their notebooks."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    for part in toc["parts"]:
        files = [chapter["file"] for chapter in part["chapters"]]
        files = [file for file in files if file.startswith("notebooks/")]
        if files:
            yield part["caption"], files


def abilities(root: Path) -> dict[str, str]:
    """The learning objectives, {notebook: what a reader can do afterwards}.

    Raises:
        ValueError: a chapter in the table of contents has no entry.
    """
    path = root / "teaching/chapters.yml"
    taught = yaml.safe_load(path.read_text(encoding="utf-8"))
    files = [file for _, listed in parts(root) for file in listed]
    if missing := [file for file in files if Path(file).name not in taught]:
        raise ValueError(f"{path} has no entry for {', '.join(missing)}")
    return {file: taught[Path(file).name]["afterwards"] for file in files}


def contents(root: Path) -> str:
    """MyST: one table per part of the book, with its chapters and their objectives."""
    able, lines, number = abilities(root), [], 0
    for part, files in parts(root):
        head = ["", "Chapter", "You will be able to"]
        lines += [f"### {part}", "", row(head), row(["---"] * len(head))]
        for file in files:
            number += 1
            lines.append(row([str(number), f"{{doc}}`../{file}`", able[file]]))
        lines.append("")
    return "\n".join(lines)


NEXT = re.compile(r"\*\*Next:\*\* *\[[^]]*\]\(([^)]+)\)")


def lead_on(root: Path) -> dict[Path, str]:
    """The corrected notebooks whose "Next" does not link to the next chapter.

    Raises:
        ValueError: a chapter other than the last has no "Next".
    """
    files = [file for _, listed in parts(root) for file in listed]
    mended = {}
    for file, after in pairwise(files):
        path = root / f"{file}.ipynb"
        stored = path.read_text(encoding="utf-8")
        found = NEXT.search(stored)
        if found is None:
            raise ValueError(f"{path}: no line that begins with **Next:** and a link")
        wanted = f"{Path(after).name}.ipynb"
        if found[1].startswith("../book/") or found[1] == wanted:
            continue  # it links to a page between them
        title = first_cell(root / f"{after}.ipynb")[0]
        link = json.dumps(f"**Next:** [{title}]({wanted})", ensure_ascii=False)[1:-1]
        mended[path] = stored[: found.start()] + link + stored[found.end() :]
    return mended


def first_cell(notebook: Path) -> tuple[str, dict[str, str]]:
    """A chapter's title, and time and hardware by profile, from its first cell.

    Raises:
        ValueError: the cell lacks one of the profiles.
    """
    cell = json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]
    text = "".join(cell["source"])
    times: dict[str, str] = {}
    takes = ""
    for names, said in re.findall(r"^\| (.+?) \| .+? \| (.+?) \|$", text, re.MULTILINE):
        takes = takes if said == "the same" else said
        times |= dict.fromkeys(names.split(", "), takes)
    missing = [name for name in PROFILES if name not in times]
    if missing:
        raise ValueError(f"{notebook}: no time and hardware of {', '.join(missing)}")
    return text.split("\n")[0].removeprefix("# "), times


# --------------------------------------------------------------------------------- files


def with_blocks(text: str, blocks: dict[str, str]) -> str:
    """A text with new contents between each `<!-- name: … -->` and `<!-- /name -->`.

    Raises:
        ValueError: the text has no such block.
    """
    for name, content in blocks.items():
        block = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not block.search(text):
            raise ValueError(f"there is no block between the `{name}` comments")
        text = block.sub(lambda m, c=content: f"{m[1]}\n{c}\n{m[2]}", text)
    return text


def pages(root: Path, records: list[Record]) -> dict[Path, str]:
    """The updated README and opening page."""
    wanted = {
        root / "README.md": {
            "chapters": chapters(root),
            "headline": f"{in_a_sentence(records)}\n\n{headline(records)}",
            "measured": long_table(records),
        },
        root / "book/intro.md": {
            "contents": contents(root),
            "headline": headline(records),
            "opening": opening_block(),
            "steps": steps_block(records),
        },
    }
    return {
        path: with_blocks(path.read_text(encoding="utf-8"), blocks)
        for path, blocks in wanted.items()
    }


def update(root: Path, records: list[Record]) -> None:
    """Update the README, the opening page and their pictures."""
    for path, text in (pages(root, records) | lead_on(root)).items():
        write_whole(path, text.encode())
    set_style()
    save(opening(), root / STATIC / "opening.jpg")
    save(opening(TITLE), root / STATIC / "card.jpg")
    chart = as_svg(show_steps(error_steps(records)))
    assert chart is not None  # it has no photographs
    write_whole(root / STATIC / "steps.svg", chart.encode())


def looked() -> tuple[Tensor, Tensor, dict[str, float]]:
    """The pictured photograph (32, 32, 3), its map (h, w), and each class's probability."""
    trained = shipped_network(PICTURED)
    names, images = load_photographs()
    number = names.index(PHOTOGRAPH)
    image = images[number : number + 1]
    chances = probabilities(trained, image)[0].tolist()
    attention = trained.attend(image).maps[LEVEL][0]
    return image[0], attention, dict(zip(trained.classes, chances, strict=True))


def opening(heading: tuple[str, str] | None = None) -> Figure:
    """The photograph, where a shipped network looks, and what it predicts."""
    _, attention, chances = looked()
    names, sharp = load_photographs(size=350)
    return show_opening(sharp[names.index(PHOTOGRAPH)], attention, chances, heading)


def measured_words() -> tuple[str, str]:
    """The opening picture in numbers: its map, and the network's answer."""
    _, attention, chances = looked()
    eighth = attention.numel() // 8
    held = attention.flatten().topk(eighth).values.sum().item()
    share = effective_share(attention[None]).item()
    said = max(chances, key=lambda name: chances[name])
    return (
        f"the eighth of the positions with the largest weights holds {held:.0%} of the "
        "attention, and the map is as spread out as one that gives equal weight to "
        f"{share:.0%} of the positions and none to the others",
        f"{said}, with probability {chances[said]:.0%}",
    )


def opening_block() -> str:
    """MyST: the opening picture, its alternative text and a caption."""
    spread, answer = measured_words()
    return (
        "```{image} _static/opening.jpg\n"
        ":alt: Three panels. A photograph of a cat's face; the same photograph under an "
        f"attention map, where {spread}; the network's answer, {answer}.\n"
        ":class: dark-light opening\n"
        "```\n\n"
        f"*A photograph and its attention map at layer {LEVEL.removeprefix('layer')} of a "
        "small network that ships with this book. The colours are scaled to the map's own "
        f"maximum. In numbers: {spread}. The network predicts {answer}.*\n"
    )


def steps_block(records: list[Record]) -> str:
    """MyST: how much of the claimed gain of attention remains without attention."""
    steps = error_steps(records)
    if not steps:
        return f"{NOT_RUN.capitalize()}.\n"
    chain = "; ".join(
        f"{step.network}, {step.change}, {step.error:.2f} %" for step in steps
    )
    return (
        f"{in_a_sentence(records)}\n\n"
        "```{figure} _static/steps.svg\n"
        ":name: fig-steps-opening\n"
        f":alt: A waterfall chart of test errors. {chain}.\n\n"
        f"Test errors on CIFAR-10 ({steps[0].how}), from the plain VGG to attention, one "
        "change per step. The lines are 95 % intervals over training runs.\n"
        "```\n"
    )


def save(figure: Figure, path: Path) -> None:
    """A JPEG of the whole figure, at 100 pixels per inch."""
    content = io.BytesIO()
    figure.savefig(
        content,
        format="jpeg",
        dpi=100,
        bbox_inches=figure.bbox_inches,
        pil_kwargs={"quality": 80},
    )
    plt.close(figure)
    write_whole(path, content.getvalue())


# ------------------------------------------------------------------------------- command


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        description="Write the chapters and results of the README and the opening page."
    )
    parser.add_argument("--root", type=Path, default=".", help="the repository's folder")
    parser.add_argument("--records", type=Path, default="results/records.jsonl")
    given = parser.parse_args(words)
    try:
        update(given.root, read_records(given.records))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
