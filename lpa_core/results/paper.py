"""Every number that the paper reports, as it reports it (paper.json)."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Figure", "numbers", "table1", "table2", "table4"]


@dataclass(frozen=True)
class Figure:
    """A number of the paper: mean and, where it gives one, standard deviation.

    `quoted` says that the paper itself quotes it from elsewhere.
    """

    mean: float
    std: float | None
    quoted: bool = False

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {self.std:.2f}"
        return f"{self.mean:.2f}{spread}{' (quoted)' if self.quoted else ''}"


@dataclass(frozen=True)
class DataRow:
    """A row of Table 4.

    Attributes:
        images: how many, by "all", "train", "test" and "extra"; None where it says nothing.
        classes: how many.
        resolution: in the paper's words.
    """

    images: dict[str, int | None]
    classes: int
    resolution: str


@cache
def numbers() -> dict:
    """The whole of paper.json; null is "not reported"."""
    return json.loads(files(__package__).joinpath("paper.json").read_text("utf-8"))


Table = dict[str, dict[str, Figure | None]]


def table1() -> Table:
    """Table 1, top-1 error in per cent: {network: {"cifar10": Figure, …}}, its rows."""
    return table("table1")


def table2() -> Table:
    """Table 2, the same for "cub200" and "svhn"; None where the paper has no number."""
    return table("table2")


def table(name: str) -> Table:
    found = numbers()[name]
    return {
        network: {
            column: Figure(*row[column], quoted=column in row.get("quoted", ()))
            if row[column]
            else None
            for column in found["columns"]
        }
        for network, row in (found["existing"] | found["attention"]).items()
    }


def table4() -> dict[str, DataRow]:
    """Table 4, the data sets, by their names in `lpa_core.data`."""
    rows = {name: row for name, row in numbers()["table4"].items() if name != "caption"}
    splits = ("all", "train", "test", "extra")
    return {
        name: DataRow(
            images=dict(zip(splits, row["images"], strict=True)),
            classes=row["classes"],
            resolution=row["resolution"],
        )
        for name, row in rows.items()
    }
