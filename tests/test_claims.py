"""Differences between trainings, and what they say of the paper's claims.

Guarded: intervals against scipy's and against a table of Student's t; that what was not
run, trained once or trained otherwise decides nothing; that signs point the right way.
"""

import json
from math import sqrt

import numpy as np
import pytest
from scipy import stats
from test_measurements import a_measurement, attack_of, segment_of, transfer_of
from test_records import a_record

from lpa_core.networks import build_network
from lpa_core.networks.cost import multiply_adds
from lpa_core.results import (
    CLAIMS,
    claim_findings,
    claims_table,
    difference,
    difference_text,
    judge_claims,
    paper,
    read_measurements,
    read_records,
    shipped,
    verdict,
)
from lpa_core.results.claims import (
    attention_share,
    attention_shares,
    claims_overview,
    title,
)
from lpa_core.results.compare import VERDICTS, Difference, half_interval, holm, size_of

ATT2, ATT3 = "vgg-att2-concat-pc", "vgg-att3-concat-pc"


# ------------------------------------------------------------------------- differences


@pytest.mark.parametrize("counts", [(2, 2), (3, 5), (7, 2)])
def test_two_trainings_of_each_or_more_have_welchs_interval(counts):
    random = np.random.default_rng(sum(counts))
    first, second = (random.normal(8, 1 + n, n) for n in counts)
    low, high = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    found = difference(list(first), list(second))
    assert (found.low, found.high) == pytest.approx((low, high))
    p = stats.ttest_ind(first, second, equal_var=False).pvalue
    assert found.p == pytest.approx(p) and (found.p < 0.05) == (low > 0 or high < 0)
    assert found.mean == pytest.approx(first.mean() - second.mean())
    assert found.trainings == counts and not found.borrowed


def test_a_single_training_borrows_the_others_spread():
    found = difference([9.0], [8.0, 8.5, 9.0])
    half = 4.302653 * 0.5 * sqrt(1 + 1 / 3)  # t of 2 degrees of freedom, from a table
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert found.borrowed
    p = 2 * stats.t.sf(0.5 / (0.5 * sqrt(4 / 3)), 2)
    assert found.p == pytest.approx(p)
    turned = difference([8.0, 8.5, 9.0], [9.0])
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_a_number_does_not_spread():
    values = [1.2, 1.4, 1.9]
    found = difference(values, 1.0)
    low, high = stats.ttest_1samp(values, 1.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low - 1, high - 1))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 1.0).pvalue)
    assert found.trainings == (3, 0) and not found.borrowed


def test_one_training_of_each_has_no_interval_and_decides_nothing():
    for found in (difference([9.0], [1.0]), difference([9.0], 1.0)):
        assert found.mean == 8 and found.low is None and found.high is None
        assert verdict(found) == "cannot be decided"


def test_trainings_that_agree_to_the_bit():
    found = difference([2.0, 2.0], [1.0, 1.0])
    assert (found.low, found.high, found.p) == (1.0, 1.0, 0.0)
    assert difference([2.0, 2.0], 2.0).p == 1.0


def test_nothing_cannot_be_compared():
    with pytest.raises(ValueError, match="0 and 2 trainings"):
        difference([], [1.0, 2.0])


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 9.0, "holds"),
        (-0.1, 0.2, "cannot be decided"),
        (-2.0, -1.0, "does not hold"),
        (0.0, 1.0, "cannot be decided"),
    ],
)
def test_a_verdict_is_of_the_whole_interval(low, high, said):
    found = Difference((low + high) / 2, low, high, (3, 3), p=0.01)
    assert verdict(found) == verdict(found, 0.049) == said
    assert verdict(found, 0.051) == "cannot be decided"
    assert verdict(None) == "not run"


@pytest.mark.parametrize(
    ("low", "high", "reported", "said"),
    [
        (0.1, 0.2, 5, "smaller than the paper's"),
        (-9.0, 5.1, 5, "of the paper's size"),
        (6.0, 9.0, 5, "larger than the paper's"),
        (-2.0, -1.0, -5, "larger than the paper's"),
        (0.1, 0.2, None, ""),
        (None, None, 5, ""),
    ],
)
def test_the_size_is_another_question_than_the_sign(low, high, reported, said):
    assert size_of(Difference(1.0, low, high, (3, 3)), reported) == said
    assert size_of(None, reported) == ""


def test_holm_multiplies_the_smallest_p_by_the_most():
    """By hand: 3 x 0.01, then the larger of it and 2 x 0.02, then of that and 1 x 0.04."""
    family = [
        Difference(1, 0, 2, (3, 3), p=0.04),
        None,
        Difference(1, None, None, (1, 1)),
        Difference(1, 0, 2, (3, 3), p=0.01),
        Difference(1, 0, 2, (3, 3), p=0.02),
    ]
    assert holm(family) == [
        pytest.approx(0.04),
        None,
        None,
        *map(pytest.approx, (0.03, 0.04)),
    ]
    assert holm([None]) == [None]


