"""What chapters share: numbers against hand counts and SciPy, rows of text."""

from datetime import timedelta

import pandas as pd
import pytest
import torch
from scipy import stats

from lpa_core import chapters
from lpa_core.results import Difference, figure6_beside, paper, read_measurements
from lpa_core.results.claims import Finding
from lpa_core.tasks.attack import AttackReport, Strength


@pytest.fixture(scope="module")
def measured():
    return read_measurements()


# -------------------------------------------------------------------------------- networks


def test_what_does_not_ship_is_left_out_and_named(capsys):
    found = chapters.shipped_networks(["vgg", "vgg-att2-indep-dp"], "embedded")
    assert list(found) == ["vgg"]
    assert "vgg-att2-indep-dp: no weights for embedded" in capsys.readouterr().out


def test_a_copy_in_double_precision_leaves_the_network_as_it_is():
    trained = chapters.shipped_networks(["vgg-att2-concat-pc"], "embedded")
    trained = trained["vgg-att2-concat-pc"]
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    precise = chapters.in_precision(trained, torch.float64).attend(images)
    plain = trained.attend(images)
    assert precise.maps["layer10"].dtype == precise.logits.dtype == torch.float64
    assert plain.maps["layer10"].dtype == torch.float32
    torch.testing.assert_close(plain.logits.double(), precise.logits, atol=1e-3, rtol=1e-3)


# ------------------------------------------------------------------------------ the claims


def finding(dataset, measured=None, part="error of a - b", told=None, **facts):
    return Finding(1, False, part, dataset, told, measured, **facts)


def test_rows_of_findings_and_their_verdicts_in_words():
    better = Difference(2.0, 1.0, 3.0, (3, 3), p=0.01)
    findings = [
        finding("cifar10", better, told=1.5, corrected=0.03),
        finding("svhn", better),
        finding("cub50", Difference(2.0, None, None, (1, 1))),
        finding("cub200"),
        finding("cub50", better, part="error of c - b", corrected=0.06),
    ]
    rows = chapters.claim_rows(findings)
    assert rows.columns[-1] == "size"  # nothing is known at equal cost
    assert rows.iloc[0].to_dict() == {
        "claim": "1",
        "verdict": "holds",
        "measured": "+2.00",
        "95 % interval": "+1.00 to +3.00",
        "set": "cifar10",
        "difference": "error of a − b",
        "paper": "+1.50",
        "trainings": "3 and 3",
        "p": "0.01",
        "p (Holm)": "0.03",
        "size": "of the paper's size",
    }
    # What was found stands first: in sight on a telephone without scrolling.
    assert list(rows.columns[:4]) == ["claim", "verdict", "measured", "95 % interval"]
    alone = rows.iloc[2]
    assert (alone["verdict"], alone["trainings"]) == ("cannot be decided", "1 and 1")
    assert not any(alone[["95 % interval", "p", "p (Holm)", "size"]])
    missing = rows.iloc[3].drop(["claim", "set", "difference"])
    assert missing["verdict"] == "not run" and not any(missing.drop("verdict"))
    assert rows.iloc[4]["verdict"] == "cannot be decided"  # after the correction
    said = chapters.verdicts(findings, "a - b")
    assert said == "holds: 2 of 3 (cifar10, svhn); cannot be decided: 1 of 3 (cub50)"
    assert chapters.verdicts(findings[3:4]) == chapters.verdicts([]) == "not run"
    assert "verdict" in chapters.claim_rows([]).columns


def test_a_table_of_findings_says_what_it_is_made_of():
    borrowed = Difference(2.0, 1.0, 3.0, (1, 3), borrowed=True, p=0.01)
    found = [finding("<b>", borrowed, at_equal_cost="against vgg-hires holds")]
    html = chapters.claim_table(found).to_html()
    assert "&lt;b&gt;" in html and "1 and 3 *" in html and "border-left" in html
    assert "against vgg-hires holds" in html and "size" not in html


# ---------------------------------------------------------------------------- fooling rates


def report(*rates):
    strengths = [
        Strength(float(eps), rate, rate + 1, {})
        for eps, rate in zip((1, 16), rates, strict=True)
    ]
    return AttackReport("fgsm", 100, 4.0, 0.0, strengths)


def test_rates_of_reports_have_the_clean_images_first():
    rates = chapters.report_rates({"vgg": report(50.0, 90.0)})
    assert rates["eps"].tolist() == [0, 1, 16]
    assert rates["fooling_rate"].tolist() == [0, 50, 90]
    assert rates["error"].tolist() == [4, 51, 91]
    half = stats.t.ppf(0.975, 99) / 99**0.5  # of 100 images, in per cent
    wanted = [0, half * 50, half * 30]
    assert rates["± fooling_rate"].tolist() == pytest.approx(wanted)


