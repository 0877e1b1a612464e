"""What chapters 11 and 12 draw and tabulate: panels hold what they are given, and tables
have the means and standard errors that are computed here by hand."""

from math import hypot, sqrt

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from test_measurements import segment_of, transfer_of

from lpa_core.data import load
from lpa_core.panels import (
    OVERLAP,
    balanced_subset,
    colour_legend,
    compare_methods,
    jaccard_scores,
    mask_overlap,
    panel_grid,
    segment_claims,
    table3_measured,
)
from lpa_core.results import NOT_RUN, claim_findings

ATT2, ATT3 = "vgg-att2-concat-pc", "vgg-att3-concat-pc"


# ------------------------------------------------------------------------------- panels


def test_panels_stand_in_their_rows_with_titles_and_labels():
    image = torch.randint(0, 256, (4, 4, 3), dtype=torch.uint8)
    heat, mask = torch.rand(8, 8), np.eye(6, dtype=bool)
    figure = panel_grid([[image, heat], [mask, heat]], ["a", "b"], ["top", "bottom"])
    first, second, third, _ = figure.axes
    assert np.array_equal(first.images[0].get_array(), image.numpy())
    assert np.array_equal(second.images[0].get_array(), heat.numpy())
    assert second.images[0].get_cmap().name == "inferno"
    assert third.images[0].get_cmap().name == "gray"
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "", ""]
    assert [axis.get_ylabel() for axis in figure.axes] == ["top", "", "bottom", ""]
    titled = panel_grid([[heat], [mask]], ["one", "two"])
    assert [axis.get_title() for axis in titled.axes] == ["one", "two"]
    how = {"cmap": "RdBu_r", "vmin": 0, "vmax": 2}
    (shaded,) = panel_grid([[(heat, how)]]).axes
    assert shaded.images[0].get_clim() == (0, 2)
    assert shaded.images[0].get_cmap().name == "RdBu_r" and not len(shaded.get_xticks())
    plt.close("all")


@pytest.mark.parametrize(
    ("counts", "titles", "labels", "said"),
    [
        ((), 0, 0, "give rows of one length"),
        ((0,), 0, 0, "give rows of one length"),
        ((2, 1), 0, 0, r"rows of \[1, 2\] panels"),
        ((2, 2), 3, 0, "3 titles: give one for each of 2 columns or .* 4 panels"),
        ((2, 2), 0, 1, "1 labels for 2 rows"),
    ],
)
def test_panels_that_fit_nothing_are_refused(counts, titles, labels, said):
    rows = [[np.ones((2, 2))] * count for count in counts]
    with pytest.raises(ValueError, match=said):
        panel_grid(rows, ["t"] * titles, ["l"] * labels)


def test_a_legend_names_each_colour():
    figure, axis = plt.subplots()
    colour_legend(axis, OVERLAP, loc="lower right")
    legend = axis.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == list(OVERLAP)
    shown = [patch.get_facecolor()[:3] for patch in legend.get_patches()]
    assert shown == list(OVERLAP.values())
    plt.close(figure)


def test_an_overlap_has_a_colour_for_each_of_four_cases():
    mask = np.array([[True, True], [False, False]])
    truth = np.array([[True, False], [True, False]])
    (both, mask_only), (truth_only, neither) = mask_overlap(mask, truth)
    assert tuple(both) == OVERLAP["both"]
    assert tuple(mask_only) == OVERLAP["mask only"]
    assert tuple(truth_only) == OVERLAP["truth only"]
    assert len({*map(tuple, (both, mask_only, truth_only, neither))}) == 4


# ------------------------------------------------------------------------------- images


def test_a_balanced_subset_has_as_many_images_of_each_class():
    whole = load("embedded", "shifted")
    chosen = balanced_subset(whole, 600)
    assert chosen.labels.bincount().tolist() == [60] * 10
    assert balanced_subset(whole, 600).fingerprint == chosen.fingerprint
    assert balanced_subset(whole, 600, seed=1).fingerprint != chosen.fingerprint
    uneven = whole.take(
        torch.cat([torch.where(whole.labels == k)[0] for k in (7, 2, 7, 4)])
    )
    few = balanced_subset(uneven, 60)  # 30 each of two classes: the largest is kept
    assert few.labels.unique().numel() == 2 and len(few) == 60
    assert 7 in few.labels


# ------------------------------------------------------------------------------- tables


def test_table_3_has_deviations_over_folds_beside_those_over_trainings():
    metrics = [{"accuracy": a, "std": s} for a, s in ((36.0, 0.4), (38.0, 0.8))]
    ours = [transfer_of(n, "vgg", 0.0, metrics=m) for n, m in enumerate(metrics)]
    elsewhere = {"name": "action40", "split": "all", "images": 9532}
    ours += [transfer_of(4, ATT2, 20.0, data=elsewhere)]
    frame = table3_measured(ours)
    assert set(frame["set"]) == {"caltech101", "action40"}
    row = frame.set_index(["set", "network"]).loc["caltech101", "vgg"]
    assert (row.measured, row["± folds"]) == ("37.00 ± 1.41", "0.60")
    assert (row.n, row.images) == (2, "8,677")
    assert table3_measured([]).empty


