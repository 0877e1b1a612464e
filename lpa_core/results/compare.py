"""Is one network better than another, as far as a few training runs can tell?

All verdicts and intervals are computed here. `verdict` decides whether a difference is
above zero, `size_of` whether it is as large as the paper's.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev
from typing import Any, cast

import scipy

__all__ = [
    "SIZES",
    "VERDICTS",
    "Difference",
    "difference",
    "difference_text",
    "half_interval",
    "holm",
    "size_of",
    "verdict",
]

LEVEL = 0.95  # of an interval
VERDICTS = HOLDS, OPPOSITE, OPEN, NOT_RUN = (
    "holds",
    "does not hold",
    "cannot be decided",
    "not run",
)
SIZES = SMALLER, SAME, LARGER = (
    "smaller than the paper's",
    "of the paper's size",
    "larger than the paper's",
)


@dataclass(frozen=True)
class Difference:
    """A difference of two means over training runs.

    Attributes:
        mean: the first mean minus the second.
        low, high: its 95 % interval over training runs; None if no spread is known.
        trainings: the number of runs of the first and of the second; 0 for a fixed number.
        borrowed: one of the two was trained once, and is assumed to vary like the other.
        p: of the two-sided t-test against zero that matches the interval; None if there is
            no interval, or if nothing is tested because no two runs can differ.
    """

    mean: float
    low: float | None
    high: float | None
    trainings: tuple[int, int]
    borrowed: bool = False
    p: float | None = None


def difference(first: Sequence[float], second: Sequence[float] | float) -> Difference:
    """The mean of `first` minus that of `second`, with one number per training run.

    With at least two runs of each, the interval is Welch's. If one of them has a single
    run, it is assumed to vary like the other (Student's, with the other's degrees of
    freedom). If both have a single run, there is no interval. A number as `second` has no
    variance.

    Raises:
        ValueError: there is nothing to compare.
    """
    fixed = isinstance(second, int | float)
    counts = len(first), 0 if fixed else len(second)
    if not counts[0] or not (fixed or counts[1]):
        raise ValueError(f"a difference of {counts[0]} and {counts[1]} trainings")
    middle = mean(first) - (second if fixed else mean(second))
    several = [v for v in (first, () if fixed else second) if len(v) > 1]
    borrowed = 1 in counts
    if not several:
        return Difference(middle, None, None, counts)
    if not any(stdev(v) for v in several):  # they are identical
        return Difference(middle, middle, middle, counts, borrowed, float(middle == 0))
    if not fixed and not borrowed:
        test: Any = scipy.stats.ttest_ind(first, second, equal_var=False)
        low, high = test.confidence_interval(LEVEL)
        return Difference(
            middle, float(low), float(high), counts, False, float(test.pvalue)
        )
    n = len(several[0])
    error = stdev(several[0]) * sqrt(1 / n if fixed else 1 + 1 / n)
    low, high = scipy.stats.t.interval(LEVEL, n - 1, middle, error)
    p = 2 * scipy.stats.t.sf(abs(middle) / error, n - 1)
    return Difference(middle, float(low), float(high), counts, borrowed, float(p))


def holm(differences: Sequence[Difference | None]) -> list[float | None]:
    """Holm's corrected p for a family of differences; None for those not tested."""
    tested = [n for n, d in enumerate(differences) if d is not None and d.p is not None]
    corrected: list[float | None] = [None] * len(differences)
    if tested:
        from statsmodels.stats.multitest import multipletests

        raw = [differences[n].p for n in tested]  # pyright: ignore[reportOptionalMemberAccess]
        # multipletests first runs the garbage collector: 0.4 s if torch is loaded.
        gc.freeze()
        try:
            _, adjusted, *_ = cast(Any, multipletests(raw, method="holm"))
        finally:
            gc.unfreeze()
        for n, p in zip(tested, adjusted, strict=True):
            corrected[n] = float(p)
    return corrected


def verdict(found: Difference | None, corrected: float | None = None) -> str:
    """Whether a difference supports the claim that it is above zero; one of `VERDICTS`.

    "holds" if the whole interval is above zero, "does not hold" if all of it is below,
    "cannot be decided" if zero is inside or there is no interval.

    Args:
        corrected: its p after `holm`, if it is one of several parts: a sign is then
            decided only if this is also below 5 %.
    """
    if found is None:
        return NOT_RUN
    if found.low is None or found.high is None or found.low <= 0 <= found.high:
        return OPEN
    if corrected is not None and corrected > 1 - LEVEL:
        return OPEN
    return HOLDS if found.low > 0 else OPPOSITE


def size_of(found: Difference | None, reported: float | None) -> str:
    """Whether the interval contains the paper's difference; one of `SIZES`, or "" if the
    paper has none or there is no interval."""
    if found is None or found.low is None or found.high is None or reported is None:
        return ""
    if found.high < reported:
        return SMALLER
    return LARGER if found.low > reported else SAME


def difference_text(found: Difference | None, form: str = ".2f") -> str:
    """A difference and the ends of its interval: +8.70 (-3.60 to +21.00)."""
    if found is None:
        return NOT_RUN
    if found.low is None or found.high is None:
        return f"{found.mean:+{form}} (no interval)"
    return f"{found.mean:+{form}} ({found.low:+{form}} to {found.high:+{form}})"


def half_interval(rate: float, count: int) -> float:
    """Half the width of the 95 % interval of a rate in per cent, over `count` images.

    Student's, like for all means here, over `count` values that are 0 or 100. It is too
    narrow near 0 and 100 %.

    Raises:
        ValueError: the rate is not in per cent, or there are fewer than two images.
    """
    if not 0 <= rate <= 100 or count < 2:
        raise ValueError(
            f"a rate of {rate:g} % over {count:g} images: give 0 to 100 % and at least 2"
        )
    error = sqrt(rate * (100 - rate) / (count - 1))
    return float(scipy.stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
