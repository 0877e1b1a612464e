"""The checks for a card, run on the CPU with a stand-in for the recording.

Each holds here as it must there, and goes red when what it guards is broken.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stand_in import StandIn

from lpa_core.training import loop
from lpa_core.training.optim import Optimiser
from lpa_core.training.step import TrainStep

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu_check  # noqa: E402

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("few_test_images", "muon_as_on_a_card"),
]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "cuda_capture", lambda device: StandIn())
    return gpu_check.Bench(
        CPU,
        capture=lambda device: StandIn(),
        width=1 / 32,
        step_width=1 / 32,
        images=128 * 5,
        epochs=2,
        steps=12,
        batch=32,
        folder=tmp_path,
    )


@pytest.fixture
def longer(bench):
    """Float16 leaves its first steps out, until its scale fits."""
    return replace(bench, network="vgg", images=128 * 10, epochs=4)


HALF = gpu_check.float16_trains_as_bfloat16


@pytest.mark.parametrize("check", gpu_check.CHECKS, ids=lambda check: check.__name__)
def test_each_check_holds_with_the_stand_in(bench, longer, check):
    found = check(longer if check is HALF else bench)
    assert found.holds, found.said
    assert found.said and "\n" not in found.said


def test_a_recording_with_a_stale_rate_is_noticed(bench, monkeypatch):
    """A number of Python's in the step stays what it was when it was recorded."""
    real = Optimiser.update

    def stale(self, factor):
        self.calls = getattr(self, "calls", 0) + 1
        real(self, 0.1 * self.calls)

    monkeypatch.setattr(Optimiser, "update", stale)
    assert not gpu_check.captured_is_eager(bench).holds


def test_a_step_that_is_not_recorded_is_noticed(bench):
    def fails(function):
        raise RuntimeError("operation not permitted when stream is capturing")

    broken = replace(bench, capture=lambda device: fails)
    for check in (gpu_check.captured_is_eager, gpu_check.dropout_differs):
        with pytest.warns(UserWarning, match="could not be recorded"):
            found = check(broken)
        assert not found.holds and "not recorded" in found.said


def test_dropout_that_is_frozen_in_the_recording_is_noticed(bench, monkeypatch):
    """The same draws in each step, as of a generator that a graph does not know."""
    real = TrainStep.compute

    def frozen(self, size):
        torch.manual_seed(0)
        real(self, size)

    class SameDraws(StandIn):
        def __call__(self, function):
            replay = super().__call__(function)

            def again():
                torch.manual_seed(0)
                replay()

            return again

    monkeypatch.setattr(TrainStep, "compute", frozen)
    broken = replace(bench, capture=lambda device: SameDraws())
    assert not gpu_check.dropout_differs(broken).holds


def test_a_run_that_is_not_its_seeds_is_noticed(bench, monkeypatch):
    real, calls = torch.manual_seed, []

    def another(seed):
        calls.append(seed)
        return real(seed + len(calls))

    monkeypatch.setattr(torch, "manual_seed", another)
    assert not gpu_check.same_seed_same_run(bench).holds


def test_a_checkpoint_that_is_read_wrongly_is_noticed(bench, monkeypatch):
    real = Optimiser.load_state_dict

    def forgets(self, state):
        real(self, {name: torch.zeros_like(t) for name, t in state.items()})
        for p in self.filters.values():
            p.data.mul_(1.1)

    monkeypatch.setattr(Optimiser, "load_state_dict", forgets)
    assert not gpu_check.resumed_is_uninterrupted(bench).holds


def test_unscaled_float16_is_noticed(longer, monkeypatch):
    """Gradients that underflow to zero train nothing."""
    real = Optimiser.backward

    def underflows(self, loss):
        real(self, loss)
        if self.scaler.is_enabled():
            for p in (*self.filters.values(), *self.others.values()):
                p.grad.zero_()

    monkeypatch.setattr(Optimiser, "backward", underflows)
    assert not gpu_check.float16_trains_as_bfloat16(longer).holds


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "device 'cuda' is not available here"),
        (["--device", "cpu"], "gpu_check is for CUDA devices, not cpu"),
    ],
)
def test_without_a_gpu_it_ends_with_2_and_one_line(words, said):
    command = [sys.executable, str(ROOT / "benchmarks/gpu_check.py"), *words]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert said in line


def test_what_the_checks_said_is_kept_with_the_table(tmp_path, monkeypatch, capsys):
    found = [gpu_check.Check("one", True, "0"), gpu_check.Check("two", False, "9, bound 1")]
    checks = [lambda bench, check=check: check for check in found]
    monkeypatch.setattr(gpu_check, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(gpu_check, "CHECKS", checks)
    monkeypatch.setattr(gpu_check.throughput, "default_batches", lambda device: [128])
    monkeypatch.setattr(gpu_check.throughput, "measure", lambda *a, **k: {"device": "d"})
    monkeypatch.setattr(gpu_check.throughput, "table", lambda line: "the table")
    file = tmp_path / "lines.jsonl"
    assert gpu_check.main(["--keep", str(file)]) == 1
    said = capsys.readouterr().out
    assert "FAIL two: 9, bound 1" in said and "1 of 2 checks hold" in said
    (line,) = map(json.loads, file.read_text().splitlines())
    assert line["device"] == "d"
    assert [(c["name"], c["holds"]) for c in line["checks"]] == [
        ("one", True), ("two", False),
    ]  # fmt: skip
