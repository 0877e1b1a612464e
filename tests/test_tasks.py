"""Tasks: what is registered agrees with what was measured; each leaves one whole line, and
not another for the same; wrong input is refused before anything is written.
"""

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from skimage.filters import threshold_otsu

from lpa_core.__main__ import main
from lpa_core.data import Dataset, fingerprint, load
from lpa_core.maps import centre_prior, density_on, entropy
from lpa_core.provenance import loaded_git
from lpa_core.results import read_measurements
from lpa_core.tasks import TASKS, MeasureOptions, Task, base, headline, measure
from lpa_core.tasks.attack import AttackSettings, evaluate_attack
from lpa_core.tasks.query import QuerySettings
from lpa_core.tasks.segment import SegmentSettings
from lpa_core.tasks.transfer import (
    TransferSettings,
    cross_domain_accuracy,
    extract_features,
)
from lpa_core.training import RecordError, RunSpec, WeightsError, load_trained, run

WIDTH = 1 / 32
COUNT = 80


def trained_file(network, folder):
    spec = RunSpec(
        network=network, width=WIDTH, epochs=1, train_images=256, precision="float32"
    )
    record = run(spec, runs=folder, progress=False)
    return record, next(folder.glob("*/weights.safetensors"))


@pytest.fixture(scope="module")
def attended(tmp_path_factory):
    """A run of a network with attention, and the file of its weights."""
    return trained_file("vgg-att2-concat-dp", tmp_path_factory.mktemp("attended"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same without attention."""
    return trained_file("vgg", tmp_path_factory.mktemp("plain"))


def where(path=None, **changes):
    given = {"dataset": "embedded", "images": COUNT, "path": path, "device": "cpu"}
    return MeasureOptions(**given | {"progress": False} | changes)


# --------------------------------------------------------------------------- registry


PAPERS = {"attack", "transfer", "segment", "query", "look", "parts"}


def test_every_measurement_of_the_book_fits_its_task_and_is_not_made_again():
    """Settings, metrics and identity are what the same task would write today."""
    assert len(read_measurements(superseded=True)) >= 107
    measurements = read_measurements()
    assert PAPERS <= {m.task for m in measurements} <= TASKS.keys()
    for m in measurements:
        task = TASKS[m.task]
        settings = task.settings.model_validate(m.settings)
        assert settings.recorded() == m.settings
        metrics = task.metrics.model_validate(m.metrics)
        assert json.dumps(base.plain(metrics)) == json.dumps(m.metrics)
        assert m.identity == base.identify(
            task.name, settings.recorded(), m.weights, m.data, task.version
        )
        assert m.network or "no network" in headline(m)


def test_what_is_asked_for_by_default_is_what_the_book_measured(attended):
    """A changed default would measure everything again, or be mistaken for it."""
    network = load_trained(attended[1])
    measured = {json.dumps([m.task, m.settings]) for m in read_measurements()}
    for asked in (AttackSettings(), AttackSettings(attack="pgd"), TransferSettings()):
        name = "transfer" if isinstance(asked, TransferSettings) else "attack"
        ((_, case),) = asked.cases("caltech101", [network])
        assert json.dumps([name, case.recorded()]) in measured
    for _, case in SegmentSettings().cases("coseg", []):
        assert json.dumps(["segment", case.recorded()]) in measured
    ((_, own),) = TransferSettings().cases("stl10", [network])
    assert own.recorded() == {"classifier": "own"}


@pytest.mark.parametrize(
    "task, wrong",
    [
        ("attack", {"attack": "bim"}),
        ("attack", {"epsilons": []}),
        ("attack", {"epsilons": [0]}),
        ("attack", {"epsilons": [256]}),
        ("attack", {"steps": 0}),
        ("attack", {"steps": True}),
        ("attack", {"steps": 10**9}),
        ("transfer", {"classifier": "svc"}),
        ("transfer", {"solver": "svc"}),
        ("transfer", {"folds": 1}),
        ("transfer", {"C": 0}),
        ("transfer", {"C": float("inf")}),
        ("transfer", {"seed": -1}),
        ("segment", {"methods": ["sum"]}),
        ("query", {"pairs": 0}),
        ("query", {"pairs": 10**12}),
        ("query", {"pairs": "20"}),
        ("query", {"seed": 10**30}),
        ("look", {"layer": "layer10"}),
    ],
)
def test_settings_out_of_range_are_refused_by_name(task, wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TASKS[task].options(**wrong)


def test_a_name_is_of_one_task():
    look = TASKS["look"]
    other = Task(**{**vars(look), "summary": "another"})
    with pytest.raises(ValueError, match="there is a task 'look' already"):
        base.register(other)
    assert base.register(look) is look
    with pytest.raises(ValueError, match="unknown task 'gaze': choose one of attack, "):
        measure("gaze", ["w"])
    with pytest.raises(ValueError, match="look needs the weights of at least one network"):
        measure("look")


# -------------------------------------------------------------------------- measuring


def some_images():
    """What `images=COUNT` should be: every so many-th of the test set."""
    data = load("embedded", "test")
    index = [n * len(data) // COUNT for n in range(COUNT)]
    return data.images[index], data.labels[index], data.masks[index], data.classes


def test_an_attack_is_measured_with_all_that_is_needed_to_believe_it(attended, tmp_path):
    record, path = attended
    file = tmp_path / "measurements.jsonl"
    (found,) = measure("attack", [path], AttackSettings(epsilons=[1, 16]), where(file))
    assert read_measurements(file) == [found]
    assert (found.task, found.network) == ("attack", "vgg-att2-concat-dp")
    assert found.weights.model_dump() == {
        "sha256": record.weights_sha256,
        "dataset": "embedded",
        "width": WIDTH,
        "run": record.id,
        "beginning": None,
        "trained": record.spec.trained(),
    }
    images, labels, _, classes = some_images()
    data = Dataset(images, labels, classes, None, fingerprint(images, labels))
    assert found.data.fingerprint == data.fingerprint
    assert (found.data.name, found.data.split, found.data.size) == ("embedded", "test", 32)
    assert found.data.images == COUNT
    report = evaluate_attack(load_trained(path), data, (1, 16), progress=False)
    assert found.metrics["clean_error"] == report.clean_error
    for strength in report.strengths:
        row = found.metrics["eps"][f"{strength.eps:g}"]
        assert row["fooling_rate"] == pytest.approx(strength.fooling_rate)
        assert row["error"] == pytest.approx(strength.error)
        assert row["map_shift"] == pytest.approx(strength.map_shift)
    assert list(found.metrics["eps"]) == ["1", "16"]
    assert found.threads == torch.get_num_threads()
    assert {"python", "torch", "lpa_core", "scikit-learn"} <= found.versions.keys()
    assert found.seconds > 0
    assert found.peak_memory_bytes > 1e7
    assert found.git == loaded_git()


def test_the_linear_classifier_is_measured(attended):
    _, path = attended
    (found,) = measure("transfer", [path], TransferSettings(folds=2), where())
    images, labels, _, _ = some_images()
    features = extract_features(load_trained(path), images, progress=False)
    again = cross_domain_accuracy(
        features, labels, folds=2, solver=found.settings["solver"], progress=False
    )
    assert found.metrics["accuracy"] == again.accuracy
    assert found.metrics["std"] == again.std
    assert found.metrics["features"] == features.shape[1]
    assert found.settings["folds"] == 2
    assert found.data.masks is None


def test_the_networks_own_classifier_is_measured(attended):
    _, path = attended
    (found,) = measure("transfer", [path], TransferSettings(classifier="own"), where())
    images, labels, _, _ = some_images()
    predicted = load_trained(path).attend(images).logits.argmax(dim=1)
    right = 100 * (predicted == labels).double().mean().item()
    assert found.metrics == {
        "with_missing": pytest.approx(right),
        "without_missing": pytest.approx(right),
        "left_out": 0,
    }


def test_segmentation_has_a_measurement_a_method_by_class(attended, plain):
    paths = [attended[1], plain[1]]
    found = measure("segment", paths, SegmentSettings(methods=["centre"]), where())
    assert [(m.network, m.settings["method"]) for m in found] == [
        ("vgg-att2-concat-dp", "attention"),
        ("vgg", "grad-cam"),
        (None, "centre"),
    ]
    assert found[2].weights is None
    assert len({m.identity for m in found}) == 3
    # The centre prior again, written out.
    _, labels, masks, classes = some_images()
    prior = centre_prior(32, 32)
    cut = np.asarray(prior) > threshold_otsu(np.asarray(prior))
    scores = np.array([(cut & m).sum() / (cut | m).sum() for m in masks.numpy()])
    groups = {"all": np.ones(COUNT, bool)}
    groups |= {name: (labels == k).numpy() for k, name in enumerate(classes)}
    assert found[2].metrics.keys() == groups.keys()
    for name, rows in groups.items():
        got, values = found[2].metrics[name], scores[rows]
        assert got["jaccard"] == pytest.approx(values.mean(), abs=1e-3)
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert got["sem"] == pytest.approx(error, abs=1e-3)
        assert got["images"] == len(values)


def test_the_query_is_measured_for_either_kind_of_pair(attended):
    _, path = attended
    (found,) = measure("query", [path], QuerySettings(pairs=20, seed=3), where())
    assert list(found.metrics) == ["same class", "other class"]
    for numbers in found.metrics.values():
        assert numbers["pairs"] == 20
        assert numbers["moved"]["mean"] > 0
        gained = numbers["after"]["mean"] - numbers["before"]["mean"]
        assert numbers["gained"]["mean"] == pytest.approx(gained)
    assert found.settings == {"pairs": 20, "layer": "layer10", "seed": 3}
    assert found.data.masks is not None


def test_each_level_is_measured_on_attention_and_activation(attended):
    _, path = attended
    (found,) = measure("look", [path], where=where())
    assert {kind: list(layers) for kind, layers in found.metrics.items()} == {
        "attention": ["layer10", "layer13"],
        "activation": ["layer10", "layer13"],
    }
    images, _, masks, _ = some_images()
    maps = load_trained(path).attend(images).maps["layer10"]
    row = found.metrics["attention"]["layer10"]
    assert row["entropy"] == pytest.approx(entropy(maps).mean().item(), rel=1e-5)
    density = density_on(maps, masks).mean().item()
    assert row["density"] == pytest.approx(density, rel=1e-4)
    assert row["positions"] == 256
    assert "likeness" not in found.metrics["activation"]["layer10"]
    assert found.data.masks is not None and found.settings == {}
    assert "entropy of the maps" in headline(found)


def test_a_class_of_one_photograph_has_no_standard_error():
    assert base.mean_and_error(pd.DataFrame({"a": [0.5]}), "a") == (0.5, None)


def test_what_is_measured_is_not_measured_again(attended, tmp_path, monkeypatch):
    _, path = attended
    file = tmp_path / "measurements.jsonl"
    one, two = AttackSettings(epsilons=[1]), AttackSettings(epsilons=[2])
    first = measure("attack", [path], one, where(file))
    content = file.read_bytes()
    calls = []

    def counted(*arguments, **named):
        calls.append(1)
        return evaluate_attack(*arguments, **named)

    monkeypatch.setattr("lpa_core.tasks.attack.evaluate_attack", counted)
    assert measure("attack", [path], one, where(file)) == first
    assert calls == []
    assert file.read_bytes() == content
    # Of other settings, of other images, or if it is asked for, it is.
    measure("attack", [path], two, where(file))
    measure("attack", [path], one, where(file, images=COUNT // 2))
    measure("attack", [path], one, where(file, again=True))
    assert len(calls) == 3
    assert len(file.read_bytes().splitlines()) == 1 + len(calls)
    assert len(read_measurements(file)) == 3


def test_what_another_version_measured_is_measured_again(attended, tmp_path, monkeypatch):
    _, path = attended
    file = tmp_path / "measurements.jsonl"
    four = QuerySettings(pairs=4)
    measure("query", [path], four, where(file))
    monkeypatch.setitem(TASKS, "query", replace(TASKS["query"], version=2))
    measure("query", [path], four, where(file))
    lines = file.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["task_version"] for line in lines] == [1, 2]
    # Both stay in the file; what was measured last counts.
    assert [m.task_version for m in read_measurements(file)] == [2]


# ------------------------------------------------------------------- the command line


def test_the_command_leaves_the_line_and_says_what_came_out(attended, tmp_path, capsys):
    file = tmp_path / "measurements.jsonl"
    words = f"--dataset embedded --images {COUNT} --measurements {file}"
    weights = f"--weights {attended[1]}"
    assert main(f"attack {weights} {words}".split()) == 0
    assert main(f"transfer {weights} {words} --direct".split()) == 0
    assert main(f"segment {weights} {words} --methods centre".split()) == 0
    assert main(f"query {weights} {words} --pairs 4".split()) == 0
    said = capsys.readouterr().out.splitlines()
    found = read_measurements(file)
    tasks = ["attack", "transfer", "segment", "segment", "query"]
    assert [m.task for m in found] == tasks
    assert said == [headline(m) for m in found]
    rate = found[0].metrics["eps"]["16"]["fooling_rate"]
    assert f"{rate:.1f} at 16/255" in said[0]
    jaccard = found[3].metrics["all"]["jaccard"]
    assert said[3].startswith("no network, segment on 80 of embedded test: centre, ")
    assert f"Jaccard {jaccard:.3f}" in said[3]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("attack --weights none.safetensors", "no whole weights at none.safetensors"),
        (
            "attack --weights W --attack bim",
            "invalid choice 'bim' for argument '--attack'. Expected one of",
        ),
        ("attack --weights W --images 0", "images: Input should be greater than or equal"),
        ("attack --weights W --images 99999999", "images 99999999: give 1 to "),
        ("attack --weights W --dataset cifar11", "unknown data set 'cifar11'"),
        ("attack --weights W --split val", "embedded has no split 'val'"),
        ("attack --weights W --device quantum", "device 'quantum' is not available"),
        ("attack --weights W --device meta", "device 'meta' is not available here"),
        ("attack --weights W --device mps", "device 'mps' is not available here"),
        (
            "transfer --weights W --solver svc",
            "invalid choice 'svc' for argument '--solver'. Expected",
        ),
        (
            "segment --methods sum",
            "invalid choice 'sum' for argument '--methods'. Expected",
        ),
        ("segment --dataset cifar10", "cifar10 has no masks of its objects: choose one"),
        ("query --weights W --layer layer1", "this network has no attention at 'layer1'"),
        ("query --weights W --pairs 0", "pairs: Input should be greater than or equal"),
        ("query --weights W --pairs 9999999999", "pairs: Input should be less than or "),
        ("query --weights W --seed -1", "seed: Input should be greater than or equal"),
        (f"query --weights W --seed {10**30}", "seed: Input should be less than"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    words, said, attended, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    if "cifar10" in words:
        data = load("embedded", "test")
        bare = Dataset(data.images, data.labels, data.classes, None, "f")
        monkeypatch.setattr(base, "load", lambda *rest: bare)
    words = words.replace("W", str(attended[1])).split()
    words += [] if "--dataset" in words else ["--dataset", "embedded"]
    assert main(words) == 2
    out, error = capsys.readouterr()
    assert out == ""
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {said}")
    assert error.endswith(f"{lines[0]}\n")
    assert not list(tmp_path.iterdir())  # no empty results/ either


def test_altered_weights_and_a_place_that_cannot_be_written_stop_it(attended, tmp_path):
    altered = tmp_path / "weights.safetensors"
    altered.write_bytes(attended[1].read_bytes()[:-1] + b"x")
    facts = attended[1].with_suffix(".json").read_bytes()
    altered.with_suffix(".json").write_bytes(facts)
    with pytest.raises(WeightsError, match="incomplete or altered"):
        measure("attack", [altered], where=where())
    with pytest.raises(RecordError, match="name a file that is writable"):
        measure("attack", [attended[1]], where=where(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_made_stops_it_before_the_work(attended, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RecordError, match="name one that is writable"):
        measure("attack", [attended[1]], where=where(tmp_path / "new" / "m.jsonl"))
    tmp_path.chmod(0o700)