def test_a_difference_is_told_with_its_interval_or_without():
    assert difference_text(None) == "not run"
    assert difference_text(difference([3.0], [1.0])) == "+2.00 (no interval)"
    half = 12.7062047 * sqrt(0.5) * sqrt(2)  # t of 1 degree of freedom, from a table
    told = difference_text(difference([1.0, 3.0], 4.0), ".1f")
    assert told == f"-2.0 ({-2 - half:+.1f} to {-2 + half:+.1f})"


def test_half_an_interval_of_a_rate_is_students():
    """Of 100 values, half of them 0 and half 100, as of any other values."""
    values = [0.0, 100.0] * 50
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert half_interval(50, 100) == pytest.approx((high - low) / 2)
    assert half_interval(0, 10) == half_interval(100, 10) == 0
    for rate, count in ((101, 10), (-1, 10), (50, 1)):
        with pytest.raises(ValueError, match="give 0 to 100 % and at least 2"):
            half_interval(rate, count)


# ------------------------------------------------------------------------------ claims


def of(findings, claim, **wanted):
    """The one finding of a claim that has these attributes; `part` by its beginning."""
    begin = wanted.pop("part", "")
    found = [
        f
        for f in findings
        if f.claim == claim
        and f.part.startswith(begin)
        and all(getattr(f, name) == value for name, value in wanted.items())
    ]
    assert len(found) == 1, [f.part for f in found]
    return found[0]


def test_without_records_nothing_is_decided_and_nothing_is_left_out():
    findings = judge_claims([], [])
    assert {f.claim for f in findings} == set(CLAIMS)
    assert {f.verdict for f in findings} == {"not run"}
    frame = claims_table(findings)
    assert len(frame) == len(findings) and frame["measured"].isna().all()
    plain = of(findings, 1, dataset="cifar10")
    assert plain.paper == pytest.approx(7.77 - 5.23)
    pan = of(findings, 2, dataset="svhn", part="error of vgg-pan")
    assert pan.paper == pytest.approx(8.02 - 3.74)
    assert of(findings, 3, dataset="cifar100").paper == pytest.approx(1.5)
    gap = of(findings, 4, dataset="cub200", part="fooling rate at 1 of")
    assert gap.paper == pytest.approx(58.58 - 53.78)
    others = of(findings, 5, dataset="caltech256", part=f"accuracy of {ATT2} - vgg")
    orders = [f for f in findings if f.claim == 9 and f.dataset == "cifar10"]
    by_part = {f.part: f.paper for f in orders}
    assert by_part["error of vgg-att2-concat-dp - vgg-att2-concat-pc"] == pytest.approx(
        0.63
    )
    assert by_part["error of vgg-att2-indep-pc - vgg-att2-concat-pc"] == pytest.approx(0.13)
    assert by_part[f"error of {ATT2} - {ATT3}"] == pytest.approx(5.23 - 6.34)
    birds = of(findings, 9, part="error of rn34")
    assert birds.dataset == "cub200" and birds.paper == pytest.approx(26.5 - 26.8)
    assert of(findings, 6, part=f"Jaccard of {ATT3}, with").paper is None
    assert others.paper == pytest.approx(26.54 - 13.16)
    more = of(findings, 5, dataset="caltech256", part=f"accuracy of {ATT2}, trained on")
    assert more.paper == pytest.approx(41.55 - 26.54)
    mcg = of(findings, 6, part=f"horse: Jaccard of {ATT3} - mcg")
    assert mcg.paper == pytest.approx(40.95 - 37.85) and not mcg.control
    assert of(findings, 6, part=f"horse: Jaccard of {ATT2} - mcg").control
    said = [f for f in findings if f.claim == 6 and not f.control and f.paper is not None]
    margins = [
        min(f.paper for f in said if f.against in names)
        for names in (("vgg-gap", "vgg-pan"), ("mcg",))
    ]
    assert margins == pytest.approx([11.4, 3.1])  # the paper: "11% and 3%"


