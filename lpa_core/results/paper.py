"""Every number that the paper reports, as it reports it (paper.json)."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Figure", "numbers", "table1"]


@dataclass(frozen=True)
class Figure:
    """A number of the paper: mean and, where it gives one, standard deviation."""

    mean: float
    std: float | None


@cache
def numbers() -> dict:
    """The whole of paper.json; null is "not reported"."""
    return json.loads(files(__package__).joinpath("paper.json").read_text("utf-8"))


def table1() -> dict[str, dict[str, Figure]]:
    """Table 1, top-1 error in per cent: {network: {"cifar10": Figure, …}}, its rows."""
    table = numbers()["table1"]
    rows = table["existing"] | table["attention"]
    return {
        network: {column: Figure(*pair) for column, pair in row.items()}
        for network, row in rows.items()
    }
