"""What the records say about the paper's claims, computed from the data.

The parts of each claim are in `parts`. Each verdict is `compare.verdict` on the interval
over training runs, after Holm's correction for the parts that are tested together.
"""

import re
from dataclasses import replace

import pandas as pd

from lpa_core.results.compare import (
    HOLDS,
    NOT_RUN,
    VERDICTS,
    difference_text,
    holm,
    verdict,
)
from lpa_core.results.parts import (
    ATT2,
    CLAIMS,
    CONTROLS,
    EQUAL_COST,
    JUDGES,
    STAND_INS,
    Finding,
)
from lpa_core.results.side_by_side import latest
from lpa_core.tasks.measurement import Measurement
from lpa_core.training import Record

__all__ = [
    "CLAIMS",
    "COMPARED_ON",
    "CONTROLS",
    "STAND_INS",
    "Finding",
    "attention_share",
    "attention_shares",
    "claim_findings",
    "claims_overview",
    "claims_table",
    "finding_text",
    "judge_claims",
    "shown",
    "title",
]


def judge_claims(records: list[Record], measurements: list[Measurement]) -> list[Finding]:
    """All parts of all claims, decided or not, and this book's controls."""
    return [
        finding
        for claim in CLAIMS
        for finding in claim_findings(claim, records, measurements)
    ]


def claim_findings(
    claim: int,
    records: list[Record],
    measurements: list[Measurement],
    dataset: str | None = None,
) -> list[Finding]:
    """The parts of one claim, then this book's controls for it.

    The parts of the claim are one family of Holm's correction. The controls that ask one
    question on several sets, whether one network is better than another, are a family too.

    Args:
        claim: its number, a key of CLAIMS.
        records, measurements: the results; those that the claim does not use are ignored.
        dataset: only the parts on this set; None for all sets. The correction is over all.

    Raises:
        ValueError: there is no such claim.
    """
    if claim not in CLAIMS:
        raise ValueError(f"no claim {claim!r}: choose one of {', '.join(map(str, CLAIMS))}")
    families: dict[tuple[str, str] | None, list[Finding]] = {None: []}
    for finding in JUDGES[claim](records, latest(measurements)):
        pair = (finding.network, finding.against) if finding.control else None
        families.setdefault(pair, []).append(finding)
    parts, *asked = map(corrected, families.values())
    controls = [finding for family in asked for finding in family]
    parts = [replace(f, at_equal_cost=beside_controls(f, controls)) for f in parts]
    return [f for f in [*parts, *controls] if dataset in (None, f.dataset)]


def corrected(family: list[Finding]) -> list[Finding]:
    """The findings with their p after Holm's correction over all of them."""
    found = holm([finding.measured for finding in family])
    return [replace(f, corrected=p) for f, p in zip(family, found, strict=True)]


def beside_controls(finding: Finding, controls: list[Finding]) -> str:
    """For a part that holds against the plain VGG: against which controls it holds."""
    if finding.against != "vgg" or finding.verdict != HOLDS:
        return ""
    asked: dict[str, str] = {}
    for rival in EQUAL_COST:
        for c in controls:
            pair = c.against, c.network, c.dataset
            if pair != (rival, finding.network, finding.dataset):
                continue
            if quantity(c) != quantity(finding):
                continue
            # What other networks than these do, of another width, say, is no answer.
            same = c.how == finding.how
            asked[rival] = c.verdict if same else asked.get(rival, NOT_RUN)
    return "; ".join(f"against {rival} {said}" for rival, said in asked.items())


def quantity(finding: Finding) -> str:
    """The quantity whose difference a part is: "error", "fooling rate at 1", …"""
    return re.split(" of |, ", finding.part)[0]


def claims_table(findings: list[Finding]) -> pd.DataFrame:
    """Columns: claim, control, part, dataset, paper, measured, low, high, unit, trainings,
    borrowed, p, corrected, verdict, size, at_equal_cost, how; nan for missing values.
    """
    return pd.DataFrame(
        {
            "claim": f.claim,
            "control": f.control,
            "part": f.part,
            "dataset": f.dataset,
            "paper": f.paper,
            "measured": f.measured and f.measured.mean,
            "low": f.measured and f.measured.low,
            "high": f.measured and f.measured.high,
            "unit": f.unit,
            "trainings": f.measured and shown(f.measured.trainings),
            "borrowed": bool(f.measured and f.measured.borrowed),
            "p": f.measured and f.measured.p,
            "corrected": f.corrected,
            "verdict": f.verdict,
            "size": f.size,
            "at_equal_cost": f.at_equal_cost,
            "how": f.how,
        }
        for f in findings
    )