def test_errors_are_compared_among_trainings_of_one_kind():
    runs = [
        *(a_record(n, error=15 + n / 10, seed=n) for n in range(3)),
        *(a_record(n + 3, error=8 + n / 10, network=ATT2, seed=n) for n in range(3)),
        a_record(0, error=15, seed=0).model_copy(update={"device": "another"}),
        a_record(6, error=99, network=ATT2, width=1.0),
        a_record(7, error=99, network=ATT2, epochs=20),
        a_record(8, error=99, network=ATT2, train_images=1000),
        a_record(9, error=9, network="vgg-hires"),
        a_record(10, error=40, dataset="cub50"),
        a_record(11, error=30, dataset="cub50", network=ATT2),
    ]
    findings = judge_claims(runs, [])
    vgg = of(findings, 1, dataset="cifar10", control=False)
    assert vgg.measured.mean == pytest.approx(7) and vgg.verdict == "holds"
    assert vgg.measured.trainings == (3, 3) and "3 epochs" in vgg.how
    control = of(findings, 1, dataset="cifar10", control=True, network=ATT2)
    assert vgg.at_equal_cost == "against vgg-hires holds"
    assert control.measured.mean == pytest.approx(0.9) and control.measured.borrowed
    birds = of(findings, 1, dataset="cub50")
    assert birds.verdict == "cannot be decided" and birds.paper is None
    assert of(findings, 1, dataset="cub200").verdict == "not run"


def test_networks_that_were_trained_differently_are_not_compared():
    runs = [a_record(0), a_record(1, network=ATT2, width=1.0)]
    assert of(judge_claims(runs, []), 1, dataset="cifar10").verdict == "not run"


def test_fooling_rates_and_the_gap_that_closes():
    ours = []
    for seed in range(3):
        ours += [
            attack_of(seed, "vgg", {1: 60.0 + seed, 16: 90.0}),
            attack_of(seed + 3, ATT2, {1: 50.0 + seed, 16: 90.0}),
            attack_of(seed + 6, ATT2, {1: 0.0}, settings={"attack": "pgd"}),
        ]
    findings = judge_claims([], ours)
    gap = of(findings, 4, dataset="cub200", part="fooling rate at 1 of")
    closing = of(findings, 4, dataset="cub200", part="fooling rate at 1 less")
    assert gap.measured.mean == pytest.approx(10) and gap.verdict == "holds"
    assert closing.measured.mean == pytest.approx(10)


def test_accuracies_on_other_domains_have_their_own_sign():
    ours = [transfer_of(n, "vgg", 36.0 + n) for n in range(2)]
    ours += [transfer_of(n + 2, ATT2, 56.0 + n) for n in range(2)]
    ours += [transfer_of(9, ATT2, 99.0, weights={"sha256": "9", "dataset": "cifar100"})]
    findings = judge_claims([], ours)
    found = of(findings, 5, dataset="caltech101", part=f"accuracy of {ATT2} - vgg")
    assert found.measured.mean == pytest.approx(20) and found.verdict == "holds"
    assert "8,677 images" in found.how and "trained on cifar10" in found.how
    more = of(findings, 5, dataset="caltech101", part=f"accuracy of {ATT2}, trained on")
    assert more.measured.mean == pytest.approx(99 - 56.5) and more.measured.borrowed
    assert more.measured.trainings == (1, 2) and more.how.startswith(ATT2)


def test_the_hundred_classes_repeat_the_question_about_other_domains():
    def from_a_hundred(number, network, accuracy):
        return transfer_of(
            number,
            network,
            accuracy,
            weights={"sha256": f"{number}", "dataset": "cifar100"},
        )

    ours = [from_a_hundred(9, ATT2, 75.0), from_a_hundred(10, ATT2, 73.0)]
    alone = judge_claims([], ours)
    part = f"accuracy of {ATT2} - vgg, trained on cifar100"
    assert not [f for f in alone if f.part == part]  # no answer, and no question
    findings = judge_claims([], [*ours, from_a_hundred(11, "vgg", 54.0)])
    found = of(findings, 5, dataset="caltech101", part=part)
    assert found.measured.mean == pytest.approx(20) and found.measured.borrowed
    assert found.paper == pytest.approx(74.40 - 54.20) and not found.control
    assert found.trained == "cifar100" and "trained on cifar100" in found.how
    ten = of(
        findings,
        5,
        dataset="caltech101",
        part=f"accuracy of {ATT2} - vgg",
        trained="cifar10",
    )
    assert ten.verdict == "not run"


