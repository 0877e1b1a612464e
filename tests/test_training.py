"""Training: what is refused, what a step does, and that a killed run loses nothing.

Guarded: the checks of a RunSpec, the recipes' rates and sizes, both optimisers against
NumPy, checkpoints that are taken up bit for bit or not at all, records written once, and
weights that are loaded only if they are whole and loop.
"""

import copy
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lpa_core import build_network, provenance
from lpa_core.data import load
from lpa_core.results import read_records
from lpa_core.tasks.classify import top1_error
from lpa_core.training import (
    RECIPES,
    TRAINING_CHANGES,
    TRAINING_VERSION,
    Record,
    RecordError,
    RunSpec,
    WeightsError,
    autocast,
    build_recipe,
    checkpoint,
    choose_device,
    config,
    explain,
    export_weights,
    inputs,
    load_trained,
    loop,
    lr_factor,
    run,
    training_version,
)
from lpa_core.training import (
    step as one_step,
)
from lpa_core.training.checkpoint import WeightsFacts, read_pair, seal_pair
from lpa_core.training.config import TrainingChange, run_identity
from lpa_core.training.optim import Optimiser, as_matrix
from lpa_core.training.step import TrainStep

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 1 / 32


# ------------------------------------------------------------------ what is to be run


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("network", "vgg-att4", "choose one of vgg, "),
        ("dataset", "cifar11", "choose one of embedded, "),
        (
            "recipe",
            "quick",
            "choose one of paper, paper-svhn, paper-svhn-unflipped, paper-cub, paper-rn, ",
        ),
        ("seed", "3", "valid integer"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", True, "valid integer"),
        ("seed", 2**31, "less than 2147483648"),
        ("width", "0.25", "valid number"),
        ("width", 0, "greater than 0"),
        ("width", float("nan"), "less than or equal to 8"),
        ("width", 9, "less than or equal to 8"),
        ("epochs", 0, "greater than or equal to 1"),
        ("epochs", 2.5, "valid integer"),
        ("train_images", "false", "valid integer"),
        ("train_images", False, "valid integer"),
        ("precision", "float8", "'auto', 'float32', 'bfloat16' or 'float16'"),
        ("colour", 1, "not permitted"),
    ],
)
def test_a_wrong_field_is_explained_in_one_line(field, value, allowed):
    with pytest.raises(ValidationError) as caught:
        RunSpec(**{field: value})
    line = explain(caught.value)
    assert line.startswith(f"{field}: ")
    assert allowed in line
    assert f"(got {value!r})" in line
    assert "\n" not in line


def test_missing_fields_are_named_without_everything_else():
    with pytest.raises(ValidationError) as caught:
        WeightsFacts.model_validate({"classes": ["cat"] * 1000, "width": 0.25})
    line = explain(caught.value)
    assert "missing: network, image_size" in line
    assert "cat" not in line


def test_a_long_value_is_shortened():
    with pytest.raises(ValidationError) as caught:
        RunSpec(seed=["cat"] * 1000, width="x" * 10_000)
    assert len(explain(caught.value)) < 600


def test_several_wrong_fields_are_all_explained():
    with pytest.raises(ValidationError) as caught:
        RunSpec(seed="3", network="alexnet")
    line = explain(caught.value)
    assert "seed: " in line
    assert "network: unknown network 'alexnet'" in line
    assert "\n" not in line


DATA = {"train": "a", "test": "b"}


def test_an_identity_is_of_all_that_decides_the_result():
    spec = RunSpec()
    others = [
        RunSpec(seed=1),
        RunSpec(width=0.5),
        RunSpec(recipe="paper"),
        RunSpec(epochs=3),
        RunSpec(train_images=300),
        RunSpec(precision="float32"),
        RunSpec(average_gradients=True),
        RunSpec(dataset="cifar10"),
    ]
    names = {s.identity(DATA) for s in (spec, *others)} | {spec.identity({"train": "c"})}
    assert len(names) == 10
    assert spec.identity(DATA) == RunSpec().identity(dict(DATA))
    assert len(spec.identity(DATA)) == 16


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 64}, {"label_smoothing": 0.0}, {"dropout": 0.0}, {"flip": False}],
)
def test_an_identity_changes_with_the_recipes_content(monkeypatch, change):
    before = RunSpec().identity(DATA)
    other = build_recipe("fast").model_copy(update=change)
    assert other != build_recipe("fast")
    monkeypatch.setitem(RECIPES, "fast", other)
    assert RunSpec().identity(DATA) != before


def test_an_option_that_is_off_leaves_every_identity_alone():
    """So that a field may be added to RunSpec or Recipe without voiding a record."""

    class Longer(RunSpec):
        mixup: bool = False
        ema: float | None = None

    recipe = build_recipe("fast").content()
    names = [
        run_identity(spec, content, DATA, 1)
        for spec in (RunSpec(), Longer(), Longer(mixup=True), Longer(ema=0.9))
        for content in (recipe, recipe | {"mixup": None, "layers": []})
    ]
    assert names[0] == names[1] == names[2] == names[3] == RunSpec().identity(DATA)
    assert len(set(names)) == 3


def test_a_change_of_training_concerns_the_runs_that_it_names(monkeypatch):
    resnet, vgg = RunSpec(network="rn20"), RunSpec(network="vgg")
    slow = RunSpec(network="rn20", recipe="paper-rn")
    before = {spec: spec.identity(DATA) for spec in (resnet, vgg, slow)}
    changes = (
        *TRAINING_CHANGES,
        TrainingChange(TRAINING_VERSION + 1, "…", runs=("rn* paper-*",)),
    )
    monkeypatch.setattr(config, "TRAINING_CHANGES", changes)
    assert training_version(slow) == TRAINING_VERSION + 1
    assert training_version(resnet) == TRAINING_VERSION
    assert training_version(vgg) == 1
    after = {spec: spec.identity(DATA) for spec in (resnet, vgg, slow)}
    assert after[slow] != before.pop(slow)
    assert {spec: after[spec] for spec in before} == before


