"""The command line as it is typed: one line for what is wrong, a result for what is right.

Guarded as well: that training needs torch, numpy, tqdm, pydantic and safetensors alone.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lpa_core.__main__ import main
from lpa_core.data import sources
from lpa_core.results import read_records
from lpa_core.training import fit, load_trained

ROOT = Path(__file__).resolve().parents[1]


def python(folder, *words):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def never(*arguments, **named):
    raise AssertionError("this must not be reached")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--network vgg-att4", "network: unknown network 'vgg-att4': choose one of vgg, "),
        (
            "--dataset cifar11",
            "dataset: unknown data set 'cifar11': choose one of embedded",
        ),
        ("--recipe quick", "recipe: unknown recipe 'quick': choose one of paper, "),
        ("--width 0", "width: Input should be greater than 0 (got 0.0)"),
        ("--width nan", "width: Input should be"),
        ("--seed -1", "seed: Input should be greater than or equal to 0 (got -1)"),
        ("--epochs 0", "epochs: Input should be greater than or equal to 1 (got 0)"),
        ("--precision int8", "precision: Input should be 'auto', 'float32' or 'bfloat16'"),
        ("--network no --seed -1", "network: unknown network 'no'"),
        ("--device quantum", "device 'quantum' is not to be had here"),
        ("--width 0.001", "width 0.001 leaves a layer of 64 channels without any"),
        ("--train-images 10000", "train_images 10000: the set has 8000"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fit, "train", never)
    assert main(["train", *words.split()]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize("words", ["--width wide", "--colour red", "--seed 0.5"])
def test_what_is_no_option_is_said_with_the_options(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["train", *words.split()])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: ")
    assert words.split()[1] in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["attack", "transfer", "query"])
def test_a_task_without_weights_is_said_with_the_options(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main([command, "--dataset", "embedded"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: ")
    assert "required: --weights" in error
    assert list(tmp_path.iterdir()) == []


def test_wrong_words_end_a_real_process_with_2_and_write_nothing(tmp_path):
    done = python(tmp_path, "-m", "lpa_core", "train", "--network", "vgg-att4")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: network: unknown network 'vgg-att4'")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_profile_is_said_before_anything_is_trained(tmp_path):
    done = python(tmp_path, "-m", "lpa_core", "train", "--profile", "huge")
    assert done.returncode == 2
    assert done.stderr == (
        "error: unknown profile 'huge': choose one of smoke, laptop, paper\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_records_in_the_place_of_a_folder_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fit, "load", never)
    words = ["train", "--records", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot write to {tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_a_diverging_run_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    def diverge(*arguments):
        raise FloatingPointError("the loss is not a number any more")

    monkeypatch.setattr(fit, "train", diverge)
    words = ["--runs", str(tmp_path / "runs"), "--records", str(tmp_path / "records.jsonl")]
    assert main(["train", "--width", "0.03125", *words]) == 2
    assert capsys.readouterr().err == "error: the loss is not a number any more\n"


def test_a_missing_data_set_is_said_with_where_to_put_it(tmp_path, monkeypatch, capsys):
    def no_network(folder):
        raise OSError("Network is unreachable")

    source = sources.SOURCES["cifar10"]
    fetched = dataclasses.replace(source, prepare=no_network)
    monkeypatch.setitem(sources.SOURCES, "cifar10", fetched)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--dataset", "cifar10", "--data", str(tmp_path / "data")]) == 2
    error = capsys.readouterr().err
    assert f"cifar10 is not at {tmp_path / 'data' / 'cifar10.npz'}" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_exporting_what_is_not_there_is_said(tmp_path, capsys):
    words = [str(tmp_path / "none.safetensors"), str(tmp_path / "out.safetensors")]
    assert main(["export", *words]) == 2
    assert "error: no whole weights at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# A fresh machine: whatever only the book, the tests or `embedded` need cannot be imported.
BARE = """
import sys

BLOCKED = {
    "IPython", "PIL", "beartype", "jaxtyping", "matplotlib", "pandas", "scipy", "seaborn",
    "skimage", "sklearn", "torchvision",
}


class Without:
    "A finder that does not find them, as if they were not installed."

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in BLOCKED:
            return self.finder.find_spec(name, path, target)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]

import dataclasses

from lpa_core.__main__ import main
from lpa_core.data.sources import SOURCES

# The set is made up, so that it cannot have the real one's fingerprints.
SOURCES["cifar10"] = dataclasses.replace(SOURCES["cifar10"], fingerprints=None)
code = main(sys.argv[1:])
assert not BLOCKED & set(sys.modules)
sys.exit(code)
"""


def test_training_needs_no_more_than_torch_numpy_tqdm_pydantic_and_safetensors(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"classes": np.array([f"class {n}" for n in range(10)])}
    for split, count in (("train", 256), ("test", 50)):
        arrays[f"y_{split}"] = np.arange(count) % 10
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "cifar10.npz", **arrays)
    words = (
        "train --network vgg-att2-concat-pc --dataset cifar10 --data data --width 0.03125 "
        "--epochs 2 --seed 3 --profile smoke --records out/records.jsonl"
    )
    done = python(tmp_path, "-c", BARE, *words.split())
    assert done.returncode == 0, done.stderr
    (record,) = read_records(tmp_path / "out" / "records.jsonl")
    assert done.stdout.splitlines()[-1].startswith(
        "vgg-att2-concat-pc_cifar10_w0.03125_fast_s3: "
        f"test error {record.metrics['test_error']:.2f} % after 2 epochs"
    )
    assert record.spec.seed == 3
    assert record.profile == "smoke"
    # What it wrote can be exported, and is a network of these classes.
    (weights,) = (tmp_path / "runs").glob("*/weights.safetensors")
    assert main(["export", str(weights), str(tmp_path / "small.safetensors")]) == 0
    assert load_trained(tmp_path / "small.safetensors").classes == list(arrays["classes"])