def test_segmentation_against_networks_and_against_what_was_not_trained():
    scores = {"Car": 0.4, "airplane": 0.3, "horse": 0.3, "dog": 0.3}
    ours = [
        segment_of(n, ATT3, "attention", scores | {"Car": 0.4 + n / 100}) for n in range(3)
    ]
    ours += [segment_of(4, "vgg-gap", "cam", scores | {"Car": 0.1})]
    ours += [segment_of(5, None, "mc", scores | {"Car": 0.6})]
    ours += [segment_of(6, None, "bms", scores | {"Car": 0.5})]
    ours += [segment_of(7, None, "centre", scores)]
    findings = judge_claims([], ours)
    gap = of(findings, 6, dataset="coseg", part=f"car: Jaccard of {ATT3} - vgg-gap")
    assert gap.measured.mean == pytest.approx(31) and gap.verdict == "holds"
    mc = of(findings, 6, dataset="coseg", part=f"car: Jaccard of {ATT3} - mc")
    assert mc.control and mc.measured.mean == pytest.approx(-19)
    assert mc.verdict == "does not hold"
    of(findings, 6, dataset="coseg", part=f"car: Jaccard of {ATT3} - bms-fixation-batch")
    dog = [f.against for f in findings if f.part.startswith("dog: ") and f.measured]
    assert dog == ["centre"]
    owed = of(
        findings, 6, dataset="object_discovery", part=f"car: Jaccard of {ATT3} - vgg-gap"
    )
    nine = paper.figure9()
    told = nine[ATT3]["car"]["cifar10"].mean - nine["vgg-gap"]["car"]["cifar10"].mean
    assert owed.verdict == "not run" and owed.paper == pytest.approx(told)


def refined(measurement, jaccard):
    settings = measurement.settings | {"refine": "dense-crf"}
    metrics = {name: {"jaccard": jaccard, "images": 10} for name in measurement.metrics}
    return measurement.model_copy(update={"settings": settings, "metrics": metrics})


def test_refined_masks_are_compared_with_those_of_the_same_map_and_with_no_others():
    plain = [
        segment_of(n, ATT3, "attention", {"all": 0.3 + n / 50, "car": 0.4})
        for n in range(3)
    ]
    gap = segment_of(4, "vgg-gap", "attention", {"all": 0.2, "car": 0.1})
    before = judge_claims([], [*plain, gap])
    # Weights 1 and 2 were refined, 0 was not: its score is not in the difference.
    others = [gap, segment_of(5, "vgg-gap", "attention", {"all": 0.2, "car": 0.1})]
    more = [refined(plain[1], 0.36), refined(plain[2], 0.39)]
    more += [refined(one, 0.9) for one in others]
    after = judge_claims([], [*plain, gap, *more])
    part = f"Jaccard of {ATT3}, with a conditional random field"
    assert of(before, 6, part=part).verdict == "not run"
    found = of(after, 6, part=part)
    assert found.measured.mean == pytest.approx((4 + 5) / 2)
    assert found.measured.trainings == (2, 0)
    for one, other in zip(before, after, strict=True):
        if "random field" not in one.part:
            assert one.measured == other.measured


def test_levels_and_queries():
    def look(number, densities):
        layers = {f"layer{n}": {"density": d} for n, d in densities.items()}
        return a_measurement(
            number, "look", ATT3, settings={}, metrics={"attention": layers},
            data={"name": "coseg"},
        )  # fmt: skip

    def query(number, network, moved, gained):
        kinds = {
            kind: {"moved": {"mean": moved}, "gained": {"mean": g}}
            for kind, g in zip(("same class", "other class"), gained, strict=True)
        }
        return a_measurement(
            number, "query", network, settings={"layer": "layer10"}, metrics=kinds,
            data={"name": "coseg"},
        )  # fmt: skip

    ours = [look(n, {7: 0.5 + n / 100, 10: 9.0, 13: 2.0 + n / 10}) for n in range(3)]
    ours += [query(5, ATT3, 1e-7, (0.0, 0.0))]
    ours += [query(n, "vgg-att2-concat-dp", 0.3, (0.1, 0.2 + n / 100)) for n in (6, 7, 8)]
    findings = judge_claims([], ours)
    low = of(findings, 7, part=f"layer7 of {ATT3}")
    high = of(findings, 7, part=f"layer13 of {ATT3}")
    assert not low.control and of(findings, 7, part=f"layer10 of {ATT2} avoids").control
    assert low.measured.mean == pytest.approx(0.49) and low.verdict == "holds"
    assert high.measured.mean == pytest.approx(1.1) and high.verdict == "holds"
    assert (
        of(findings, 8, control=False, part="another query moves less").verdict == "holds"
    )
    assert of(findings, 8, part="another query moves more").verdict == "holds"
    steered = of(findings, 8, part="it moves towards")
    assert steered.measured.mean == pytest.approx(-0.17)
    assert steered.verdict == "does not hold"