def test_changes_are_numbered_from_one():
    numbers = [change.version for change in TRAINING_CHANGES]
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers[-1] == TRAINING_VERSION


def test_every_record_of_the_book_is_of_training_as_it_is_now():
    """The plan trains nothing again: their identities are those of today's specs."""
    for record in read_records():
        assert record.identity == record.spec.identity(record.fingerprints)


# -------------------------------------------------------------------------- recipes


def test_the_papers_rate_halves_every_25_epochs_and_decays_a_little_each_step():
    """Section A.3: from 1.0, halved every 25 epochs, 300 of them, decay 1e-7 a step.

    The scripts halve it as epochs 25, 50, … begin, counted from 1.
    """
    recipe, steps = build_recipe("paper"), 390
    assert (recipe.lr, recipe.epochs, recipe.batch_size) == (1.0, 300, 128)
    assert (recipe.momentum, recipe.weight_decay, recipe.nesterov) == (0.9, 5e-4, False)
    assert (recipe.label_smoothing, recipe.dropout, recipe.muon_lr) == (0, None, None)
    for epoch in (0, 1, 23, 24, 25, 48, 49, 50, 299):
        for step in (epoch * steps, epoch * steps + steps - 1):
            wanted = 1.0
            for _ in range((epoch + 1) // 25):
                wanted *= 0.5
            wanted /= 1 + step * 1e-7
            found = recipe.lr * lr_factor(recipe, step, steps, recipe.epochs)
            assert found == pytest.approx(wanted, rel=1e-12)


def test_the_fast_rate_rises_to_its_peak_and_falls_to_nothing():
    recipe, steps = build_recipe("fast"), 8
    shares = [lr_factor(recipe, step, steps, 10) for step in range(80)]
    peak = shares.index(max(shares))
    assert peak in (19, 20)  # after a quarter of the run
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert 0 < shares[0] < 0.05
    assert 0 < shares[-1] < 0.02
    assert 0.95 < max(shares) <= 1
    rises, falls = np.diff(shares[:peak]), np.diff(shares[peak + 1 :])
    np.testing.assert_allclose(rises, rises[0])
    np.testing.assert_allclose(falls, falls[0])


def test_sizes_grow_in_the_fast_recipe_and_stay_in_the_papers():
    fast, paper = build_recipe("fast"), build_recipe("paper")
    sizes = [fast.image_size(epoch, 10, 32) for epoch in range(10)]
    assert sizes == [20, 20, 20, 20, 24, 24, 28, 28, 32, 32]
    assert {paper.image_size(epoch, 300, 32) for epoch in range(300)} == {32}


def test_an_unknown_recipe_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"recipe 'slow': choose one of paper, paper-svhn"):
        build_recipe("slow")


# ----------------------------------------------------------------------- optimisers


@pytest.mark.parametrize("nesterov", [False, True])
def test_gradient_descent_is_the_textbooks(nesterov):
    """Two steps of w <- w - rate * (momentum and decay), computed by NumPy as well."""
    recipe = build_recipe("paper").model_copy(
        update={"nesterov": nesterov, "lr": 0.3, "dampening": None}
    )
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 2))
    w = {name: p.detach().double().numpy().copy() for name, p in layer.named_parameters()}
    buffers = {name: np.zeros_like(x) for name, x in w.items()}
    optimiser = Optimiser(layer, recipe)
    for share in (0.5, 1.0):
        for name, parameter in layer.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            gradient = parameter.grad.double().numpy() + recipe.weight_decay * w[name]
            buffers[name] = recipe.momentum * buffers[name] + gradient
            ahead = gradient + recipe.momentum * buffers[name]
            w[name] = w[name] - 0.3 * share * (ahead if nesterov else buffers[name])
        assert optimiser.step(share) == pytest.approx(0.3 * share)
    for name, parameter in layer.named_parameters():
        np.testing.assert_allclose(
            parameter.detach().numpy(), w[name], rtol=1e-5, atol=1e-6
        )


def a_filter(outputs=8, inputs=4):
    """A convolution in channels-last memory, with a gradient of very uneven directions."""
    conv = nn.Conv2d(inputs, outputs, 3).to(memory_format=torch.channels_last)
    u, _, v = torch.linalg.svd(torch.randn(outputs, 9 * inputs), full_matrices=False)
    gradient = (u * torch.logspace(0, -1.3, outputs)) @ v
    conv.weight.grad = gradient.view(outputs, 3, 3, inputs).permute(0, 3, 1, 2)
    conv.bias.grad = torch.zeros(outputs)
    return conv, u @ v


def test_muon_moves_every_direction_of_a_filter_alike():
    conv, directions = a_filter()
    network = nn.Sequential(conv)
    before = as_matrix(conv.weight.detach()).clone()
    recipe = build_recipe("fast")
    Optimiser(network, recipe).step(1.0)
    change = (before - as_matrix(conv.weight.detach())) / recipe.muon_lr
    spread = torch.linalg.svdvals(change)
    assert spread.max() < 1.3
    assert spread.min() > 0.6  # those of the gradient differ by a factor of 20
    # Not only is its size even: it points where the gradient points, in each direction.
    along = torch.linalg.svdvals(change @ directions.T)
    assert (change * directions).sum() / len(directions) > 0.7
    assert along.min() > 0.6


def test_matrices_share_their_memory_with_the_filters():
    conv, _ = a_filter()
    optimiser = Optimiser(nn.Sequential(conv), build_recipe("fast"))
    ((name, matrix),) = optimiser.matrices.items()
    assert name == "0.weight"
    assert matrix.shape == (8, 36)
    with torch.no_grad():
        matrix[2, 5] = 123.0
    # Row 2, column 5 = row 0, column 1 of the 3x3 filter, of input channel 1.
    assert conv.weight[2, 1, 0, 1] == 123.0
    assert list(optimiser.others) == ["0.bias"]


def test_filters_in_another_memory_order_are_refused():
    """Their matrix would be a copy, and training would change nothing."""
    with pytest.raises(ValueError, match=r"0\.weight is not channels-last in memory"):
        Optimiser(nn.Sequential(nn.Conv2d(4, 8, 3)), build_recipe("fast"))


