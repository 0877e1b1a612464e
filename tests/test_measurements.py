"""Measurements as lines of a file, and the paper's figures beside lines that were made up,
computed by hand.
"""

import json
import os
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from lpa_core.panels import jaccard_scores
from lpa_core.provenance import DamagedLine, seal, seal_file
from lpa_core.results import (
    NOT_RUN,
    OTHER_DATA,
    DamagedRecord,
    Measurement,
    append_measurement,
    figure6_beside,
    figure9_beside,
    measurements_frame,
    paper,
    read_measurements,
    read_records,
    records_frame,
    table3_beside,
)
from lpa_core.results.side_by_side import refined_beside
from lpa_core.training import append_record

ROOT = Path(__file__).resolve().parents[1]


def a_measurement(number=0, task="attack", network="vgg", **changes):
    """A measurement that nothing was measured for."""
    weights = {"sha256": f"{number:x}", "dataset": "cifar10", "width": 0.25}
    weights["run"] = f"r{number}"
    data = {
        "name": "cifar10", "split": "test", "size": 32, "images": 100,
        "fingerprint": "f", "masks": None,
    }  # fmt: skip
    given = {
        "task": task,
        "settings": {"attack": "fgsm", "epsilons": [1.0, 2.0]},
        "network": network,
        "weights": weights | changes.pop("weights", {}) if network else None,
        "data": data | changes.pop("data", {}),
        "metrics": {"clean_error": 8.5, "eps": {"1": {"fooling_rate": 50.0}}},
        "device": "a processor",
        "threads": 1,
        "versions": {"torch": "2"},
        "git": {"commit": "c0ffee", "clean": True},
        "task_version": 1,
        "started": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        "seconds": 1.5,
        "peak_memory_bytes": 10**9,
    }
    return Measurement(**given | changes)


def a_line(number):
    """The same as it stands in a file."""
    return seal(a_measurement(number).model_dump_json())


# --------------------------------------------------------------------------- the file


def test_a_measurement_is_one_line_and_is_read_as_it_was(tmp_path):
    path = tmp_path / "new" / "measurements.jsonl"
    both = [a_measurement(1), a_measurement(2, network=None)]
    for one in both:
        append_measurement(one, path)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["network"] for line in lines] == ["vgg", None]
    assert read_measurements(path) == both


@pytest.mark.parametrize(
    "damaged",
    [
        "{",
        "[]",
        a_line(5)[:-1],
        a_line(5).replace("8.5", "8.6"),
        a_measurement(5).model_dump_json(),
        seal(a_measurement(5).model_dump_json().replace("8.5", "NaN")),
        seal(a_measurement(5).model_dump_json().replace("8.5", '"8.5 %"')),
        seal(a_measurement(5).model_dump_json().replace('"seconds"', '"minutes"')),
    ],
    ids=["torn", "list", "cut", "changed", "no digest", "nan", "text", "renamed"],
)
def test_a_damaged_line_is_reported_by_its_number_and_left_out(tmp_path, damaged):
    path = tmp_path / "measurements.jsonl"
    good = [a_line(n) for n in (1, 2)]
    path.write_text("\n".join([good[0], "", damaged, good[1], ""]))
    with pytest.warns(DamagedRecord, match=r"measurements\.jsonl, line 3: ") as caught:
        found = read_measurements(path)
    assert len(caught) == 1
    assert [m.weights.sha256 for m in found] == ["1", "2"]


def test_what_was_measured_again_counts_once_as_it_was_last(tmp_path):
    path = tmp_path / "measurements.jsonl"
    later = datetime(2025, 1, 1, tzinfo=UTC)
    newer = a_measurement(1, started=later, metrics={"clean_error": 9})
    for one in (newer, a_measurement(1), a_measurement(2)):
        append_measurement(one, path)
    assert read_measurements(path) == [newer, a_measurement(2)]


def test_processes_that_write_at_once_leave_whole_lines(tmp_path):
    path = tmp_path / "measurements.jsonl"
    children = []
    for number in range(6):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for n in range(4):
                    append_measurement(a_measurement(10 * number + n), path)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(read_measurements(path)) == 24
    assert len(path.read_bytes().splitlines()) == 24