@pytest.mark.parametrize(
    "way",
    [
        {"beginning": "scripts"},
        {"beginning": "u0.2"},
        {"trained": "paper, 300 epochs"},
    ],
)
def test_maps_of_networks_that_began_or_were_trained_otherwise_are_not_pooled(way):
    def look(number, density, **weights):
        layers = {"layer7": {"density": density}, "layer13": {"density": 1 + density}}
        return a_measurement(
            number, "look", ATT3, settings={}, metrics={"attention": layers},
            data={"name": "coseg"}, weights=weights,
        )  # fmt: skip

    def map_of(number, network, method, score, **weights):
        scores = {"car": score}
        return segment_of(number, network, method, scores, weights=weights)

    like = [look(n, 0.5 + n / 100) for n in range(3)]
    like += [map_of(n + 10, ATT3, "attention", 0.4 + n / 100) for n in range(3)]
    like += [map_of(n + 20, "vgg-gap", "cam", 0.1 + n / 100) for n in range(3)]
    unlike = [look(n + 30, 9.0, **way) for n in range(2)]
    unlike += [map_of(n + 40, ATT3, "attention", 0.9, **way) for n in range(2)]
    car = f"car: Jaccard of {ATT3} - vgg-gap"
    alone, both = (judge_claims([], ours) for ours in (like, [*like, *unlike]))
    for claim, wanted in (
        (7, {"part": f"layer7 of {ATT3}"}),
        (7, {"part": f"layer13 of {ATT3}"}),
        (6, {"dataset": "coseg", "part": car}),
    ):
        before, after = (of(found, claim, **wanted) for found in (alone, both))
        assert after.measured == before.measured
        assert after.measured.trainings[0] == 3
    # Nor are they compared with networks that were trained otherwise.
    other = [map_of(1, ATT3, "attention", 0.9, **way), map_of(2, "vgg-gap", "cam", 0.1)]
    found = of(judge_claims([], other), 6, dataset="coseg", part=car)
    assert found.verdict == "not run"


def test_a_birds_parts_are_judged_where_they_are_measured():
    """Densities of 2.3 and 2.4 on eyes and beak at layer 10, of 0.8 on feet at layer 13."""

    def parts(number, **densities):
        metrics = {
            layer: {group: {"density": value} for group, value in rows.items()}
            for layer, rows in densities.items()
        }
        return a_measurement(
            number, "parts", ATT2, settings={"radius": 0.1}, metrics=metrics,
            data={"name": "cub50"}, weights={"dataset": "cub50"},
        )  # fmt: skip

    ours = [
        parts(
            n,
            layer10={"eyes and beak": 2.3 + n / 10, "feet": 5.0},
            layer13={"feet": 0.8 + n / 100},
        )
        for n in range(2)
    ]
    findings = judge_claims([], ours)
    eyes = of(findings, 7, part=f"layer10 of {ATT2} seeks a bird's eyes and beak")
    assert (eyes.dataset, eyes.control, eyes.unit) == ("cub50", False, "times")
    assert eyes.measured.mean == pytest.approx(1.35)
    feet = of(findings, 7, part=f"layer13 of {ATT2} seeks a bird's feet")
    assert feet.measured.mean == pytest.approx(-0.195)
    assert feet.verdict == "does not hold"
    missing = of(findings, 7, part=f"layer13 of {ATT2} seeks a bird's plumage")
    assert missing.verdict == "not run"
    # Networks that never saw these birds answer for VGG-att3 alone: figure 2.
    strange = [
        one.model_copy(
            update={
                "network": network,
                "weights": one.weights.model_copy(update={"dataset": "cifar10"}),
            }
        )
        for one in [parts(n, layer10={"eyes and beak": 1.5}) for n in (7, 8, 9)]
        for network in (ATT2, ATT3)
    ]
    again = judge_claims([], [*ours, *strange])
    part = f"layer10 of {ATT2} seeks a bird's eyes and beak"
    assert of(again, 7, part=part).measured == eyes.measured
    part = f"layer10 of {ATT3} seeks a bird's"
    assert of(findings, 7, part=f"{part} eyes and beak").verdict == "not run"
    found = of(again, 7, part=f"{part} eyes and beak")
    assert (found.dataset, found.measured.mean) == ("cub50", pytest.approx(0.5))
    assert of(again, 7, part=f"{part} plumage").verdict == "not run"


def test_a_query_that_moves_a_pc_map_is_noticed():
    kinds = {k: {"moved": {"mean": 0.2}, "gained": {"mean": 0.0}}
             for k in ("same class", "other class")}  # fmt: skip
    moved = a_measurement(1, "query", ATT2, settings={"layer": "layer10"}, metrics=kinds)
    found = of(judge_claims([], [moved]), 8, control=True, part="another query moves less")
    assert found.verdict == "does not hold"


