"""The paper's recipes beyond CIFAR, starting from other weights, the scripts' options.

Guarded: each rate, epoch by epoch, against SPEC's table written out by hand; that a run
starts from exactly the weights it names; that options reach the network and its file.
"""

import json

import numpy as np
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
    recipes,
    run,
    start_from,
)
from lpa_core.training.checkpoint import read_pair, seal_pair, write_pair
from lpa_core.training.optim import Optimiser

NETWORK, WIDTH = "vgg-att2-indep-pc", 1 / 32


def rate(name: str, epoch: int) -> float:
    """The rate in the middle of an epoch (0, 1, …), but for the tiny decay a step."""
    recipe = build_recipe(name)
    return recipe.lr * lr_factor(recipe, 10 * epoch + 5, 10, recipe.epochs)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        # Epochs counted from 0 here: the 25th, at whose beginning the rate changes, is 24.
        ("paper", {0: 1, 23: 1, 24: 0.5, 48: 0.5, 49: 0.25, 298: 2**-11, 299: 2**-12}),
        ("paper-svhn", {0: 0.1, 23: 0.1, 24: 0.05, 49: 0.025, 299: 0.1 / 2**12}),
        (
            "paper-cub",
            {0: 0.1, 28: 0.1, 29: 0.2, 58: 0.2, 59: 0.4, 88: 0.4, 89: 0.2, 119: 0.1}
            | {298: 0.4 / 2**7, 299: 0.4 / 2**8, 319: 0.4 / 2**8},
        ),
        (
            "paper-rn",
            {0: 0.1, 58: 0.1, 59: 0.02, 118: 0.02, 119: 0.004, 159: 8e-4, 199: 8e-4},
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
        ("paper-svhn", 300, 128, False, True, 0, "scale", None),
        ("paper-svhn-unflipped", 300, 128, False, False, 0, "scale", None),
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
    residual = name == "paper-rn"
    assert (recipe.dampening or 0) == (0 if residual else 0.9)
    assert recipe.reset_momentum == residual
    assert recipe.initialisation == "scripts"
    assert recipe.flip_half == flip
    assert recipe.flip_digits == (name == "paper-svhn")


def torch7_sgd(parameters, gradients, state, lr, decay, wd, momentum, dampening, nesterov):
    """A step of Torch7's optim.sgd, written from its rule; everything as float64 arrays."""
    steps = state.setdefault("steps", 0)
    gradients = [g + wd * x for g, x in zip(gradients, parameters, strict=True)]
    if "moments" not in state:  # the first momentum is the gradient, not dampened
        state["moments"] = [g.copy() for g in gradients]
    else:
        state["moments"] = [
            momentum * m + (1 - dampening) * g
            for m, g in zip(state["moments"], gradients, strict=True)
        ]
    if nesterov:
        moves = [g + momentum * m for g, m in zip(gradients, state["moments"], strict=True)]
    else:
        moves = state["moments"]
    state["steps"] += 1
    rate = lr / (1 + steps * decay)
    return [x - rate * d for x, d in zip(parameters, moves, strict=True)]


@pytest.mark.parametrize("name", ["paper", "paper-svhn", "paper-cub", "paper-rn"])
def test_fifty_steps_are_torch7s(name):
    """The optimiser against the rule in NumPy, on gradients that depend on the weights."""
    dampening, nesterov = (0, True) if name == "paper-rn" else (0.9, False)
    decay = 1e-3  # so large that fifty steps show it
    recipe = build_recipe(name).model_copy(update={"lr_decay": decay, "milestones": ()})
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
    ).double()
    network = network.to(memory_format=torch.channels_last)
    optimiser, generator = Optimiser(network, recipe), torch.Generator().manual_seed(0)
    by_hand = [p.detach().numpy().copy() for p in network.parameters()]
    state = {}
    for step in range(50):
        optimiser.zero_grad()
        for p in network.parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.grad = 0.05 * p.detach() + 0.01 * noise
        gradients = [p.grad.numpy().copy() for p in network.parameters()]
        optimiser.step(lr_factor(recipe, step, 10, recipe.epochs))
        by_hand = torch7_sgd(
            by_hand, gradients, state, recipe.lr, decay, 5e-4, 0.9, dampening, nesterov
        )
        for mine, theirs in zip(network.parameters(), by_hand, strict=True):
            np.testing.assert_allclose(mine.detach().numpy(), theirs, rtol=1e-9, atol=1e-12)


