"""The paper's recipes beyond CIFAR, starting from other weights, the scripts' options.

Guarded: each rate, epoch by epoch, against SPEC's table written out by hand; that a run
starts from exactly the weights it names; that options reach the network and its file.
"""

import json

import pytest
import torch
from pydantic import ValidationError

from lpa_core import build_network
from lpa_core.training import (
    RunSpec,
    WeightsError,
    build_recipe,
    explain,
    load_trained,
    lr_factor,
    run,
    start_from,
)
from lpa_core.training.checkpoint import read_pair, seal_pair, write_pair

NETWORK, WIDTH = "vgg-att2-indep-pc", 1 / 32


def rate(name: str, epoch: int) -> float:
    """The rate in the middle of an epoch (0, 1, …), but for the tiny decay a step."""
    recipe = build_recipe(name)
    return recipe.lr * lr_factor(recipe, 10 * epoch + 5, 10, recipe.epochs)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("paper-svhn", {0: 0.1, 24: 0.1, 25: 0.05, 50: 0.025, 299: 0.1 / 2**11}),
        (
            "paper-cub",
            {0: 0.1, 29: 0.1, 30: 0.2, 59: 0.2, 60: 0.4, 89: 0.4, 90: 0.2, 120: 0.1}
            | {319: 0.4 / 2**8},
        ),
        (
            "paper-rn",
            {0: 0.1, 59: 0.1, 60: 0.02, 119: 0.02, 120: 0.004, 160: 8e-4, 199: 8e-4},
        ),
    ],
)
def test_rates_change_when_the_paper_says(name, rates):
    for epoch, wanted in rates.items():
        assert rate(name, epoch) == pytest.approx(wanted, rel=1e-3), epoch


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "nesterov", "flip", "crop", "preprocess", "start"),
    [
        ("paper", 300, 128, False, True, 0, "yuv", None),
        ("paper-svhn", 300, 128, False, False, 0, "scale", None),
        ("paper-cub", 320, 128, False, True, 0, "scale", "cifar100"),
        ("paper-rn", 200, 64, True, True, 4, "zca", None),
    ],
)
def test_recipes_are_the_papers_table(
    name, epochs, batch, nesterov, flip, crop, preprocess, start
):
    recipe = build_recipe(name)
    assert (recipe.momentum, recipe.weight_decay) == (0.9, 5e-4)
    assert (recipe.epochs, recipe.batch_size) == (epochs, batch)
    assert (recipe.nesterov, recipe.flip, recipe.crop) == (nesterov, flip, crop)
    assert (recipe.preprocess, recipe.start) == (preprocess, start)
    assert (recipe.dropout, recipe.label_smoothing, recipe.muon_lr) == (None, 0, None)


# ------------------------------------------------------------ starting from other weights