def test_the_books_own_records_can_be_judged():
    findings = judge_claims(read_records(), read_measurements())
    assert {f.verdict for f in findings} <= set(VERDICTS)
    for width, said in ((0.25, ""), (1.0, ", full width")):
        errors = {
            name: [
                r.metrics["test_error"]
                for r in read_records()
                if (
                    r.spec.network,
                    r.spec.dataset,
                    r.spec.width,
                    r.spec.recipe_label(),
                    r.epochs,
                )
                == (name, "cifar10", width, "fast", 10)
                and not r.spec.beginning()
            ]
            for name in ("vgg", ATT2)
        }
        (vgg,) = (
            f
            for f in findings
            if (f.part, f.dataset) == (f"error of vgg - {ATT2}{said}", "cifar10")
        )
        assert vgg.measured.mean == pytest.approx(
            np.mean(errors["vgg"]) - np.mean(errors[ATT2])
        )


def test_the_papers_width_is_asked_by_itself_and_is_not_mixed_with_narrower_controls():
    narrow = {"vgg": 15.0, ATT2: 8.5, "vgg-hires": 12.0, "vgg-mean2": 12.5}
    full = {"vgg": 9.0, ATT2: 6.0, "vgg-mean2": 5.9}
    runs = [
        a_record(n, error=error + n / 10, network=name, seed=n, width=width)
        for width, errors in ((0.25, narrow), (1.0, full))
        for name, error in errors.items()
        for n in range(3)
    ]
    findings = [f for f in claim_findings(1, runs, [], "cifar10") if not f.control]
    assert [f.part for f in findings] == [
        f"error of vgg - {ATT2}", f"error of vgg - {ATT2}, full width",
    ]  # fmt: skip
    assert [f.measured.mean for f in findings] == pytest.approx([6.5, 3.0])
    assert [f.at_equal_cost for f in findings] == [
        "against vgg-hires holds; against vgg-mean2 holds",
        "against vgg-hires not run; against vgg-mean2 cannot be decided",
    ]
    # Of the three networks of the sentence, all are of one width.
    said = attention_share(claim_findings(1, runs, []))
    assert all(f"{points:+.2f} " in said for points in (6.5, 2.5, 4.0))
    assert attention_shares(claim_findings(1, runs, [])) == said  # no other set has runs
    only = [r for r in runs if r.spec.width == 1]
    (one,) = (f for f in claim_findings(1, only, [], "cifar10") if not f.control)
    assert one.part.endswith(", full width") and one.measured.mean == pytest.approx(3)


def test_the_sentence_says_how_each_set_was_trained():
    """Sets are trained differently, and the figures of one must not pass for another's."""
    ways = {"cifar10": 10, "cub127": 60}
    runs = [
        a_record(n, error + n / 10, epochs, network=name, dataset=dataset)
        for dataset, epochs in ways.items()
        for name, error in {"vgg": 15.0, ATT2: 8.5, "vgg-mean2": 8.7}.items()
        for n in range(3)
    ]
    said = attention_shares(claim_findings(1, runs, []))
    assert said.startswith("On CIFAR-10 (")
    first, birds = said.split(" On 127 species of birds (")
    assert "10 epochs)" in first and "60 epochs" not in first
    assert "60 epochs), the three figures are" in birds and "10 epochs" not in birds


def test_a_set_has_its_name_in_prose():
    names = {"cifar100": "CIFAR-100", "cub127": "127 species of birds", "cub200": "cub200"}
    assert {name: title(name) for name in names} == names


def test_a_wide_baseline_is_asked_beside_networks_of_its_cost():
    def costs(network, width):
        return multiply_adds(build_network(network, num_classes=10, width=width))

    assert costs("vgg", 0.87) == pytest.approx(costs(ATT2, 0.25), rel=0.01)
    rows = (("vgg", 0.25, 15.0), ("vgg", 0.87, 9.0), (ATT2, 0.25, 8.0), (ATT2, 0.87, 1.0))
    runs = [
        a_record(n, error=error + n / 10, network=network, seed=n, width=width)
        for network, width, error in rows
        for n in range(3)
    ]
    findings = claim_findings(1, runs, [], "cifar10")
    wide = {f.part: f for f in findings if "wide" in f.part}
    assert {part: f.measured.mean for part, f in wide.items()} == {
        "error of vgg - vgg-wide": pytest.approx(6),
        f"error of vgg-wide - {ATT2}": pytest.approx(1),
    }
    assert all(f.control and "width 0.25" in f.how for f in wide.values())
    plain = of(findings, 1, part=f"error of vgg - {ATT2}", control=False)
    assert plain.at_equal_cost == "against vgg-wide holds"


