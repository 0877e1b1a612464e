"""All numbers that the paper reports, unchanged (paper.json)."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = [
    "UNTRAINED",
    "Figure",
    "figure6",
    "figure9",
    "numbers",
    "resnet_losses",
    "table1",
    "table2",
    "table3",
    "table4",
]

# The paper's short names of networks, where lpa_core's differ: in sections 5.2 to 5.4 its
# attention networks use concat and pc.
LONG_NAMES = {"vgg-att2": "vgg-att2-concat-pc", "vgg-att3": "vgg-att3-concat-pc"}
UNTRAINED = "none"  # the training set of a method without training


@dataclass(frozen=True)
class Figure:
    """A number of the paper: mean and, if reported, standard deviation.

    `quoted` means that the paper itself quotes it from elsewhere.
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
        images: how many, by "all", "train", "test" and "extra"; None if not reported.
        classes: how many.
        resolution: as the paper writes it.
    """

    images: dict[str, int | None]
    classes: int
    resolution: str


@cache
def numbers() -> dict[str, Any]:
    """The whole of paper.json; null is "not reported"."""
    return json.loads(files("lpa_core.results").joinpath("paper.json").read_text("utf-8"))


Table = dict[str, dict[str, Figure | None]]


def table1() -> Table:
    """The rows of Table 1, top-1 error in per cent: {network: {"cifar10": Figure, …}}."""
    return table("table1")


def table2() -> Table:
    """Table 2, the same for "cub200" and "svhn"; None if the paper has no number."""
    return table("table2")


def resnet_losses() -> dict[str, float]:
    """Section 5.1: points of accuracy that rn164-att2 loses to rn164, by data set."""
    told = numbers()["table1"]["text_only"]["rn164-att2"]
    return {name.split("_")[0]: points for name, points in told.items()}


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


def figure6() -> dict[str, dict[int, Figure]]:
    """Figure 6, fooling rates of FGSM on CUB-200 in per cent: {network: {eps: Figure}}.

    Networks have their names in lpa_core; eps is in units of 1/255 of an image's range.
    """
    found: dict[str, Any] = numbers()["figure6"]
    norms = found["norms"]
    return {
        LONG_NAMES.get(network, network): {
            eps: Figure(rate, None) for eps, rate in zip(norms, rates, strict=True)
        }
        for network, rates in found.items()
        if network not in ("caption", "norms")
    }


def table3() -> dict[str, dict[str, dict[str, Figure | None]]]:
    """Table 3, accuracy on other domains in per cent.

    {network: {"caltech101": {"cifar10": Figure, "cifar100": Figure}}}: networks have
    their names in lpa_core, the innermost keys are the training sets, and the value is None
    if the paper has no number.
    """
    found: dict[str, Any] = numbers()["table3"]
    return {
        LONG_NAMES.get(network, network): {
            column: by_training(row[column]) for column in found["columns"]
        }
        for network, row in found.items()
        if network not in ("caption", "columns")
    }


def figure9() -> dict[str, dict[str, dict[str, Figure | None]]]:
    """Figure 9, Jaccard scores on Object Discovery in per cent.

    {method: {"airplane": {"cifar10": Figure, "cifar100": Figure}}}. Networks have their
    names in lpa_core, other methods short ones: "mc", "bms", "mcg", "joulin2010", … The
    others were not trained on such a set, so they have {"none": Figure} (`UNTRAINED`).
    """
    found: dict[str, Any] = numbers()["figure9"]
    groups: list[dict[str, Any]] = [
        found[name] for name in found if name not in ("caption", "columns")
    ]
    return {
        LONG_NAMES.get(method, method.split(" (")[0]): {
            column: by_training(row[column]) for column in found["columns"]
        }
        for group in groups
        for method, row in group.items()
    }


def by_training(values: list | float) -> dict[str, Figure | None]:
    """A number for each training set, or the one number of a method without training."""
    if not isinstance(values, list):
        return {UNTRAINED: Figure(values, None)}
    return {
        name: None if value is None else Figure(value, None)
        for name, value in zip(("cifar10", "cifar100"), values, strict=True)
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
