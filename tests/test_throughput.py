"""The throughput benchmark: what it prints and keeps, and how its shares come about."""

import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
import torch

from lpa_core import build_network
from lpa_core.networks.cost import count_parameters, counted, multiply_adds
from lpa_core.provenance import unseal
from lpa_core.training import build_recipe
from lpa_core.training.optim import Optimiser

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "results" / "throughput.jsonl"
sys.path.insert(0, str(ROOT / "benchmarks"))
import throughput  # noqa: E402


def benchmark(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks/throughput.py"), *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A small run: what it printed, and the line that it kept."""
    file = tmp_path_factory.mktemp("speed") / "speed.jsonl"
    words = ["--small", "--seconds", "0.02", "--device", "cpu", "--batch", "32", "64"]
    done = benchmark(*words, "--repeats", "3", "--whole", "--keep", str(file))
    assert done.returncode == 0, done.stderr
    (text,) = file.read_text().splitlines()
    return done.stdout, unseal(text)


def test_a_small_run_keeps_every_repeat_and_on_what_it_was_made(measured):
    _, line = measured
    assert line["small"] is True and line["threads"] >= 1 and line["device"]
    assert line["batches"] == [32, 64] and not line["recorded"]
    for name, values in line["repeats"].items():
        assert len(values) == 3 and min(values) > 0
        assert line["medians"][name] == median(values)
    assert set(line["medians"]) == {
        *("rate", "vgg-att2-concat-pc, 32", "vgg-att2-concat-pc, 64"),
        *("vgg-att3-concat-pc", "vgg", throughput.PEER, "evaluation"),
    }


def test_shares_are_of_three_forward_passes(measured):
    """Forward once, backward twice; a multiply-add is two operations."""
    _, line = measured
    small = build_network(line["network"], num_classes=10, width=1 / 32)
    for batch, share in throughput.shares(line).items():
        speed = line["medians"][f"vgg-att2-concat-pc, {batch}"] / line["medians"]["rate"]
        assert share == pytest.approx(speed * 3 * 2 * multiply_adds(small))


def test_the_parts_of_a_step_are_those_of_the_step(measured):
    _, line = measured
    parts = line["split"]
    assert set(parts) == {"batch", "forward and backward", "optimiser", "whole"}
    summed = sum(parts.values()) - parts["whole"]
    assert 0.3 < summed / parts["whole"] < 3  # of a busy machine, measured one by one


def test_the_printed_numbers_are_the_kept_ones(measured):
    printed, line = measured
    middle, together = line["medians"], line["together"]
    ahead = middle["vgg-att3-concat-pc"] / middle[throughput.PEER]
    assert together["data"] is None and all(
        v > 0 for k, v in together.items() if k != "data"
    )
    record = sum(v for v in together.values() if v)
    rows = {re.split(r"\s{2,}", row.strip())[0]: row for row in printed.splitlines()}
    for what, number in (
        ("of the matrix product's rate", f"{throughput.shares(line)[32]:.0%}"),
        ("vgg", f"{middle['vgg']:,.0f} images/s"),
        ("times as fast as that", f"{ahead:.2f}"),
        ("to the record", f"{record:.1f} s"),
        ("without loading the set)", ""),
        ("500 images evaluated", f"{middle['evaluation']:.3f} s"),
        ("the command itself", f"{line['whole']:.1f} s"),
        ("not recorded: optimiser", f"{1000 * line['split']['optimiser']:.2f} ms"),
    ):
        assert any(what in name and number in row for name, row in rows.items()), what
    assert "speed says nothing" in printed.splitlines()[0]


def test_a_run_is_put_together_from_its_steps(monkeypatch):
    """By hand: nine steps a batch of five epochs, at 1 ms a pixel row; one evaluation."""

    class Steps:
        name, batch, device = "vgg", 5000, torch.device("cpu")
        network = build_network("vgg", 10, 1 / 32)
        network = network.to(memory_format=torch.channels_last)
        optimiser = Optimiser(network, build_recipe("fast"))
        before: dict = {}  # noqa: RUF012

        def prepare(self, size):
            self.before[size] = 0.5

        def seconds_a_step(self, budget, size):
            return size / 1000

    monkeypatch.setattr(throughput, "start_seconds", lambda device: 7.0)
    found = throughput.put_together(Steps(), 2.0, 0.1, small=True)
    sizes = [20] * 4 + [24] * 2 + [28] * 2 + [32] * 2  # of the ten epochs of `fast`
    assert found["steps"] == pytest.approx(10 * sum(sizes) / 1000)
    assert found["before the first steps"] == 4 * 0.5
    assert found["evaluation"] == 3 * 2.0  # after 4, 8 and 10 epochs
    assert found["start"] == 7.0 and found["data"] is None


def test_the_peer_is_the_same_network():
    """Its arithmetic is that of the book's VGG-att3, but for how levels meet the query."""
    images = torch.zeros(1, 3, 32, 32)
    ours = build_network("vgg-att3-concat-pc", num_classes=10, width=1)
    peer = throughput.Peer()
    widening = 32 * 32 * 256 * 512  # 256 channels to 512 at each position
    without = counted(peer, images) - widening
    assert without == pytest.approx(multiply_adds(ours), rel=0.001)
    assert count_parameters(peer) == pytest.approx(count_parameters(ours), rel=0.02)
    small = throughput.PeerTraining(torch.device("cpu"), 16, small=True)
    before = small.network.classify.weight.clone()
    small.step()
    assert not torch.equal(before, small.network.classify.weight)
    assert {p.dtype for p in small.network.parameters()} == {torch.float32}
    assert small.images.is_contiguous()


def test_a_timed_step_is_the_loops_own():
    """It moves the weights, and goes on over the end of an epoch."""
    training = throughput.Training("vgg", torch.device("cpu"), 512, small=True)
    training.prepare(20)
    before = {k: v.clone() for k, v in training.network.state_dict().items()}
    training.begin()
    training.steps(20, 5)  # an epoch has two
    assert training.step.step.item() == 1
    moved = [k for k, v in training.network.state_dict().items() if (v != before[k]).any()]
    assert any("conv" in k for k in moved) and any("classifier" in k for k in moved)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--repeats", "0"], "--repeats 0: must be 1 or more"),
        (["--seconds", "-1"], "--seconds -1.0: must be 0 or more"),
        (["--batch", "128", "1"], "--batch 1: must be 2 or more"),
        (["--device", "gpu"], "device 'gpu' is not available here"),
        (["--keep", "/dev/null/speed.jsonl"], "cannot write to"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_measured(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        throughput.main(["--small", *words])
    out, error = capsys.readouterr()
    assert ended.value.code == 2
    assert said in error and not out


def test_the_books_own_measurements_are_whole():
    lines = [json.loads(line) for line in KEPT.read_text().splitlines()]
    assert lines
    for line in lines:
        assert line["git"]["clean"] and not line.get("small") and not line.get("quick")
        assert all(len(values) >= 3 for values in line["repeats"].values())
        assert line["medians"] == {k: median(v) for k, v in line["repeats"].items()}