def test_networks_of_another_set_or_beginning_are_asked_by_themselves():
    def look(number, network=ATT3, diversity=0.1, density=0.5, **weights):
        layers = {f"layer{n}": {"density": density, "diversity": diversity}
                  for n in (7, 10, 13)}  # fmt: skip
        return a_measurement(
            number, "look", network, settings={}, metrics={"attention": layers},
            data={"name": "coseg"}, weights=weights,
        )  # fmt: skip

    # As many of each: the order in the file must not choose.
    other = [look(n + 10, density=5.0 + n, beginning="scripts") for n in range(3)]
    hundred = [
        look(n + 20, density=7.0, diversity=0.3 + n / 100, dataset="cifar100")
        for n in range(3)
    ]
    usual = [look(n, diversity=0.1 + n / 100) for n in range(3)]
    scores = {"Car": 0.4, "airplane": 0.3, "horse": 0.3}
    maps = [
        segment_of(n + 30 * k, network, method, scores | {"Car": car + n / 100},
                   weights={"dataset": dataset, "sha256": f"{dataset}{k}{n}"})
        for k, (network, method, dataset, car) in enumerate([
            (ATT3, "attention", "cifar100", 0.7), ("vgg-gap", "cam", "cifar100", 0.2),
            (ATT3, "attention", "cifar10", 0.4), ("vgg-gap", "cam", "cifar10", 0.3),
        ])
        for n in range(3)
    ]  # fmt: skip
    findings = judge_claims([], [*other, *hundred, *usual, *maps])
    low = of(findings, 7, part=f"layer7 of {ATT3}")
    assert low.measured.mean == pytest.approx(0.5)
    more = of(findings, 7, part=f"diversity of layer10 of {ATT3}")
    assert more.measured.mean == pytest.approx(0.2) and more.verdict == "holds"
    car = f"car: Jaccard of {ATT3} - vgg-gap"
    ten, more = (
        f for f in findings
        if f.dataset == "coseg" and f.part in (car, f"{car}, trained on cifar100")
    )  # fmt: skip
    assert ten.measured.mean == pytest.approx(10)
    assert more.measured.mean == pytest.approx(50) and not more.control


def test_the_scripts_beginning_is_compared_with_pytorchs():
    def look(number, entropy, **weights):
        layers = {"layer10": {"entropy": entropy, "density": 1.0, "diversity": 0.1}}
        return a_measurement(
            number, "look", ATT2, settings={}, metrics={"attention": layers},
            data={"name": "coseg"}, weights=weights,
        )  # fmt: skip

    runs = [
        a_record(n + 10 * k, error=error + n / 100, network=ATT2, seed=n,
                 initialisation=initialisation, query_std=u)
        for k, (error, initialisation, u) in enumerate(
            [(8.5, None, None), (9.5, "scripts", None), (30.0, None, 0.2),
             (9.0, None, 1.41)])
        for n in range(3)
    ]  # fmt: skip
    looks = [look(n, 0.98 + n / 1000) for n in range(3)]
    looks += [look(n + 10, 0.6 + n / 1000, beginning="scripts") for n in range(3)]
    looks += [look(n + 20, 0.1, beginning="u0.2") for n in range(3)]
    looks += [look(n + 30, 0.5 + n / 1000, beginning="u1.41") for n in range(3)]
    findings = judge_claims(runs, looks)
    alone = of(findings, 7, part=f"error of {ATT2}, begun with u as the scripts")
    assert alone.control and alone.measured.mean == pytest.approx(0.5)
    sharp = of(findings, 7, part=f"entropy of layer10 of {ATT2}, begun with u as")
    assert sharp.measured.mean == pytest.approx(-0.48)
    # Two questions, so two families of Holm's correction, each of two parts here.
    assert sharp.corrected == pytest.approx(2 * min(sharp.measured.p, alone.measured.p))
    error = of(findings, 7, part=f"error of {ATT2}, begun as the scripts")
    assert error.control and error.measured.mean == pytest.approx(1.0)
    assert error.verdict == "holds" and error.measured.trainings == (3, 3)
    flat = of(findings, 7, part=f"entropy of layer10 of {ATT2}, begun as the scripts")
    assert flat.measured.mean == pytest.approx(-0.38) and flat.verdict == "does not hold"
    assert flat.how == "trained on cifar10, width 0.25, 100 images, 32 pixels"


def test_birds_are_asked_on_the_set_with_most_networks():
    def parts(number, dataset, density):
        return a_measurement(
            number, "parts", ATT2, settings={},
            metrics={"layer10": {"eyes and beak": {"density": density}}},
            data={"name": dataset}, weights={"dataset": dataset},
        )  # fmt: skip

    ours = [parts(0, "cub50", 9.0), *(parts(n, "cub127", 2.0) for n in (1, 2))]
    eyes = of(judge_claims([], ours), 7, part=f"layer10 of {ATT2} seeks")
    assert eyes.dataset == "cub127" and eyes.measured.mean == pytest.approx(1)