def spec(**changes) -> RunSpec:
    return RunSpec(
        **dict(
            network=NETWORK,
            dataset="embedded",
            width=WIDTH,
            epochs=1,
            train_images=256,
            precision="float32",
        )
        | changes
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and the file of its weights."""
    folder = tmp_path_factory.mktemp("trained")
    record = run(spec(add_log_probabilities=True), runs=folder, progress=False)
    return record, next(folder.glob("*/weights.safetensors"))


def test_a_run_starts_from_the_weights_it_names(trained, tmp_path):
    record, path = trained
    seen = {}

    def watch(epochs, network):
        seen[epochs] = {k: v.clone() for k, v in network.state_dict().items()}

    again = run(
        spec(initial=str(path), seed=1), runs=tmp_path, progress=False, callback=watch
    )
    assert sorted(seen) == [0, 1]
    tensors, _ = read_pair(path)
    for name, value in seen[0].items():
        same = torch.equal(value, tensors[f"network.{name}"])
        assert same != ("classifier" in name), name
    assert any(not torch.equal(seen[0][name], seen[1][name]) for name in seen[0])
    assert again.fingerprints["initial"] == record.weights_sha256


def test_an_identity_is_of_the_weights_and_not_of_where_they_lie(trained, tmp_path):
    data = {"train": "a", "test": "b", "initial": "c"}
    here, there = spec(initial="here"), spec(initial="there")
    assert here.identity(data) == there.identity(data)
    assert here.identity(data) != here.identity(data | {"initial": "d"})
    assert spec().identity({"train": "a", "test": "b"}) != here.identity(data)


def test_only_the_classifier_may_have_other_classes(trained):
    _, path = trained
    network = build_network(NETWORK, num_classes=7, width=WIDTH, dropout=0.2)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    start_from(network, path, {"network": NETWORK})
    after = network.state_dict()
    classifiers = [name for name in after if "classifier" in name]
    assert len(classifiers) == 4  # a weight and a bias for each of two levels
    assert all(torch.equal(before[name], after[name]) for name in classifiers)
    first = "trunk.layer1.conv.weight"
    assert not torch.equal(before[first], after[first])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "vgg"}, f"its network is '{NETWORK}', the run's is 'vgg'"),
        ({"width": 1 / 16}, "its width is 0.03125, the run's is 0.0625"),
        ({"recipe": "paper-cub"}, "its dataset is 'embedded', the run's is 'cifar100'"),
    ],
)
def test_other_weights_are_refused_before_anything_is_written(
    trained, tmp_path, changes, message
):
    with pytest.raises(WeightsError, match=message):
        run(spec(initial=str(trained[1]), **changes), runs=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no whole weights at .*nowhere\.safetensors"):
        run(spec(initial="nowhere.safetensors"), runs=tmp_path, progress=False)


def test_weights_of_other_layers_are_refused(trained, tmp_path):
    tensors, facts = read_pair(trained[1])
    tensors.pop("network.trunk.layer3.conv.bias")
    write_pair(tmp_path / "weights.safetensors", tensors, facts)
    network = build_network(NETWORK, num_classes=7, width=WIDTH)
    with pytest.raises(WeightsError, match="it has other layers"):
        start_from(network, tmp_path / "weights.safetensors", {"network": NETWORK})


def test_classes_that_are_not_the_weights_are_said(trained, tmp_path):
    tensors, facts = read_pair(trained[1])
    write_pair(tmp_path / "w.safetensors", tensors, facts)
    path = tmp_path / "w.json"
    told = json.loads(path.read_text())
    told.pop("facts_sha256")
    path.write_text(json.dumps(told | {"classes": ["cat", "dog"]}))
    seal_pair(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=rf"does not fit {NETWORK} .* with 2 classes"):
        load_trained(tmp_path / "w.safetensors")


# ------------------------------------------------------------------ the scripts' options


def test_adding_log_probabilities_is_kept_with_the_weights(trained):
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    network = load_trained(trained[1])
    seen = network.attend(images)
    parts = [
        network.network.head.classifiers[name](
            network.network.head.prepare[name](descriptor)
        ).log_softmax(dim=1)
        for name, descriptor in seen.descriptors.items()
    ]
    torch.testing.assert_close(seen.logits, parts[0] + parts[1])


def test_options_change_the_run(tmp_path):
    shas = {
        run(spec(**changes), runs=tmp_path, progress=False).weights_sha256
        for changes in ({}, {"average_gradients": True}, {"add_log_probabilities": True})
    }
    assert len(shas) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"network": "vgg", "average_gradients": True}, "vgg has no attended layers"),
        (
            {"network": "vgg-att2-concat-pc", "add_log_probabilities": True},
            "add_log_probabilities goes with the indep networks",
        ),
        ({"recipe": "paper-cub"}, "trained on cifar100: name their file as `initial`"),
    ],
)
def test_what_does_not_go_together_is_said(fields, message):
    with pytest.raises(ValidationError) as caught:
        RunSpec(**fields)
    line = explain(caught.value)
    assert message in line
    assert "\n" not in line
    assert "got {" not in line
