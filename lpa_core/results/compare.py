"""Is one network better than another, as far as a few trainings can tell?"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

from scipy import stats

__all__ = ["VERDICTS", "Difference", "difference", "verdict"]

LEVEL = 0.95  # of an interval
VERDICTS = ("holds", "does not hold", "cannot be decided", "not run")


@dataclass(frozen=True)
class Difference:
    """A difference of two means over trainings.

    Attributes:
        mean: the first mean minus the second.
        low, high: its 95 % interval over trainings; None where no spread is known.
        trainings: how many of the first and of the second; 0 for a fixed number.
        borrowed: one of the two was trained once, and is taken to spread like the other.
    """

    mean: float
    low: float | None
    high: float | None
    trainings: tuple[int, int]
    borrowed: bool = False


def difference(first: Sequence[float], second: Sequence[float] | float) -> Difference:
    """The mean of `first` minus that of `second`, a number for each training.

    With two trainings of each or more the interval is Welch's. With one of either, that
    one is taken to spread like the other (Student's, with the other's degrees of
    freedom); with one of both there is no interval. A number as `second` does not spread.

    Raises:
        ValueError: there is nothing to compare.
    """
    fixed = isinstance(second, int | float)
    counts = len(first), 0 if fixed else len(second)
    if not counts[0] or not (fixed or counts[1]):
        raise ValueError(f"a difference of {counts[0]} and {counts[1]} trainings")
    middle = mean(first) - (second if fixed else mean(second))
    several = [v for v in (first, () if fixed else second) if len(v) > 1]
    if not several:
        return Difference(middle, None, None, counts)
    if not any(stdev(v) for v in several):  # they agree to the bit
        return Difference(middle, middle, middle, counts, 1 in counts)
    if fixed:
        number = float(second)
        shifted = [value - number for value in first]
        found = stats.ttest_1samp(shifted, 0).confidence_interval(LEVEL)
    elif 1 not in counts:
        found = stats.ttest_ind(first, second, equal_var=False).confidence_interval(LEVEL)
    else:
        n = max(counts)
        error = stdev(several[0]) * sqrt(1 + 1 / n)
        found = stats.t.interval(LEVEL, n - 1, middle, error)
    low, high = map(float, found)
    return Difference(middle, low, high, counts, 1 in counts)


def verdict(found: Difference | None, claimed: float = 0) -> str:
    """What a difference says of the claim that it is above zero; one of `VERDICTS`.

    "holds" if the whole interval lies above zero; "does not hold" if it does not, and all
    of it lies below what was claimed (or below zero); else "cannot be decided".
    """
    if found is None:
        return "not run"
    if found.low is None or found.high is None:
        return "cannot be decided"
    if found.low > 0:
        return "holds"
    return "does not hold" if found.high < max(claimed, 0) else "cannot be decided"
