"""From the plain VGG to attention, one change per step, with its effect on the error.

The paper compares the first network with the last. Between them are two controls of this
book: a finer grid without attention, and the same layers with uniform weights for all
positions.
"""

from dataclasses import dataclass
from statistics import mean

from lpa_core.results.compare import Difference, difference
from lpa_core.results.parts import ATT2, errors, most_trained
from lpa_core.training import Record

__all__ = ["CHAIN", "Step", "error_steps"]

# Network -> what it adds to the previous one.
CHAIN = {
    "vgg": "the plain VGG",
    "vgg-hires": "a finer grid",
    "vgg-mean2": "several layers",
    ATT2: "attention",
}


@dataclass(frozen=True)
class Step:
    """A network of the chain, and the effect of its change.

    Attributes:
        network: its name; change: what it adds to the previous network.
        error: mean test error in per cent.
        fewer: reduction of the error from the previous network, in points; None for the
            first.
        whole: reduction of the error from the first network; None for the first.
        how: width, recipe and epochs of all of them.
    """

    network: str
    change: str
    error: float
    fewer: Difference | None
    whole: Difference | None
    how: str


def error_steps(records: list[Record], dataset: str = "cifar10") -> list[Step]:
    """The chain's steps on one data set, over runs of the same width, recipe and epochs.

    If there are several such groups, the one with most runs of each network counts. Empty
    if no group has all networks.
    """
    groups, names = errors(records, dataset), list(CHAIN)
    how = most_trained(groups, names)
    if how is None:
        return []
    runs = groups[how]
    return [
        Step(
            name,
            CHAIN[name],
            mean(runs[name]),
            difference(runs[names[n - 1]], runs[name]) if n else None,
            difference(runs[names[0]], runs[name]) if n else None,
            ", ".join(how),
        )
        for n, name in enumerate(names)
    ]