def test_of_several_attacks_on_a_training_that_on_most_images_counts(measured):
    one = next(m for m in measured if m.task == "attack")
    few = one.data.model_copy(update={"images": 5, "fingerprint": "0" * 16})
    fewer = one.model_copy(update={"data": few, "started": one.started + timedelta(1)})
    weights = one.weights.model_copy(update={"dataset": "elsewhere"})
    foreign = one.model_copy(update={"weights": weights})
    rates = chapters.fooling_rates([fewer, one, foreign])
    assert rates["images"].unique().tolist() == [one.data.images]
    assert set(rates["eps"]) == {float(eps) for eps in one.metrics["eps"]}
    assert rates["fooling_rate"].max() == max(
        row["fooling_rate"] for row in one.metrics["eps"].values()
    )
    assert chapters.fooling_rates([]).empty


def test_gaps_are_of_means_over_trainings():
    pairs = {("vgg", "att"): "vgg → att", ("hires", "att"): "hires → att"}
    parts = [
        chapters.report_rates(reports).assign(training=training)
        for training, reports in (
            ("first", {"vgg": report(40.0, 90.0), "att": report(30.0, 90.0)}),
            ("second", {"vgg": report(60.0, 90.0)}),
        )
    ]
    rates = pd.concat(parts).assign(set="cub50", attack="fgsm", width=0.25)
    gaps = chapters.fooling_gaps(rates, pairs)
    t = stats.t.ppf(0.975, 99)
    half = t * (50 * 50 / 99 + 30 * 70 / 99) ** 0.5
    end = t * (2 * 90 * 10 / 99) ** 0.5
    assert gaps.iloc[0, :2].tolist() == ["cub50, fgsm, width 0.25", "vgg → att"]
    assert gaps.iloc[0, 2:].tolist() == [
        f"+20.0 ± {half:.1f}",
        f"+0.0 ± {end:.1f}",
        "2 and 1",
    ]
    assert gaps.iloc[1, 1:].tolist() == ["hires → att", "not run", "", ""]
    assert chapters.fooling_gaps(chapters.fooling_rates([]), pairs).empty


def test_figure_6_in_rows_is_figure_6_beside(measured):
    rows = chapters.figure6_rows(measured, ["cub200", "cifar10"])
    assert rows["set"].tolist()[:3] == ["cub200, paper", "cub200, paper", "cub200"]
    assert rows.iloc[0, 2:].tolist() == [str(f) for f in paper.figure6()["vgg"].values()]
    beside = figure6_beside(measured, "cifar10")
    beside = beside[(beside["network"] == "vgg") & (beside["measured"] != "not run")]
    row = rows[rows["network"] == f"vgg (n = {beside['n'].iloc[0]})"].iloc[0]
    assert [row[eps] for eps in beside["eps"]] == beside["measured"].tolist()
    empty = chapters.figure6_rows([], ["cub50"], "pgd")
    assert empty.values.tolist() == [["cub50", "not run"]]
    drawn = chapters.paper_rates().set_index(["network", "eps"])["fooling_rate"]
    assert drawn["vgg", 1] == 58.58 and len(drawn) == 10


# -------------------------------------------------------------------------------- queries


def test_effects_are_told_by_kind_of_query():
    table = pd.DataFrame(
        {
            "contains": [True, True, True, False, False, False],
            "moved": [0.1, 0.2, 0.6, 0.0, 0.0, 0.3],
            "change": [1.0, 2.0, 9.0, 1.0, 1.0, 4.0],
            "before": 0.25,
            "gained": [0.1, 0.1, 0.1, -0.1, 0.0, 0.1],
        }
    )
    rows = chapters.effect_rows({"dp": table})
    assert rows.loc[("dp", "same class")].tolist() == [
        "0.3 ± 0.2", "0.2", "2", "4e+00", "0.250", "+0.1000 ± 0.0000",
    ]  # fmt: skip
    assert rows.loc[("dp", "other class"), "median"] == "0"


def test_recorded_effects_name_what_was_not_measured(measured):
    ours = [m for m in measured if m.task == "query"]
    rows = chapters.recorded_effects(measured, [ours[0].network, "vgg-att4"])
    assert len(rows) == 2 * len(ours) + 1
    assert rows.iloc[-1][["network", "moved", "pairs"]].tolist() == [
        "vgg-att4", "not run", "",
    ]  # fmt: skip
    assert chapters.with_error({"mean": 0.5}, ".2g") == "0.5"