def claims_overview(findings: list[Finding]) -> pd.DataFrame:
    """How many parts of each claim have which verdict. Columns: claim, one for each of
    `VERDICTS`, and how many of those that hold against the plain VGG hold at equal cost."""
    rows = []
    for number, claim in CLAIMS.items():
        own = [f for f in findings if f.claim == number and not f.control]
        verdicts = [f.verdict for f in own]
        asked = [f for f in own if f.at_equal_cost]
        kept = sum(set(f.at_equal_cost.split("; ")) <= KEPT for f in asked)
        rows.append(
            {"claim": f"{number}. {claim}"}
            | {one: verdicts.count(one) for one in VERDICTS}
            | {"at equal cost": f"{kept} of {len(asked)} hold" if asked else ""}
        )
    return pd.DataFrame(rows)


KEPT = {f"against {rival} {HOLDS}" for rival in EQUAL_COST}


def attention_share(findings: list[Finding], dataset: str = "cifar10") -> str:
    """Claim 1 in words: the whole gain, the gain without attention, and attention's own,
    with how the networks were trained."""
    (whole, without, own), how = shares_of(findings, dataset)
    return (
        f"On {title(dataset)}{how}, the test error of {ATT2} is lower than that of vgg by "
        f"{whole} points. vgg-mean2 has the same grid and layers as {ATT2} but no "
        "attention: every position gets the same weight. Its error is lower than vgg's by "
        f"{without} points. So attention itself accounts for {own} points. In brackets: "
        "95 % intervals over training runs."
    )


# The sets on which each step from vgg to attention was trained.
COMPARED_ON = ("cifar10", "cifar100", "cub127")


def attention_shares(findings: list[Finding], *datasets: str) -> str:
    """`attention_share` of the first set, and the same figures of the others in short;
    of those that have any. Without `datasets`, of those of `COMPARED_ON`."""
    first, *others = datasets or COMPARED_ON
    said = [attention_share(findings, first)]
    for dataset in others:
        (whole, without, own), how = shares_of(findings, dataset)
        if verdict(None) not in (whole, without, own):
            said.append(
                f"On {title(dataset)}{how}, the three figures are {whole}, {without} and "
                f"{own}."
            )
    return " ".join(said)


def title(dataset: str) -> str:
    """A data set's name as prose has it: CIFAR-10 of "cifar10", 127 species of birds of
    "cub127", others as they are."""
    species = re.sub(r"^cub(?!200)(\d+)$", r"\1 species of birds", dataset)
    return re.sub(r"^cifar(?=\d)", "CIFAR-", species)


def shares_of(findings: list[Finding], dataset: str) -> tuple[list[str], str]:
    """vgg less attention, vgg less equal weights, equal weights less attention; and how
    those networks were trained, in brackets, or nothing if none were."""
    errors = {f.part: f for f in findings if (f.claim, f.dataset) == (1, dataset)}
    found = [
        errors.get(f"error of {worse} - {better}")
        for worse, better in (("vgg", ATT2), ("vgg", "vgg-mean2"), ("vgg-mean2", ATT2))
    ]
    ways = dict.fromkeys(f.how for f in found if f and f.how)
    differences = [difference_text(f.measured) if f else verdict(None) for f in found]
    return differences, f" ({'; '.join(ways)})" if ways else ""


def finding_text(finding: Finding | None) -> str:
    """A difference, its interval and its verdict, for prose and tables."""
    if finding is None or finding.measured is None:
        return verdict(None)
    return f"{difference_text(finding.measured, finding.form)}: {finding.verdict}"


def shown(trainings: tuple[int, int]) -> str:
    """The numbers of training runs on both sides of a difference, for tables."""
    return " and ".join(str(n) for n in trainings if n)