def test_the_books_measurements_are_whole_and_say_where_they_come_from():
    path = ROOT / "results" / "measurements.jsonl"
    if not path.exists():
        pytest.skip("nothing is measured yet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measurements = read_measurements()
    assert measurements
    runs = {record.id for record in read_records()}
    for one in measurements:
        assert one.git.commit
        assert one.git.clean
        assert one.weights is None or one.weights.run in runs


def test_identity_is_of_what_the_result_depends_on_and_of_nothing_else():
    one = a_measurement(1)
    same = a_measurement(
        1, device="another", threads=2, seconds=3.0, metrics={"a": 1}, code="other"
    )
    assert same.identity == one.identity
    others = [
        a_measurement(2),
        a_measurement(1, task="query"),
        a_measurement(1, task_version=2),
        a_measurement(1, settings={"attack": "fgsm", "epsilons": [1.0]}),
        a_measurement(1, data={"fingerprint": "g"}),
        a_measurement(1, data={"masks": "m"}),
        a_measurement(1, network=None),
    ]
    assert len({one.identity, *(other.identity for other in others)}) == 8


def test_a_measurement_is_frozen_and_has_no_other_fields():
    with pytest.raises(ValidationError, match="frozen"):
        a_measurement().task = "query"
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        a_measurement(colour="red")


def test_a_line_without_digest_is_reported_with_the_command_that_adds_one(tmp_path):
    path = tmp_path / "measurements.jsonl"
    path.write_text(a_measurement(1).model_dump_json() + "\n\n" + a_line(2) + "\n")
    with pytest.warns(DamagedRecord, match=f"line 1: .*records seal {path}` adds one"):
        assert [m.weights.sha256 for m in read_measurements(path)] == ["2"]
    assert seal_file(path) == 1
    assert [m.weights.sha256 for m in read_measurements(path)] == ["1", "2"]
    before = path.read_bytes()
    assert seal_file(path) == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damaged",
    [a_line(2).replace("8.5", "8.6"), a_line(2)[:-1], "[]", a_line(2)[:-2] + '0"}', "{}"],
    ids=["changed", "torn", "list", "digest", "empty"],
)
def test_a_file_with_a_damaged_line_is_not_sealed(tmp_path, damaged):
    path = tmp_path / "measurements.jsonl"
    path.write_text(a_measurement(1).model_dump_json() + "\n" + damaged + "\n")
    before = path.read_bytes()
    with pytest.raises(DamagedLine, match=f"{path}, line 2: "):
        seal_file(path)
    assert path.read_bytes() == before