def test_one_claim_and_one_set_are_selected_from_all_that_is_judged():
    every = judge_claims(read_records(), read_measurements())
    found = claim_findings(6, read_records(), read_measurements(), dataset="coseg")
    assert found == [f for f in every if f.claim == 6 and f.dataset == "coseg"]
    assert found and len(claim_findings(6, [], [])) > 1
    with pytest.raises(ValueError, match="no claim 10: choose one of 1, 2, "):
        claim_findings(10, [], [])


def test_a_claim_looks_at_its_own_measurements_alone():
    broken = a_measurement(1, "attack", ATT2, settings={}, metrics={})
    assert claim_findings(6, [], [broken])
    with pytest.raises(KeyError):
        claim_findings(4, [], [broken])


def test_p_is_corrected_for_the_other_parts_of_the_claim():
    """With a second part that is tested, p is no longer that of one test."""
    values = {"vgg-att-dp": 10.0, "vgg-att-pc": 8.0}
    runs = [
        a_record(10 * i + n, error=error + n / 10, network=name, seed=n)
        for i, (name, error) in enumerate(values.items())
        for n in range(3)
    ]
    alone = of(
        judge_claims(runs, []),
        9,
        dataset="cifar10",
        part="error of vgg-att-dp - vgg-att-pc",
    )
    assert alone.corrected == pytest.approx(alone.measured.p)
    runs += [
        a_record(50 + n, error=7.9 + n / 10, network="vgg-att2-concat-dp", seed=n)
        for n in range(3)
    ]
    both = of(
        judge_claims(runs, []),
        9,
        dataset="cifar10",
        part="error of vgg-att-dp - vgg-att-pc",
    )
    assert both.measured.p == alone.measured.p < both.corrected


def test_what_holds_against_vgg_says_what_becomes_of_it_at_equal_cost():
    errors = {"vgg": 15.0, "vgg-hires": 9.0, "vgg-mean2": 8.0, ATT2: 8.01}
    runs = [
        a_record(10 * i + n, error=error + n / 10, network=name, seed=n)
        for i, (name, error) in enumerate(errors.items())
        for n in range(3)
    ]
    findings = judge_claims(runs, [])
    vgg = of(findings, 1, dataset="cifar10", control=False)
    assert (
        vgg.at_equal_cost == "against vgg-hires holds; against vgg-mean2 cannot be decided"
    )
    row = claims_overview(findings).iloc[0]
    assert (row["holds"], row["at equal cost"]) == (1, "0 of 1 hold")
    share = attention_share(findings)
    assert "than that of vgg by +6.99 (" in share and "than vgg's by +7.00 (" in share
    assert "attention itself accounts for -0.01 (" in share
    assert share.startswith("On CIFAR-10 (width 0.25, fast, 3 epochs), ")
    assert attention_share([]).count("not run") == 3


def test_every_recorded_difference_is_what_scipy_says():
    """Errors of the shipped records, compared with nothing of lpa_core.results."""
    lines = shipped("results").joinpath("records.jsonl").read_text().splitlines()
    errors: dict = {}
    for record in sorted(map(json.loads, lines), key=lambda r: r["started"]):
        spec = record["spec"]
        begun = spec.get("initialisation") or spec.get("query_std")
        if spec.get("train_images") is None:
            recipe = spec["recipe"], str(spec.get("overrides"))
            key = spec["dataset"], spec["width"], recipe, record["epochs"]
            name = f"{spec['network']}, {begun}" if begun else spec["network"]
            group = errors.setdefault(key, {}).setdefault(name, {})
            group[spec["seed"]] = record["metrics"]["test_error"]
            if (name, spec["width"]) == ("vgg", 0.87):  # costs what others do at 0.25
                errors.setdefault((key[0], 0.25, *key[2:]), {})["vgg-wide"] = group
    compared = 0
    for finding in judge_claims(read_records(), []):
        measured = finding.measured
        if measured is None or measured.p is None or measured.borrowed:
            continue
        words = finding.part.removeprefix("error of ").split(", full width")
        first, second = words[0].split(" - ")
        if ", begun " in first:
            u_alone = "with u as the scripts" in first
            second = first.split(",")[0]
            first = f"{second}, {1.41 if u_alone else 'scripts'}"
        found = []
        for key, group in errors.items():
            if (key[1] == 1) != (len(words) > 1):
                continue
            if key[0] == finding.dataset and {first, second} <= group.keys():
                pair = [list(group[name].values()) for name in (first, second)]
                if tuple(map(len, pair)) == measured.trainings:
                    test = stats.ttest_ind(*pair, equal_var=False)
                    found.append((test.pvalue, *test.confidence_interval(0.95)))
        assert (measured.p, measured.low, measured.high) in [
            pytest.approx(one) for one in found
        ], finding.part
        compared += 1
    assert compared >= 6