def test_a_score_joins_the_errors_over_photographs_and_over_weights():
    ours = [
        segment_of(n, ATT2, "attention", {"car": 0.4 + n / 10, "all": 0.5}) for n in (1, 2)
    ]
    for m, sem in zip(ours, (0.02, 0.04), strict=True):
        m.metrics["car"]["sem"] = sem
    ours += [segment_of(3, None, "centre", {"car": 0.3, "all": 0.3})]
    ours += [segment_of(4, None, "mc", {"car": 0.9, "all": 0.9}, data={"images": 5})]
    frame = jaccard_scores(ours, "coseg").set_index(["method", "class"])
    car = frame.loc[ATT2, "car"]
    assert car.jaccard == pytest.approx(55) and car.weights == 2 and car.images == 100
    over_weights = np.std([50, 60], ddof=1) / sqrt(2)
    assert car.error == pytest.approx(hypot(3, over_weights))
    assert frame.loc[("centre", "car"), "jaccard"] == pytest.approx(30)
    assert np.isnan(frame.loc[("centre", "car"), "error"])  # none was recorded
    assert frame.loc[("centre", "car"), "weights"] == 0  # it is not trained
    assert "mc" not in frame.index  # measured on fewer photographs
    assert jaccard_scores([], "coseg").empty


def test_scores_of_several_widths_are_not_pooled():
    ours = [
        segment_of(n, ATT2, "attention", {"all": n / 10},
                   weights={"sha256": str(n), "dataset": "cifar10", "width": width})
        for n, width in ((1, 0.25), (2, 0.5))
    ]  # fmt: skip
    frame = jaccard_scores(ours, "coseg")
    assert list(frame["method"]) == [f"{ATT2}, width 0.25", f"{ATT2}, width 0.5"]


def test_scores_of_several_trainings_are_not_pooled():
    ours = [
        segment_of(n, ATT2, "attention", {"all": n / 10},
                   weights={"trained": trained, "beginning": beginning})
        for n, (trained, beginning) in enumerate(
            [("fast, 10 epochs", None), (None, None), ("fast, 10 epochs", "scripts"),
             ("fast, 10 epochs", "u0.2"), ("paper, 300 epochs", None)]
        )
    ]  # fmt: skip
    frame = jaccard_scores(ours, "coseg").set_index("method")
    assert frame.weights.to_dict() == {
        ATT2: 2,
        f"{ATT2}, begins scripts": 1,
        f"{ATT2}, begins u0.2": 1,
        f"{ATT2}, paper, 300 epochs": 1,
    }


# ------------------------------------------- the claims' findings for VGG-att3 and by class


def test_findings_of_att3_are_of_its_own_trainings():
    ours = [transfer_of(n, ATT3, 50.0 + n) for n in (1, 2)]
    ours += [transfer_of(n, ATT2, 90.0 + n) for n in (3, 4)]
    ours += [transfer_of(n, "vgg-hires", 40.0 + n) for n in (5, 6)]
    ours += [transfer_of(7, "vgg-mean2", 70.0)]
    found = [f for f in claim_findings(5, [], ours) if f.measured and f.network == ATT3]
    assert [f.part for f in found] == [f"accuracy of {ATT3} - vgg-hires"]
    assert found[0].measured.mean == pytest.approx(51.5 - 45.5) and found[0].control


def test_methods_are_compared_on_the_same_images():
    truths = np.zeros((3, 2, 2), dtype=bool)
    truths[:, 0] = True
    masks = {"all": np.ones_like(truths), "right": truths, "wrong": ~truths}
    table, overview = compare_methods(masks, truths, "all")
    assert table["all"].tolist() == [50, 50, 50]
    assert list(overview.index) == ["right", "all", "wrong"]
    right = overview.loc["right"]
    assert (right["over all"], right.low, right.high) == (50, 50, 50)
    assert (right["Jaccard, %"], right["marks, %"], right["± s.e."]) == (100, 50, 0)


def test_claim_6_is_laid_out_by_class():
    scores = {"airplane": 0.1, "car": 0.2, "horse": 0.3, "bird": 0.4}
    maps = [segment_of(n, ATT3, "attention", scores) for n in (1, 2)]
    maps += [segment_of(3, None, "centre", scores | {"bird": 0.1})]
    frame = segment_claims(maps).set_index(["network", "against", "label"])
    bird = frame.loc[ATT3, "centre", "bird"]
    assert bird.said == "+30.00 (+30.00 to +30.00): holds"
    assert bird.finding.verdict == "holds"
    assert frame.loc[(ATT3, "vgg-gap", "car"), "said"] == NOT_RUN