def test_momentum_is_forgotten_where_a_residual_networks_rate_changes(
    monkeypatch, tmp_path
):
    """At the beginning of the epochs of the milestones, also in a run that was resumed."""
    recipe = build_recipe("paper-rn").model_copy(
        update={"milestones": ((1, 0.2), (3, 0.2)), "preprocess": "scale", "batch_size": 64}
    )
    monkeypatch.setitem(recipes.RECIPES, "paper-rn", recipe)
    reset, forget = [], Optimiser.reset_momentum

    def noted(self):
        reset.append(len(self.state_dict()))  # how many parameters had some
        forget(self)
        assert not self.state_dict()

    monkeypatch.setattr(Optimiser, "reset_momentum", noted)
    fields = {"network": "rn20", "recipe": "paper-rn", "width": 1 / 4, "train_images": 64}
    spec_ = RunSpec(dataset="embedded", epochs=4, precision="float32", **fields)
    record = run(spec_, runs=tmp_path, progress=False)
    count = len(list(build_network("rn20", 10, 1 / 4).parameters()))
    assert reset == [count, count]
    rates = [epoch.rate for epoch in record.history]
    assert rates == pytest.approx([0.1, 0.02, 0.02, 0.004])


def test_a_recipe_says_how_its_networks_begin():
    paper = RunSpec(network="vgg", recipe="paper")
    assert paper.chosen_initialisation() == "scripts"
    assert RunSpec(network="vgg").chosen_initialisation() == "pytorch"
    # What the recipe has anyway is the same run; the other one is another, with a name.
    assert RunSpec(network="vgg", recipe="paper", initialisation="scripts") == paper
    other = RunSpec(network="vgg", recipe="paper", initialisation="pytorch")
    assert other.label() == "vgg_embedded_w0.25_paper_pytorch_s0"
    data = {"train": "a", "test": "b"}
    assert other.identity(data) != paper.identity(data)
    scaled = RunSpec(initialisation="scripts", query_std=0.2)
    assert scaled.label() == "vgg-att2-concat-pc_embedded_w0.25_fast_scripts-u0.2_s0"
    assert len({s.identity(data) for s in (scaled, RunSpec(query_std=0.2), RunSpec())}) == 3


def test_a_name_says_the_epochs_that_are_not_the_recipes():
    assert RunSpec(network="vgg", epochs=60).label() == "vgg_embedded_w0.25_fast_e60_s0"
    assert RunSpec(network="vgg", epochs=10).label() == "vgg_embedded_w0.25_fast_s0"
    assert RunSpec(network="vgg").label() == "vgg_embedded_w0.25_fast_s0"


@pytest.mark.usefixtures("few_test_images")
def test_a_run_begins_as_it_says_and_its_weights_say_so(tmp_path):
    seen = {}
    for name, changes in {
        "as torch": {},
        "as scripts": {"initialisation": "scripts"},
    }.items():

        def callback(epochs, network, name=name):
            seen.setdefault(name, network.trunk.layer1.norm.weight.detach().clone())

        started = spec(width=1 / 16, **changes)
        run(started, runs=tmp_path / name, progress=False, callback=callback)
        _, facts = read_pair(next((tmp_path / name).glob("*/weights.safetensors")))
        assert facts.get("beginning") == changes.get("initialisation")
        assert facts["trained"] == started.trained()
    assert (seen["as torch"] == 1).all()
    assert seen["as scripts"].std() > 0.05


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
        ({"network": "vgg"}, f"its network is '{NETWORK}', but the run's is 'vgg'"),
        ({"width": 1 / 16}, "its width is 0.03125, but the run's is 0.0625"),
        ({"recipe": "paper-cub"}, "its dataset is 'embedded', but the run's is 'cifar100'"),
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


@pytest.mark.usefixtures("few_test_images")
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
            "add_log_probabilities applies to the indep networks",
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