def test_a_convolution_to_one_channel_goes_by_gradient_descent():
    """It is a vector (u of the parametrised score), which has no directions to even out."""
    optimiser = Optimiser(nn.Sequential(nn.Conv2d(4, 1, 1)), build_recipe("fast"))
    assert not optimiser.matrices
    assert optimiser.muon is None
    assert list(optimiser.others) == ["0.weight", "0.bias"]


def steps(network, optimiser, seeds):
    for seed in seeds:
        random_numbers = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            gradient = torch.randn(parameter.shape, generator=random_numbers)
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        optimiser.step(0.7)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_momentum_can_be_saved_and_loaded(recipe):
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(4, 2))
    network = network.to(memory_format=torch.channels_last)
    first = Optimiser(network, build_recipe(recipe))
    steps(network, first, range(3))
    again, blank = copy.deepcopy(network), copy.deepcopy(network)
    second = Optimiser(again, build_recipe(recipe))
    second.load_state_dict({name: m.clone() for name, m in first.state_dict().items()})
    assert set(first.state_dict()) == set(dict(network.named_parameters()))
    for part, optimiser in ((network, first), (again, second)):
        steps(part, optimiser, range(3, 6))
    steps(blank, Optimiser(blank, build_recipe(recipe)), range(3, 6))
    for one, two, without in zip(
        network.parameters(), again.parameters(), blank.parameters(), strict=True
    ):
        assert torch.equal(one, two)
        assert not torch.equal(one, without)


def after_one_step(name, precision="float32"):
    """A network's numbers before and after a step of the fast recipe, and the recipe."""
    recipe = build_recipe("fast")
    network = build_network(name, 10, WIDTH, dropout=recipe.dropout)
    network = network.to(memory_format=torch.channels_last).train()
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(16, 3, 32, 32).to(memory_format=torch.channels_last)
    with autocast(precision, torch.device("cpu")):
        logits = network(images)
    nn.functional.cross_entropy(logits.float(), torch.arange(16) % 10).backward()
    Optimiser(network, recipe).step(1.0)
    return before, network.state_dict(), recipe


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["vgg-att-pc", "vgg-att2-indep-pc", "vgg-att3-concat-pc"])
def test_in_pc_nothing_beyond_the_last_attended_layer_learns(name, precision):
    before, after, recipe = after_one_step(name, precision)
    for layer in ("end.layer14.conv.weight", "end.layer15.conv.weight"):
        assert torch.equal(before[layer], after[layer])
    decay = 1 - recipe.lr * (1 + recipe.momentum) * recipe.weight_decay
    torch.testing.assert_close(
        after["end.layer16.weight"], decay * before["end.layer16.weight"], rtol=0, atol=1e-6
    )
    for number in range(1, 14):
        layer = f"trunk.layer{number}.conv.weight"
        assert (before[layer] - after[layer]).abs().max() > 1e-4


def test_in_dp_what_gives_the_query_learns():
    before, after, _ = after_one_step("vgg-att2-concat-dp")
    for layer in ("end.layer14.conv.weight", "end.layer15.conv.weight"):
        assert (before[layer] - after[layer]).abs().max() > 1e-4


# ------------------------------------------------------------------ runs, in-process


@pytest.fixture
def tiny(monkeypatch):
    """The first 256 and 100 images of `embedded` stand for all of it."""

    def load_some(name, split, *given):
        data, count = load(name, split, *given), 256 if split == "train" else 100
        return dataclasses.replace(
            data, images=data.images[:count], labels=data.labels[:count], masks=None
        )

    monkeypatch.setattr(inputs, "load", load_some)


SPEC = RunSpec(network="vgg-att2-concat-pc", width=WIDTH, epochs=5)


def train(spec, folder, records=None):
    return run(spec, runs=folder, records=records, device="cpu", progress=False)


def weights_of(folder):
    (path,) = folder.glob("*/weights.safetensors")
    return path.read_bytes()


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    """The folder and the record of a spec's run in one go; each is trained once."""

    @cache
    def made(spec):
        folder = tmp_path_factory.mktemp("uncut")
        return folder, train(spec, folder)

    return made


def never(*arguments, **named):
    raise AssertionError("this must not be reached")


def stop_at(monkeypatch, where, name, count):
    """Let a function be called `count` times, then interrupt the run."""
    real, calls = getattr(where, name), []

    def counted(*arguments, **named):
        if len(calls) == count:
            raise KeyboardInterrupt
        calls.append(None)
        return real(*arguments, **named)

    monkeypatch.setattr(where, name, counted)
    return calls


def test_training_reduces_the_loss(tiny, tmp_path):
    spec = SPEC.model_copy(update={"width": 1 / 16, "epochs": 8})
    record = train(spec, tmp_path)
    first, last = record.history[0], record.history[-1]
    assert last.train_loss < first.train_loss - 0.1
    assert last.train_error < first.train_error
    assert last.train_error < 85  # guessing one of ten classes: 90


def test_a_record_says_what_ran(tiny, tmp_path):
    record = train(SPEC, tmp_path, tmp_path / "records.jsonl")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert record.spec == SPEC
    assert record.epochs == len(record.history) == 5
    assert [e.image_size for e in record.history] == [20, 20, 24, 28, 32]
    assert record.metrics["test_error"] == record.history[-1].test_error
    assert [e.epoch for e in record.history if e.test_error is not None] == [4, 5]
    network = build_network(SPEC.network, 10, WIDTH)
    assert record.parameters == sum(p.numel() for p in network.parameters())
    assert record.versions["torch"] == torch.__version__
    assert record.device
    assert record.threads == torch.get_num_threads()
    assert record.sessions == 1
    assert record.id in folder.name
    assert record.id == record.identity == SPEC.identity(record.fingerprints)
    assert record.recipe == build_recipe(SPEC.recipe).content()
    assert (record.training_version, record.code) == (training_version(SPEC), None)
    assert record.fingerprints["train"] == load("embedded", "train").fingerprint
    trained = 5 * 256 / sum(e.seconds for e in record.history)
    assert record.images_per_second == pytest.approx(trained)
    text = (folder / "record.json").read_text()
    assert Record.model_validate_json(text) == record
    assert read_records(tmp_path / "records.jsonl") == [record]