def test_the_text_of_a_line_stays_as_it_came(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a":1.50,  "b": "é"}\n')
    assert seal_file(path) == 1
    assert path.read_text() == seal('{"a":1.50,  "b": "é"}') + "\n"


def test_measurements_make_a_tidy_frame():
    networks = a_measurement(1), a_measurement(2, network=None, metrics={"all": {"a": 1}})
    frame = measurements_frame(list(networks))
    assert frame[["metric", "value"]].values.tolist() == [
        ["clean_error", 8.5], ["eps.1.fooling_rate", 50.0], ["all.a", 1.0],
    ]  # fmt: skip
    assert frame.trained_on.tolist()[:2] == ["cifar10", "cifar10"]
    assert frame.trained_on.isna().tolist() == [False, False, True]
    assert json.loads(frame.settings[0]) == networks[0].settings
    assert measurements_frame([]).columns.tolist() == frame.columns.tolist()


def test_records_make_a_tidy_frame():
    records = read_records()
    frame = records_frame(records)
    assert frame.id.tolist() == [record.id for record in records]
    assert frame.recipe.tolist() == [record.spec.recipe_label() for record in records]
    assert frame.epochs.tolist() == [record.epochs for record in records]
    assert frame.test_error.tolist() == [r.metrics["test_error"] for r in records]
    assert records_frame([]).columns.tolist() == frame.columns.tolist()


def test_a_line_takes_its_training_from_the_runs_record(tmp_path):
    """Lines of before do not say how their network was trained; its record does."""
    record = next(r for r in read_records() if r.epochs == 60)
    own = a_measurement(1, weights={"run": record.id})
    told = a_measurement(2, weights={"run": record.id, "trained": "paper, 3 epochs"})
    unknown = a_measurement(3)
    for m in (own, told, unknown):
        append_measurement(m, tmp_path / "measurements.jsonl")
    trained = "fast, 60 epochs, other weights to start from"
    assert [record.spec.recipe, record.spec.initial is not None] == ["fast", True]
    for records, first in ((False, None), (True, trained)):
        if records:
            append_record(record, tmp_path / "records.jsonl")
        found = read_measurements(tmp_path / "measurements.jsonl")
        assert [m.weights.trained for m in found] == [first, "paper, 3 epochs", None]
    frame = measurements_frame(found)
    assert set(frame[frame.weights == "1"].trained) == {trained}


def test_every_line_of_the_book_says_how_its_network_was_trained():
    lines = read_measurements()
    assert lines and all(m.weights.trained for m in lines if m.weights)


# ------------------------------------------------------------------ beside the paper


def test_the_papers_figures_are_read_by_the_names_that_the_book_uses():
    six, three, nine = paper.figure6(), paper.table3(), paper.figure9()
    assert list(six) == ["vgg", "vgg-att2-concat-pc"]
    assert six["vgg-att2-concat-pc"][1].mean == 53.78
    assert list(six["vgg"]) == [1, 2, 4, 8, 16]
    assert three["vgg-att3-concat-pc"]["caltech101"]["cifar100"].mean == 75.39
    assert three["vgg"]["stl-train"]["cifar100"] is None
    assert nine["vgg-att3-concat-pc"]["car"]["cifar10"].mean == 61.19
    assert nine["mc"]["horse"] == {paper.UNTRAINED: paper.Figure(47.02, None)}
    assert {"bms", "mcg", "jain2016"} <= nine.keys()


def attack_of(number, network, rates, dataset="cub200", **changes):
    metrics = {"eps": {str(eps): {"fooling_rate": r} for eps, r in rates.items()}}
    weights = {"dataset": dataset} | changes.pop("weights", {})
    return a_measurement(
        number, network=network, metrics=metrics, weights=weights,
        data={"name": dataset}, **changes,
    )  # fmt: skip


def test_figure_6_is_beside_fooling_rates():
    ours = [
        attack_of(1, "vgg", {1: 60.0, 2: 80.0}),
        attack_of(2, "vgg", {1: 62.0, 2: 80.0}),
        attack_of(3, "vgg-hires", {1: 55.5}),
        attack_of(4, "vgg", {1: 30.0}, dataset="cifar10"),
        attack_of(5, "vgg", {1: 99.0}, settings={"attack": "pgd", "steps": 10}),
    ]
    frame = figure6_beside(ours).set_index(["network", "eps"])
    row = frame.loc["vgg", 1]
    assert (row.paper, row.measured, row.n) == ("58.58", "61.00 ± 1.41", 2)
    assert (row.difference, row.images, row.width) == ("+2.42", 100, "0.25")
    assert frame.loc[("vgg", 4), "measured"] == NOT_RUN
    assert frame.loc[("vgg-att2-concat-pc", 1), "measured"] == NOT_RUN
    assert frame.loc[("vgg-att2-concat-pc", 1), "paper"] == "53.78"
    control = frame.loc["vgg-hires", 1]
    assert (control.paper, control.measured) == ("not reported", "55.50")
    assert control.difference == ""
    assert len(frame) == 3 * 5
    # Another set has nothing to be taken from the paper's.
    other = figure6_beside(ours, "cifar10").set_index(["network", "eps"])
    assert other.loc[("vgg", 1), "measured"] == "30.00"
    assert other.loc[("vgg", 1), "difference"] == OTHER_DATA
    pgd = figure6_beside(ours, attack="pgd").set_index(["network", "eps"])
    assert pgd.loc[("vgg", 1), "measured"] == "99.00"
    assert pgd.loc[("vgg", 1), "settings"] == "32 pixels, steps 10"


WAYS = [
    ({}, ""),
    ({"beginning": "scripts"}, ", begins scripts"),
    ({"beginning": "u0.2"}, ", begins u0.2"),
    ({"trained": "fast, 10 epochs"}, ""),
    ({"trained": "paper, 300 epochs"}, ", paper, 300 epochs"),
    ({"trained": "fast, 10 epochs, 512 images"}, ", fast, 10 epochs, 512 images"),
]


def test_networks_that_were_trained_in_other_ways_are_not_averaged():
    """Recipe, epochs, a part of a set, options and beginnings: each has its own row."""
    for made, beside in (
        (
            lambda n, **given: attack_of(n, "vgg", {1: float(n)}, **given),
            lambda ours: figure6_beside(ours).query("network == 'vgg' and eps == 1"),
        ),
        (
            lambda n, **given: transfer_of(n, "vgg", float(n), **given),
            lambda ours: table3_beside(ours).query("network == 'vgg'"),
        ),
        (
            lambda n, **given: segment_of(n, "vgg-gap", "cam", {"car": n / 10}, **given),
            lambda ours: figure9_beside(ours, "coseg").query(
                "method == 'vgg-gap' and `class` == 'car'"
            ),
        ),
    ):
        ours = [made(n, weights=way) for n, (way, _) in enumerate(WAYS)]
        rows = beside(ours)
        ends = dict.fromkeys(end for _, end in WAYS)
        assert rows["n"].tolist() == [2, 1, 1, 1, 1]
        for said, end in zip(rows["settings"], ends, strict=True):
            assert said.endswith(f"pixels{end}") or said.endswith(f"C 1{end}")


def transfer_of(number, network, accuracy, **changes):
    given = {
        "task": "transfer",
        "settings": {"classifier": "linear", "C": 1.0},
        "metrics": {"accuracy": accuracy, "std": 0.5},
        "data": {"name": "caltech101", "split": "all", "images": 8677},
    }
    return a_measurement(number, network=network, **given | changes)


def test_table_3_is_beside_accuracies():
    newer = datetime(2025, 1, 1, tzinfo=UTC)
    ours = [
        transfer_of(1, "vgg", 30.0),
        transfer_of(1, "vgg", 36.0, started=newer, task_version=2),
        transfer_of(2, "vgg", 50.0, weights={"sha256": "2", "dataset": "cifar100"}),
        transfer_of(
            3,
            "vgg-att3-concat-pc",
            60.0,
            data={"name": "caltech101", "split": "all", "images": 500},
        ),
    ]
    frame = table3_beside(ours).set_index("network")
    row = frame.loc["vgg"]
    assert (row.paper, row.measured, row.difference) == ("35.97", "36.00", "+0.03")
    assert (row.n, row.images, row.settings) == (1, 8677, "32 pixels, C 1")
    assert frame.loc["vgg-att3-concat-pc", "images"] == 500
    assert frame.loc["rn164", "measured"] == NOT_RUN
    hundred = table3_beside(ours, trained_on="cifar100").set_index("network")
    assert hundred.loc["vgg", "difference"] == f"{50 - 54.2:+.2f}"
    assert table3_beside([], "action40")["n"].sum() == 0
    with pytest.raises(ValueError, match="no data set 'caltech': choose one of stl-train"):
        table3_beside(ours, "caltech")


def test_table_3_asks_the_networks_own_classifier_for_stl():
    own = transfer_of(
        1, "vgg", 0.0,
        settings={"classifier": "own"},
        metrics={"with_missing": 45.0, "without_missing": 50.0, "left_out": 800},
        data={"name": "stl10", "split": "test"},
    )  # fmt: skip
    linear = transfer_of(2, "vgg", 70.0, data={"name": "stl10", "split": "test"})
    frame = table3_beside([own, linear], "stl-test").set_index("network")
    assert frame.loc["vgg", "measured"] == "45.00"
    assert frame.loc["vgg", "difference"] == "+0.09"
    assert (table3_beside([own, linear], "stl-train")["measured"] == NOT_RUN).all()


def segment_of(number, network, method, scores, **changes):
    metrics = {name: {"jaccard": score, "images": 10} for name, score in scores.items()}
    settings = changes.pop("settings", {"method": method})
    data = {"name": "coseg", "split": "all", "size": 256, "masks": "m"}
    return a_measurement(
        number, "segment", network, settings=settings, metrics=metrics,
        data=data | changes.pop("data", {}), **changes,
    )  # fmt: skip


def test_a_refined_mask_has_a_row_of_its_own_beside_the_same_maps():
    plain = segment_of(1, "vgg-att3-concat-pc", "attention", {"all": 0.4, "car": 0.5})
    centre = segment_of(2, None, "centre", {"all": 0.3, "car": 0.42})
    field = {"refine": "dense-crf"}
    better = plain.model_copy(
        update={
            "settings": plain.settings | field,
            "metrics": {"all": {"jaccard": 0.45, "images": 10}},
        }
    )
    alone = segment_of(3, None, "mc", {"all": 0.9}, settings={"method": "mc"} | field)
    frame = refined_beside([plain, centre, better, alone]).set_index("method")
    assert list(frame.index) == ["vgg-att3-concat-pc"]
    row = frame.loc["vgg-att3-concat-pc"]
    assert (row.otsu, row.refined, row.difference) == pytest.approx((40, 45, 5))
    assert row.trained_on == "cifar10"
    nine = figure9_beside([plain, better], "coseg").set_index(["method", "class"])
    assert nine.loc[("vgg-att3-concat-pc", "all"), "measured"] == "40.00"
    assert nine.loc[("vgg-att3-concat-pc, dense-crf", "all"), "measured"] == "45.00"
    scores = jaccard_scores([plain, centre, better], "coseg")
    assert set(scores["method"]) == {"vgg-att3-concat-pc", "centre"}


def test_figure_9_is_beside_jaccard_scores():
    ours = [
        segment_of(1, "vgg-att3-concat-pc", "attention", {"all": 0.4, "car": 0.5}),
        segment_of(2, "vgg-att3-concat-pc", "attention", {"all": 0.5, "car": 0.6}),
        segment_of(3, "vgg", "grad-cam", {"all": 0.2, "car": 0.3, "cat": 0.1}),
        segment_of(4, None, "centre", {"all": 0.3, "car": 0.42}),
        segment_of(5, None, "bms-objects-2013", {"all": 0.3, "car": 0.44}),
    ]
    frame = figure9_beside(ours, "coseg").set_index(["method", "class"])
    row = frame.loc["vgg-att3-concat-pc", "car"]
    assert (row.paper, row.measured, row.n) == ("61.19", "55.00 ± 7.07", 2)
    assert (row.difference, row.settings) == (OTHER_DATA, "256 pixels")
    assert frame.loc[("vgg-att3-concat-pc", "all"), "measured"] == "45.00 ± 7.07"
    assert frame.loc[("grad-cam of vgg", "cat"), "measured"] == "10.00"
    assert frame.loc[("centre", "car"), "paper"] == "not reported"
    assert frame.loc[("centre", "car"), "measured"] == "42.00"
    bms = frame.loc[("bms", "car"), ["paper", "measured", "width"]]
    assert bms.tolist() == ["46.61", "44.00", ""]
    assert frame.loc[("mcg", "car"), ["paper", "measured"]].tolist() == ["54.21", NOT_RUN]
    assert ("mcg", "cat") not in frame.index
    # On the paper's own photographs, whose classes are written otherwise.
    discovery = {"name": "object_discovery"}
    scores = {"all": 0.5, "Airplane": 0.5}
    own = [segment_of(1, None, "bms-objects-2013", scores, data=discovery)]
    frame = figure9_beside(own, trained_on="cifar100").set_index(["method", "class"])
    assert frame.loc[("bms", "airplane"), "difference"] == f"{50 - 51.84:+.2f}"
    assert frame.loc[("vgg-att2-concat-pc", "car"), "paper"] == "38.99"
    assert ("bms", "Airplane") not in frame.index
