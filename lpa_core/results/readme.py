"""The README's table of results and its picture, made from records and weights."""

import re
from pathlib import Path

import pandas as pd

from lpa_core.data import load_photographs
from lpa_core.plots import show_attention
from lpa_core.results.paper import table1
from lpa_core.results.records import shipped_network
from lpa_core.results.tables import summarise
from lpa_core.training import Record

__all__ = ["headline", "with_headline"]

PICTURED = "vgg-att2-concat-pc"
PICTURE = Path("book", "_static", "maps.png")
BLOCK = re.compile(r"(<!-- measured: .*? -->\n).*?(<!-- /measured -->)", re.DOTALL)


def headline(records: list[Record]) -> str:
    """Markdown table of the networks that ran on real sets, beside the paper's numbers."""
    records = [record for record in records if record.spec.dataset != "embedded"]
    if not records:
        return "No run is recorded yet.\n"
    lines = [
        "| network | data | test error, % | n | width | recipe | minutes a run | device "
        "| paper, % (width 1, 300 epochs) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    in_paper = table1()
    for row in summarise(records).itertuples():
        figure = in_paper.get(row.network, {}).get(row.dataset)
        lines.append(
            f"| {row.network} | {row.dataset} | {row.test_error:.2f}{spread(row.std)} "
            f"| {row.n} | {row.width:g} | {row.recipe}, {row.epochs} epochs "
            f"| {row.minutes:.0f} | {row.device} "
            f"| {f'{figure.mean:.2f}{spread(figure.std)}' if figure else ''} |"
        )
    return "\n".join(lines) + "\n"


def spread(std: float | None) -> str:
    return "" if std is None or pd.isna(std) else f" ± {std:.2f}"


def with_headline(text: str, records: list[Record]) -> str:
    """A README with its block of results brought up to date.

    Raises:
        ValueError: the text has no such block.
    """
    if not BLOCK.search(text):
        raise ValueError("the README has no block between the `measured` comments")
    return BLOCK.sub(lambda m: m[1] + headline(records) + m[2], text)


def update(path: Path, records: list[Record]) -> None:
    """Bring a README and the picture beside it up to date."""
    text = with_headline(path.read_text(encoding="utf-8"), records)
    path.write_text(text, encoding="utf-8")
    names, images = load_photographs()
    seen = shipped_network(PICTURED).attend(images)
    figure = show_attention(images, seen.maps, names, upright=False)
    figure.savefig(path.parent / PICTURE, dpi=90)