@pytest.mark.parametrize("recipe", ["fast", "paper"])
def test_the_same_run_gives_the_same_weights_and_another_seed_others(
    tiny, tmp_path, recipe
):
    spec = SPEC.model_copy(update={"recipe": recipe, "epochs": 2})
    one, two = train(spec, tmp_path / "one"), train(spec, tmp_path / "two")
    other = train(spec.model_copy(update={"seed": 1}), tmp_path / "other")
    assert weights_of(tmp_path / "one") == weights_of(tmp_path / "two")
    assert weights_of(tmp_path / "one") != weights_of(tmp_path / "other")
    assert one.weights_sha256 == two.weights_sha256 != other.weights_sha256
    assert one.id == two.id != other.id


# Two steps an epoch: killed in the first, in the middle of one, between two, in the last.
@pytest.mark.parametrize(
    ("recipe", "step"), [("fast", 1), ("fast", 5), ("fast", 6), ("fast", 9), ("paper", 5)]
)
def test_a_run_taken_up_again_ends_with_the_same_weights(
    tiny, uncut, tmp_path, monkeypatch, recipe, step
):
    spec = SPEC.model_copy(update={"recipe": recipe})
    folder, straight = uncut(spec)
    with monkeypatch.context() as patch:
        stop_at(patch, TrainStep, "compute", step)
        with pytest.raises(KeyboardInterrupt):
            train(spec, tmp_path / "killed")
    # Whatever was drawn in between must not matter.
    torch.manual_seed(99)
    done = stop_at(monkeypatch, TrainStep, "compute", 1000)  # never: it counts the steps
    resumed = train(spec, tmp_path / "killed")
    assert len(done) == 10 - step // 2 * 2  # whole epochs were kept
    assert weights_of(tmp_path / "killed") == weights_of(folder)
    assert resumed.sessions == (2 if step > 1 else 1)
    keep = {"seconds"}
    for one, two in zip(straight.history, resumed.history, strict=True):
        assert one.model_dump(exclude=keep) == two.model_dump(exclude=keep)


@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize("call", range(4))
def test_a_run_interrupted_as_it_writes_ends_with_the_same_weights(
    tiny, uncut, tmp_path, monkeypatch, where, call
):
    spec = SPEC.model_copy(update={"epochs": 2})
    folder, _ = uncut(spec)
    with monkeypatch.context() as patch:
        stop_at(patch, provenance.os, where, call)
        with pytest.raises(KeyboardInterrupt):
            train(spec, tmp_path / "killed")
    train(spec, tmp_path / "killed")
    assert weights_of(tmp_path / "killed") == weights_of(folder)
    assert not list(tmp_path.rglob("*.part"))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def alter(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "tensors cut": lambda path: cut(path),
    "tensors empty": lambda path: path.write_bytes(b""),
    "a byte altered": lambda path: alter(path),
    "no json": lambda path: path.with_suffix(".json").unlink(),
    "json cut": lambda path: cut(path.with_suffix(".json")),
    "json empty": lambda path: path.with_suffix(".json").write_bytes(b""),
    "json without checksum": lambda path: path.with_suffix(".json").write_text("{}"),
}


@pytest.fixture(scope="module")
def epochs_kept(tmp_path_factory):
    """A straight run of four epochs, and every checkpoint that it wrote on its way."""
    base, kept = tmp_path_factory.mktemp("kept"), {}
    real = checkpoint.save_checkpoint

    def save(folder, *arguments):
        real(folder, *arguments)
        for path in folder.glob("checkpoint-*"):
            kept[path.name] = path.read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_checkpoint", save)
        record = train(FOUR, base)
    (folder,) = base.iterdir()
    assert len(kept) == 8
    return folder.name, kept, weights_of(base), record


FOUR = RunSpec(network="vgg", width=WIDTH, epochs=4, train_images=256)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("earlier", [True, False])
def test_a_damaged_checkpoint_is_never_loaded(
    epochs_kept, tmp_path, monkeypatch, capsys, damage, earlier
):
    """The one before it is taken up; where there is none, the run starts again."""
    name, kept, straight, _ = epochs_kept
    folder = tmp_path / name
    folder.mkdir()
    for number in (2, 3) if earlier else (3,):
        for file in (f"checkpoint-000{number}.safetensors", f"checkpoint-000{number}.json"):
            (folder / file).write_bytes(kept[file])
    DAMAGES[damage](folder / "checkpoint-0003.safetensors")
    done = stop_at(monkeypatch, TrainStep, "compute", 1000)
    record = train(FOUR, tmp_path)
    assert len(done) == 2 * (2 if earlier else 4)
    assert record.sessions == (2 if earlier else 1)
    assert weights_of(tmp_path) == straight
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"checkpoint left out: {folder / 'checkpoint-0003.safetensors'}")


def test_a_checkpoint_whose_facts_changed_is_left_out(epochs_kept, tmp_path, capsys):
    """Sealed with facts of the wrong type, or with one digit of them changed."""
    name, kept, straight, _ = epochs_kept
    folder = tmp_path / name
    folder.mkdir()
    for file, content in kept.items():
        (folder / file).write_bytes(content)
    sealed_with(folder / "checkpoint-0004.safetensors", {"epoch": "many"})
    third = folder / "checkpoint-0003.json"
    third.write_text(third.read_text().replace('"epoch": 3', '"epoch": 2'))
    train(FOUR, tmp_path)
    assert weights_of(tmp_path) == straight
    first, second = capsys.readouterr().err.splitlines()
    assert "checkpoint-0004.safetensors: epoch: " in first
    assert "checkpoint-0003.json is incomplete or altered" in second


