"""From the plain VGG to attention, one change a step: what each change does to the error.

The paper compares the first network with the last. Between them stand two controls of
this book: a finer grid without attention, and the same layers with every position weighed
alike.
"""

from dataclasses import dataclass
from statistics import mean

from lpa_core.results.compare import Difference, difference
from lpa_core.results.parts import ATT2, errors, most_trained
from lpa_core.training import Record

__all__ = ["CHAIN", "Step", "error_steps"]

# Network -> what it has that the one before has not.
CHAIN = {
    "vgg": "the plain VGG",
    "vgg-hires": "a finer grid",
    "vgg-mean2": "several layers",
    ATT2: "attention",
}


@dataclass(frozen=True)
class Step:
    """A network of the chain, and what its change did.

    Attributes:
        network: its name; change: what it adds to the network before.
        error: mean test error in per cent.
        fewer: points fewer errors than the network before; None for the first.
        whole: points fewer errors than the first network; None for the first.
        how: width, recipe and epochs of all of them.
    """

    network: str
    change: str
    error: float
    fewer: Difference | None
    whole: Difference | None
    how: str


def error_steps(records: list[Record], dataset: str = "cifar10") -> list[Step]:
    """The chain's steps on one data set, over trainings alike in width, recipe and epochs.

    Where there are several such groups, the one with most trainings of each counts. Empty
    if none has them all.
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
