"""What ships with the book: weights that belong to records, a README in step with both."""

import json
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch

from lpa_core.data import load
from lpa_core.plan.grid import read_grid
from lpa_core.plan.plan import described
from lpa_core.results import read_records, shipped_network
from lpa_core.tasks.classify import top1_error
from lpa_core.training import Record, RunSpec, load_trained
from lpa_core.training.checkpoint import read_pair

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = sorted((ROOT / "weights").glob("*.safetensors"))


@cache
def records() -> list[Record]:
    """All records of the book, read once."""
    return read_records()


def on(dataset: str) -> list[Path]:
    """The shipped weights of networks that were trained on it."""
    return [path for path in WEIGHTS if f"_{dataset}_" in path.name]


def record_of(path: Path):
    run = json.loads(path.with_suffix(".json").read_text())["run"]
    found = [record for record in records() if record.id == run]
    assert found, f"no record of the run {run} that {path.name} is from"
    return found[0]


def test_records_are_whole():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = read_records()
    assert records
    for record in records:
        assert record.git.commit
        assert record.git.clean
        assert record.device
        assert record.threads > 0
        assert len(record.history) == record.epochs
        assert record.metrics["test_error"] == record.history[-1].test_error


def test_weights_ship_small_in_half_precision_and_belong_to_a_record():
    assert WEIGHTS
    for path in WEIGHTS:
        assert path.stat().st_size < 3_500_000
        tensors, _ = read_pair(path)
        kinds = {t.dtype for t in tensors.values() if t.is_floating_point()}
        assert kinds == {torch.float16}
        record = record_of(path)
        facts = json.loads(path.with_suffix(".json").read_text())
        assert facts["exported_from"] == record.weights_sha256
        assert facts["network"] == record.spec.network


def test_the_best_run_of_each_network_ships():
    """Of those that the grids ship: of some runs on a GPU no weights were kept."""
    groups = [g for name in ("smoke", "laptop") for g in read_grid(name).runs if g.ship]
    for path in WEIGHTS:
        record = record_of(path)
        seeds = [
            spec.seed
            for group in groups
            for spec in group.specs()
            if is_same_training(record.spec, spec)
        ]
        assert record.spec.seed in seeds
        rivals = [
            other.metrics["test_error"]
            for other in records()
            if is_same_training(other.spec, record.spec) and other.spec.seed in seeds
        ]
        assert record.metrics["test_error"] == min(rivals)


def is_same_training(one: RunSpec, other: RunSpec) -> bool:
    """Whether they differ in no more than their seed."""
    return described(one.model_copy(update={"seed": other.seed})) == described(other)


def error_of(path: Path, every: int) -> float:
    """Test error of shipped weights on every so manieth image of their own set."""
    data = load(record_of(path).spec.dataset, "test")
    return top1_error(load_trained(path), data.take(torch.arange(0, len(data), every)))


@pytest.mark.parametrize("path", on("embedded"), ids=lambda path: path.stem)
def test_shipped_weights_of_the_embedded_set_err_as_recorded(path):
    recorded = record_of(path).metrics["test_error"]
    assert error_of(path, every=1) == pytest.approx(recorded, abs=0.2)


@pytest.mark.parametrize("path", on("cifar10"), ids=lambda path: path.stem)
def test_shipped_weights_err_as_recorded(path, real_cifar10):
    """On a fifth of the test set, evenly taken: within what such a part can differ."""
    recorded = record_of(path).metrics["test_error"]
    assert error_of(path, every=5) == pytest.approx(recorded, abs=1.9)


def test_a_network_that_does_not_ship_is_named():
    there = r"no weights of vgg-att4 on cifar10 ship .* these do: .*\bvgg on cifar10\b"
    with pytest.raises(ValueError, match=there):
        shipped_network("vgg-att4")