def test_the_newest_two_checkpoints_are_kept(tiny, tmp_path):
    train(SPEC, tmp_path)
    names = sorted(path.name for path in tmp_path.glob("*/checkpoint-*"))
    assert names == [
        f"checkpoint-000{n}.{end}" for n in (4, 5) for end in ("json", "safetensors")
    ]


def test_a_checkpoint_that_was_not_written_as_it_should_be_deletes_none(
    tiny, tmp_path, monkeypatch
):
    real = checkpoint.write_whole

    def garbled(path, content):
        real(path, content[:-1] if path.name == "checkpoint-0003.safetensors" else content)

    monkeypatch.setattr(checkpoint, "write_whole", garbled)
    with pytest.raises(WeightsError, match=r"checkpoint-0003.*incomplete or altered"):
        train(SPEC, tmp_path)
    assert {p.stem for p in tmp_path.glob("*/checkpoint-*")} == {
        f"checkpoint-000{n}" for n in (1, 2, 3)
    }


def test_no_space_left_names_the_file(tiny, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(provenance.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*checkpoint-0001"):
        train(SPEC, tmp_path)


def test_watch_is_the_former_name_of_callback(tiny, tmp_path):
    seen = []
    with pytest.warns(DeprecationWarning, match="callback"):
        run(
            SPEC.model_copy(update={"epochs": 1}),
            runs=tmp_path,
            progress=False,
            watch=lambda epochs, network: seen.append(epochs),
        )
    assert seen == [0, 1]


@pytest.mark.parametrize("network", ["vgg-att2-concat-pc"])
def test_training_is_a_plain_loop_in_pytorch(tiny, tmp_path, network):
    """Two epochs, written by hand: order and dropout new in each, smoothed targets, SGD."""
    recipe = build_recipe("paper").model_copy(
        update={
            "lr": 0.05,
            "label_smoothing": 0.1,
            "nesterov": True,
            "dampening": None,
            "initialisation": None,
            "milestones": ((1, 0.5),),
        }
    )
    spec = RunSpec(
        network=network, width=WIDTH, recipe="paper", epochs=2, seed=3, precision="float32"
    )
    ends = {}

    def callback(epochs, net):
        ends[epochs] = {name: p.detach().clone() for name, p in net.named_parameters()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "paper", recipe)
        record = run(spec, runs=tmp_path, device="cpu", progress=False, callback=callback)
        data = inputs.load_data(spec, torch.device("cpu"))
    torch.manual_seed(3)
    net = build_network(network, 10, WIDTH).to(memory_format=torch.channels_last).train()
    sgd = torch.optim.SGD(
        net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    for epoch in range(2):
        torch.manual_seed(3 * 1_000_003 + epoch)
        losses = []
        for step, (images, labels) in enumerate(data.train.epoch(epoch, seed=3)):
            sgd.param_groups[0]["lr"] = 0.05 * 0.5**epoch / (1 + 1e-7 * (2 * epoch + step))
            log_p = net(images).log_softmax(dim=1)
            targets = 0.9 * nn.functional.one_hot(labels, 10) + 0.1 / 10
            loss = -(targets * log_p).sum(dim=1).mean()
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses.append(loss.item())
        assert record.history[epoch].train_loss == pytest.approx(np.mean(losses), rel=1e-4)
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(
                ends[epoch + 1][name], parameter.detach(), rtol=1e-3, atol=1e-4
            )


def test_the_newest_whole_checkpoint_is_taken(epochs_kept, tmp_path, monkeypatch):
    name, kept, straight, _ = epochs_kept
    (tmp_path / name).mkdir()
    for file, content in kept.items():
        (tmp_path / name / file).write_bytes(content)
    monkeypatch.setattr(loop, "train_epoch", never)
    train(FOUR, tmp_path)
    assert weights_of(tmp_path) == straight


def test_what_a_killed_run_was_writing_is_cleared_away(epochs_kept, tmp_path):
    name, kept, straight, _ = epochs_kept
    (tmp_path / name).mkdir()
    left = tmp_path / name / ".checkpoint-0003.safetensors.123.part"
    left.write_bytes(kept["checkpoint-0003.safetensors"][:1000])
    train(FOUR, tmp_path)
    assert not left.exists()
    assert weights_of(tmp_path) == straight


def test_a_finished_run_is_not_trained_again(tiny, tmp_path, monkeypatch):
    records = tmp_path / "records.jsonl"
    spec = SPEC.model_copy(update={"epochs": 1})
    first = train(spec, tmp_path / "runs", records)
    content = records.read_bytes()
    monkeypatch.setattr(loop, "train_epoch", never)
    monkeypatch.setattr(loop, "save_weights", never)
    assert train(spec, tmp_path / "runs", records) == first
    assert records.read_bytes() == content
    # A record that was lost, or never written because of a kill, is written now.
    records.unlink()
    train(spec, tmp_path / "runs", records)
    assert records.read_bytes() == content
    # Nor one whose folder has an older name: programs know a run by its identity.
    (folder,) = (tmp_path / "runs").iterdir()
    folder.rename(folder.with_name(f"{spec.network}_as_it_was_called_{first.id}"))
    assert train(spec, tmp_path / "runs", records) == first
    assert len(list((tmp_path / "runs").iterdir())) == 1


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(tiny, tmp_path, monkeypatch, loss):
    real = one_step.F.cross_entropy

    def diverged(logits, labels, **named):
        return real(logits, labels, **named) + loss

    monkeypatch.setattr(one_step.F, "cross_entropy", diverged)
    with pytest.raises(
        FloatingPointError, match=r"not finite any more in epoch 1: .* rate"
    ):
        train(SPEC, tmp_path)
    assert not list(tmp_path.rglob("checkpoint-*"))


def a_folder(tmp_path):
    (tmp_path / "records.jsonl").mkdir()
    return tmp_path / "records.jsonl"


def below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "records.jsonl"


@pytest.mark.parametrize("place", [a_folder, below_a_file])
def test_records_that_cannot_be_written_stop_a_run_before_it_starts(
    tmp_path, monkeypatch, place
):
    records = place(tmp_path)
    monkeypatch.setattr(inputs, "load", never)
    with pytest.raises(RecordError, match=r"cannot write to .*(records\.jsonl|file).*name"):
        train(SPEC, tmp_path / "runs", records)
    assert not (tmp_path / "runs").exists()


def test_a_runs_folder_that_cannot_be_written_stops_a_run(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(loop, "train_epoch", never)
    with pytest.raises(RecordError, match="cannot write to the folder"):
        train(SPEC, tmp_path / "file" / "runs")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_images": 257}, "train_images 257: the set has 256"),
        ({"train_images": 100}, "batch_size 128 exceeds the 100 images"),
        ({"width": 0.001}, "leaves no channels in a layer of 64"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_written(
    tiny, tmp_path, changes, said
):
    with pytest.raises(ValueError, match=said):
        train(SPEC.model_copy(update=changes), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["quantum", "cuda:99"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=rf"device '{name}' is not available here"):
        choose_device(name)


def test_a_part_of_the_set_is_drawn_evenly_from_the_classes():
    data = load("embedded", "test")
    images, labels = inputs.subset(data, 205, seed=3)
    counts = labels.bincount(minlength=10)
    assert counts.sum() == 205 == len(images)
    assert counts.max() - counts.min() <= 1
    pairs = {(i.numpy().tobytes(), int(n)) for i, n in zip(images, labels, strict=True)}
    everything = zip(data.images, data.labels, strict=True)
    assert pairs <= {(i.numpy().tobytes(), int(n)) for i, n in everything}
    assert len(pairs) == 205
    assert not torch.equal(images, inputs.subset(data, 205, seed=4)[0])


# -------------------------------------------------------------------------- weights


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """weights.safetensors of a run, and its record."""
    base = tmp_path_factory.mktemp("trained")
    spec = RunSpec(
        network="vgg-att3-concat-pc",
        width=1 / 16,
        epochs=2,
        train_images=384,
        precision="float32",
    )
    record = train(spec, base)
    (path,) = base.glob("*/weights.safetensors")
    return path, record


@pytest.fixture
def copied(trained_run, tmp_path):
    for path in (trained_run[0], trained_run[0].with_suffix(".json")):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path / "weights.safetensors"


def test_loaded_weights_err_as_the_record_says(trained_run):
    path, record = trained_run
    trained = load_trained(path)
    assert not trained.network.training
    found = top1_error(trained, load("embedded", "test"))
    assert found == pytest.approx(record.metrics["test_error"], abs=1e-6)


def test_exported_weights_are_half_as_large_and_see_nearly_the_same(trained_run, tmp_path):
    path, record = trained_run
    target = tmp_path / "small.safetensors"
    export_weights(path, target)
    assert target.stat().st_size < 0.6 * path.stat().st_size
    facts = json.loads(target.with_suffix(".json").read_text())
    assert facts["exported_from"] == record.weights_sha256
    whole, half = load_trained(path), load_trained(target)
    assert next(half.network.parameters()).dtype == torch.float32
    images = load("embedded", "test").images[:50]
    one, two = whole.attend(images), half.attend(images)
    assert (one.logits - two.logits).abs().max() < 0.02 * one.logits.abs().max()
    assert (one.logits - two.logits).abs().max() > 0
    for name, attention in one.maps.items():
        torch.testing.assert_close(two.maps[name], attention, rtol=0.05, atol=1e-5)


def sealed_with(path, changes):
    """Change the facts of weights, and put them under the right digest again."""
    facts = json.loads(path.with_suffix(".json").read_text()) | changes
    facts.pop("facts_sha256")
    path.with_suffix(".json").write_text(json.dumps(facts))
    seal_pair(path)


def test_a_changed_character_of_the_facts_is_noticed(copied):
    """One bit of each character of the JSON; what means the same may be loaded."""
    file = copied.with_suffix(".json")
    content, facts = file.read_bytes(), read_pair(copied)[1]
    noticed = 0
    for place in range(0, len(content), 7):
        file.write_bytes(
            content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        )
        try:
            assert read_pair(copied)[1] == facts
        except WeightsError:
            noticed += 1
    assert noticed > 0.9 * len(range(0, len(content), 7))


@pytest.mark.parametrize("text", ["[1,2]", "3", "null", '"facts"'])
def test_facts_that_are_no_object_are_said_in_one_line(copied, text):
    copied.with_suffix(".json").write_text(text)
    with pytest.raises(WeightsError, match="it is not a JSON object"):
        load_trained(copied)


def test_a_bad_file_under_the_right_digest_is_said_in_one_line(copied):
    copied.write_bytes(b"not safetensors")
    sealed = {"sha256": hashlib.sha256(b"not safetensors").hexdigest()}
    copied.with_suffix(".json").write_text(
        json.dumps(sealed | {"facts_sha256": checkpoint.facts_digest(sealed)})
    )
    with pytest.raises(WeightsError, match="is no safetensors file"):
        load_trained(copied)


def test_facts_under_no_digest_are_refused_until_they_are_sealed(copied):
    file = copied.with_suffix(".json")
    content = file.read_text()
    facts = json.loads(content)
    facts.pop("facts_sha256")
    file.write_text(json.dumps(facts, indent=1) + "\n")
    with pytest.raises(WeightsError, match=r"no facts_sha256.*call .*seal_pair"):
        load_trained(copied)
    seal_pair(copied)
    assert file.read_text() == content
    with pytest.raises(WeightsError, match="has a digest already"):
        seal_pair(copied)


@pytest.mark.parametrize("name", ["vgg", "vgg.json", "vgg.best", "w0.25"])
def test_weights_are_not_written_under_another_suffix(copied, name):
    """The JSON of "w0.25" would be w0.json, that of another export."""
    before = {path.name: path.read_bytes() for path in copied.parent.iterdir()}
    for write in (export_weights, checkpoint.copy_pair):
        with pytest.raises(WeightsError, match=r"must end in \.safetensors"):
            write(copied, copied.with_name(name))
    assert {p.name: p.read_bytes() for p in copied.parent.iterdir()} == before


@pytest.mark.parametrize(
    ("place", "said"),
    [("vgg.best", "must end in .safetensors"), ("file/w.safetensors", "cannot write to")],
)
def test_the_place_of_the_weights_is_tried_before_training(
    tmp_path, monkeypatch, place, said
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(inputs, "load", never)
    with pytest.raises((WeightsError, RecordError), match=said):
        run(SPEC, runs=tmp_path / "runs", weights=tmp_path / place, progress=False)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_never_loaded(copied, damage):
    DAMAGES[damage](copied)
    with pytest.raises(WeightsError, match=r"no whole weights|incomplete or altered"):
        load_trained(copied)
    with pytest.raises(WeightsError):
        export_weights(copied, copied.with_name("out.safetensors"))
    assert not copied.with_name("out.safetensors").exists()


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no whole weights at .*nowhere\.safetensors"):
        load_trained(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": "vgg"}, "does not fit vgg"),
        ({"network": "vgg-att2-concat-pc"}, "does not fit vgg-att2-concat-pc"),
        ({"width": 0.125}, "does not fit"),
        ({"classes": ["a", "b"]}, "does not fit"),
        ({"network": "alexnet"}, "does not describe a network: .*alexnet"),
        ({"image_size": 48}, "does not describe a network: .*image_size 48"),
        ({"preprocess": "whitened"}, "does not describe a network: .*whitened"),
        ({"width": "0.25"}, "does not describe a network: width: .*valid number"),
        ({"width": 1e9}, "does not describe a network: width: .*less than"),
        ({"width": None}, "does not describe a network: width"),
        ({"classes": 10}, "does not describe a network: classes: .*valid list"),
        ({"classes": []}, "does not describe a network: classes"),
        ({"dropout": "no"}, "does not describe a network: dropout"),
        ({"network": ["vgg"]}, "does not describe a network: network: .*valid string"),
        ({"image_size": 32.5}, "does not describe a network: image_size"),
        ({"preprocess": {}}, "does not describe a network: preprocess"),
    ],
)
def test_weights_of_another_network_are_refused(copied, changes, said):
    sealed_with(copied, changes)
    with pytest.raises(WeightsError, match=said) as caught:
        load_trained(copied)
    assert not isinstance(caught.value.__cause__, TypeError)


def test_a_checkpoint_is_not_mistaken_for_weights(epochs_kept, tmp_path):
    for name, content in epochs_kept[1].items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="is a checkpoint.*the weights are in") as caught:
        load_trained(tmp_path / "checkpoint-0004.safetensors")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), KeyboardInterrupt("Ctrl-C")]
)
def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, failure):
    path = tmp_path / "file"
    provenance.write_whole(path, b"before")

    def fail(descriptor):
        raise failure

    monkeypatch.setattr(provenance.os, "fsync", fail)
    with pytest.raises(type(failure), match="No space left|Ctrl-C"):
        provenance.write_whole(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


# ----------------------------------------------------- runs that are killed for real

WORDS = [
    *("train", "--network", "vgg-att2-concat-pc", "--width", "0.03125", "--epochs", "4"),
    *("--train-images", "256", "--profile", "smoke", "--device", "cpu"),
]


def command(folder, *words):
    return [
        *(sys.executable, "-m", "lpa_core", *WORDS, "--runs", str(folder / "runs")),
        *("--records", str(folder / "records.jsonl"), *words),
    ]


def surroundings():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Words that name a set of one's own, which is read in no time."""
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    rng = np.random.default_rng(0)
    arrays = {"classes": np.array([f"class {n}" for n in range(10)])}
    for split, count in (("train", 512), ("test", 100)):
        arrays[f"y_{split}"] = np.arange(count) % 10
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    np.savez(path, **arrays)
    return "--dataset", str(path)


def finished(folder, noise):
    """The weights and the record of a run by the command line."""
    done = subprocess.run(
        command(folder, *noise),
        env=surroundings(),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (record,) = read_records(folder / "records.jsonl")
    return weights_of(folder / "runs"), record


def kill_when(folder, noise, moment):
    """Start the run, and kill it at a moment; whether it was alive until then."""
    process = subprocess.Popen(
        command(folder, *noise),
        env=surroundings(),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not moment():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_that_is_killed_and_started_again_ends_with_the_same_weights(
    noise, tmp_path_factory, tmp_path
):
    """SIGKILL as it writes a checkpoint, then at a random moment, by the command line."""
    started = []

    def as_it_writes():
        return any((tmp_path / "runs").glob("*/*checkpoint-0002*"))

    def a_while_after_a_checkpoint():
        if not started and any((tmp_path / "runs").glob("*/checkpoint-0002.json")):
            started.append(time.monotonic() + random.uniform(0, 0.5))
        return bool(started) and time.monotonic() > started[0]

    assert kill_when(tmp_path, noise, as_it_writes)
    assert any((tmp_path / "runs").glob("*/checkpoint-*.json"))  # a whole one, always
    kill_when(tmp_path, noise, a_while_after_a_checkpoint)
    weights, record = finished(tmp_path, noise)
    assert weights == finished(tmp_path_factory.mktemp("uninterrupted"), noise)[0]
    assert record.sessions > 1
    assert not list(tmp_path.rglob("*.part"))


# Starting Python takes seconds, so that one process here forks the runs that are killed.
KILLER = """
import dataclasses, os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from lpa_core.__main__ import main
from lpa_core.training import inputs

DATA = {split: inputs.load("embedded", split) for split in ("train", "test")}


def load_some(name, split, *given):
    data = DATA[split]
    return dataclasses.replace(
        data, images=data.images[:256], labels=data.labels[:256], masks=None
    )


inputs.load = load_some


def run(words, kill_at=None, after=None):
    "One process; SIGKILL hits it at fsync number `kill_at`, or `after` some seconds."
    child = os.fork()
    if child == 0:
        real, calls = os.fsync, []

        def fsync(descriptor):
            calls.append(None)
            if len(calls) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            real(descriptor)

        os.fsync = fsync
        os._exit(main(words))
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


how, *words = sys.argv[1:]
start = time.monotonic()
assert run([*words, "--runs", "straight", "--records", "straight.jsonl"]) == 0
took = time.monotonic() - start
if how == "writing":
    # Each number is the file, counted from the start of that process, in whose writing it
    # is killed: two a checkpoint, two for the weights, then the run's record, and at last
    # the line in the records.
    codes = [run(words, kill_at=n) for n in (1, 2, 3, 4, 3, 1, 2, 3, 2, 3, 2)]
    assert codes == [-9] * len(codes), codes
else:
    codes = [run(words, after=random.uniform(0, 0.7 * took)) for _ in range(8)]
    assert -9 in codes, codes
assert run(words) == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["writing", "anywhere"])
def test_a_run_can_be_killed_at_any_moment(tmp_path, how):
    done = subprocess.run(
        [sys.executable, "-c", KILLER, how, *command(tmp_path)[3:]],
        env=surroundings(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert weights_of(tmp_path / "runs") == weights_of(tmp_path / "straight")
    assert len((tmp_path / "records.jsonl").read_bytes().splitlines()) == 1
    assert len(read_records(tmp_path / "records.jsonl")) == 1
    assert not list(tmp_path.rglob("*.part"))


# ----------------------------------------------------------------------- two at one time


def test_a_run_is_not_trained_by_two_at_once(tmp_path):
    spec = RunSpec(network="vgg", width=0.0625, epochs=1, train_images=128)

    def second(epochs, network):
        if epochs == 0:  # the first has begun
            with pytest.raises(
                RecordError, match=r"another process is training vgg_embedded"
            ):
                run(spec, runs=tmp_path, progress=False)

    record = run(spec, runs=tmp_path, progress=False, callback=second)
    assert run(spec, runs=tmp_path, progress=False) == record


def test_a_record_names_the_commit_that_was_loaded(tmp_path, monkeypatch, request):
    """Another commit that is checked out while a run trains did not train it."""
    head = ["a" * 40]

    def git(command, **_):
        out = {"rev-parse": f"{head[0]}\n", "status": ""}.get(command[3], "")
        return subprocess.CompletedProcess(command, 0, stdout=out)

    monkeypatch.setattr(provenance.subprocess, "run", git)
    provenance.loaded_git.cache_clear()
    request.addfinalizer(provenance.loaded_git.cache_clear)

    def checked_out(epochs, network):
        head[0] = "b" * 40

    spec = RunSpec(network="vgg", width=0.0625, epochs=1, train_images=128)
    record = run(spec, runs=tmp_path, progress=False, callback=checked_out)
    assert head == ["b" * 40]
    assert record.git.commit == "a" * 40


# ------------------------------------------------------------------------- compiling


# A process of its own: the checks of shapes that the tests switch on cannot be traced.
COMPILER = """
import json, sys, warnings
import torch
from lpa_core.training import RunSpec, run

real = torch.compile
spec = RunSpec(
    network="vgg-att2-concat-pc", width=1 / 32, epochs=2, train_images=256,
    precision="float32",
)


def no_triton(graph, inputs):
    raise ImportError("cannot find a working triton installation\\nand so on")


def train(name, backend):
    def compile(network, **options):
        assert options == {"dynamic": False}
        return real(network, backend=backend, dynamic=False)

    torch.compile = compile
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record = run(spec, runs=name, device="cpu", progress=False, compile=bool(backend))
    said = [str(w.message) for w in caught if "continuing" in str(w.message)]
    return [record.id, record.compiled, said]


print(json.dumps([train("plain", None), train("fast", "eager"), train("no", no_triton)]))
"""


@pytest.mark.slow
def test_a_compiled_run_is_the_same_run_and_one_that_cannot_be_goes_on_without(tmp_path):
    """Traced, and run by the operators of the plain one: the same bytes, names as well."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILER],
        env=surroundings(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    plain, fast, without = json.loads(done.stdout.splitlines()[-1])
    assert plain[0] == fast[0] == without[0]
    assert [plain[1], fast[1], without[1]] == [False, True, False]
    assert plain[2] == fast[2] == []
    (said,) = without[2]
    assert said.startswith("torch.compile failed, continuing without: ")
    assert "cannot find a working triton installation" in said
    assert "\n" not in said
    assert weights_of(tmp_path / "fast") == weights_of(tmp_path / "plain")
    assert weights_of(tmp_path / "no") == weights_of(tmp_path / "plain")


def test_on_a_cpu_nothing_is_compiled_unless_asked_for(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", never)
    assert not train(SPEC, tmp_path).compiled


# ------------------------------------------------------------------ seconds to an error


def test_seconds_to_an_error_are_counted_to_where_it_was_seen(epochs_kept):
    record = epochs_kept[3]
    epochs = [
        record.history[0].model_copy(update={"seconds": s, "test_error": e})
        for s, e in [(1.0, None), (2.0, 30.0), (4.0, None), (8.0, 10.0), (16.0, 12.0)]
    ]
    record = record.model_copy(update={"history": epochs})
    for error, wanted in [(50, 3.0), (30, 3.0), (29.9, 15.0), (10, 15.0), (9.9, None)]:
        assert record.seconds_to(error) == wanted


def test_a_record_states_when_errors_were_reached(tiny, tmp_path, monkeypatch):
    errors = iter([40.0, 9.0])
    monkeypatch.setattr(loop, "evaluate", lambda *words: (1.0, next(errors)))
    record = train(SPEC, tmp_path)
    times = [sum(e.seconds for e in record.history[:n]) for n in (4, 5)]
    wanted = {"50": times[0], "20": times[1], "10": times[1]}  # and 6 never
    assert record.seconds_to_errors == pytest.approx(wanted)


def test_records_of_before_answer_as_well():
    for record in read_records():
        last = record.history[-1].test_error
        assert record.seconds_to(last) > 0
        assert record.seconds_to(0) is None
