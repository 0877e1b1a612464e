"""The throughput benchmark: what it prints and keeps, and how its shares come about."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from lpa_core import build_network
from lpa_core.networks.cost import multiply_adds

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "results" / "throughput.jsonl"


def benchmark(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks/throughput.py"), *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_quick_run_prints_and_keeps_the_same_numbers(tmp_path):
    file = tmp_path / "speed.jsonl"
    done = benchmark("--quick", "--repeats", "3", "--device", "cpu", "--keep", str(file))
    assert done.returncode == 0, done.stderr
    (line,) = map(json.loads, file.read_text().splitlines())
    assert line["quick"] is True and line["threads"] >= 1 and line["device"]
    for name, values in line["repeats"].items():
        assert len(values) == 3 and min(values) > 0
        assert line["medians"][name] == median(values)
    # Forward once, backward twice; a multiply-add is two operations.
    small = build_network(line["network"], num_classes=10, width=1 / 32)
    for name, share in line["shares"].items():
        speed = line["medians"][name] / line["medians"]["rate"]
        assert share == pytest.approx(speed * 3 * 2 * multiply_adds(small))
    printed = [row.split("images/s")[-1].split() for row in done.stdout.splitlines()[1:]]
    loop, bare = line["medians"]["real"], line["medians"]["bare"]
    assert printed[-1][:2] == [f"{loop:.1f}", f"{loop / bare:.0%}"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--repeats", "0"], "--repeats 0: must be 1 or more"),
        (["--device", "gpu"], "device 'gpu' is not available here"),
        (["--keep", "/dev/null/speed.jsonl"], "cannot write to"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_measured(words, said):
    done = benchmark("--quick", *words)
    assert done.returncode == 2
    assert said in done.stderr and not done.stdout


def test_the_books_own_measurements_are_whole():
    lines = [json.loads(line) for line in KEPT.read_text().splitlines()]
    assert lines
    for line in lines:
        assert not line["quick"] and line["git"]["clean"]
        assert all(len(values) >= 3 for values in line["repeats"].values())
        assert line["medians"] == {k: median(v) for k, v in line["repeats"].items()}
