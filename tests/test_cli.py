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

from lpa_core.cli import COMMANDS, help_text, main, summaries
from lpa_core.data import sources
from lpa_core.provenance import unseal
from lpa_core.results import read_records
from lpa_core.tasks import TASKS
from lpa_core.training import inputs, load_trained, loop

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
        ("--precision int8", "invalid choice 'int8' for argument '--precision'"),
        ("--network no --seed -1", "network: unknown network 'no'"),
        ("--network vgg no --seed 0 1", "network: unknown network 'no'"),
        (
            "--network vgg vgg-pan --seed 0 -1",
            "seed: Input should be greater than or equal",
        ),
        ("--seed 0 1 --device quantum", "device 'quantum' is not available here"),
        ("--device quantum", "device 'quantum' is not available here"),
        ("--device meta", "device 'meta' is not available here"),
        ("--seed 99999999999", "seed: Input should be less than 2147483648"),
        ("--records=--", "--records: '--' is not the name of a file"),
        ("--compile --no-compile", "--compile and --no-compile contradict each other"),
        ("--width 0.001", "width 0.001 leaves no channels in a layer of 64"),
        ("--train-images 10000", "train_images 10000: the set has 8000"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "train", never)
    assert main(["train", *words.split()]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train --width wide", "--width: could not convert string to float: 'wide'"),
        ("train --colour red", "Unrecognized options: --colour, red"),
        ("train --widht 1", "Perhaps you meant: --width FLOAT"),
        ("train --seed 0 0.5", "--seed: Could not find valid parse for arguments: ['0', '"),
        ("train --network", "Missing value for argument '--network'"),
        ("train --seed 0 1 --weights w.safetensors", "--weights is a file for one run"),
        ("train --seed", "Missing value for argument '--seed'"),
        ("query --weights a --pairs 99999999999", "pairs: Input should be less than"),
        ("attack --weights a --pairs 5", "Unrecognized options: --pairs, 5"),
        ("attack --dataset embedded", "needs the weights of at least one network"),
        ("transfer --dataset embedded", "needs the weights of at least one network"),
        ("query --dataset embedded", "needs the weights of at least one network"),
        ("export one.safetensors", "needs the weights of a run, and the file to write"),
        ("records verify --records none.jsonl", "No such file or directory"),
        ("records seal none.jsonl", "No such file or directory"),
        ("records same-code", "unknown command 'records'"),
        ("fly", "unknown command 'fly': choose one of train, show, prepare, "),
        ("", "no command: choose one of train, "),
    ],
)
def test_what_is_typed_wrong_is_said_in_one_line(
    words, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ") and said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_every_command_and_task_has_its_help(capsys):
    assert set(summaries()) == {*COMMANDS, *TASKS}
    for name, task in TASKS.items():
        assert summaries()[name] == task.summary
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name, summary in summaries().items():
        assert name in listed and summary in listed
        said = help_text(name)
        assert said.startswith(f"usage: python -m lpa_core {name} ") and summary in said
    for field in TASKS["attack"].options.model_fields:
        assert f"--{field}" in help_text("attack")
    assert main(["records", "--help"]) == 0
    assert "records seal" in capsys.readouterr().out


def test_the_help_and_a_wrong_command_need_no_torch(tmp_path):
    program = """
import sys
from lpa_core.cli import main
assert main(["--help"]) == 0 and main(["fly"]) == 2 and main(["plan", "--grdi"]) == 2
assert not {"torch", "pandas", "sklearn"} & set(sys.modules)
"""
    done = python(tmp_path, "-c", program)
    assert done.returncode == 0, done.stderr


def test_options_that_people_type_reach_the_task(monkeypatch, tmp_path):
    """`--weights` several times, a list, a flag, and the older name of a choice."""
    from lpa_core import tasks

    asked = []
    monkeypatch.setattr(tasks, "measure", lambda *given: asked.append(given) or [])
    for words in (
        "transfer --weights a --weights b --direct --solver lbfgs --images 9",
        "segment --methods bms mc --again --measurements m.jsonl",
        "segment --methods --weights a",
        "transfer --weights a",
    ):
        assert main(words.split()) == 0
    (direct, methods, none, linear) = asked
    assert direct[:2] == ("transfer", [Path("a"), Path("b")])
    assert direct[2].classifier == "own" and direct[2].solver == "lbfgs"
    assert direct[3].images == 9
    assert methods[2].methods == ["bms", "mc"] and methods[3].again
    assert methods[3].path == Path("m.jsonl") and methods[3].dataset is None
    assert none[2].methods == [] and none[1] == [Path("a")]
    assert linear[2].classifier is None


@pytest.mark.parametrize(
    ("words", "compiled"), [("", None), ("--compile", True), ("--no-compile", False)]
)
def test_compiling_is_asked_for_refused_or_left_open(words, compiled, monkeypatch):
    from lpa_core import training

    def stop(spec, **options):
        assert options["compile"] is compiled
        raise training.RecordError("reached")

    monkeypatch.setattr(training, "run", stop)
    assert main(["train", *words.split()]) == 2


def test_lines_are_sealed_once_and_a_changed_one_is_refused(tmp_path, capsys):
    file = tmp_path / "lines.jsonl"
    file.write_text('{"a": 1}\n\n{"b": [2]}\n')
    assert main(["records", "seal", str(file)]) == 0
    assert "2 of 3 lines sealed" in capsys.readouterr().out
    first, _, last = file.read_text().splitlines()
    assert (unseal(first), unseal(last)) == ({"a": 1}, {"b": [2]})
    before = file.read_bytes()
    assert main(["records", "seal", str(file)]) == 0
    assert file.read_bytes() == before
    for damage, said in (
        (
            before.replace(b'"a": 1', b'"a": 7'),
            "line 1: its digest does not match",
        ),
        (b"[1, 2]\n", "line 1: not a JSON object"),
        (b'{"a": 1', "line 1: Expecting"),
    ):
        file.write_bytes(damage)
        assert main(["records", "seal", str(file)]) == 2
        assert said in capsys.readouterr().err
        assert file.read_bytes() == damage


def test_wrong_words_end_a_real_process_with_2_and_write_nothing(tmp_path):
    done = python(tmp_path, "-m", "lpa_core", "train", "--network", "vgg-att4")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: network: unknown network 'vgg-att4'")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seeds", ["0", "0 1"])
def test_an_unknown_profile_is_said_before_anything_is_trained(seeds, tmp_path):
    words = ["--profile", "huge", "--seed", *seeds.split()]
    done = python(tmp_path, "-m", "lpa_core", "train", *words)
    assert done.returncode == 2
    assert done.stderr == (
        "error: unknown profile 'huge': choose one of smoke, laptop, gpu, paper\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_records_in_the_place_of_a_folder_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inputs, "load", never)
    words = ["train", "--records", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot write to {tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_a_diverging_run_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    def diverge(*arguments, **named):
        raise FloatingPointError("the loss is not a number any more")

    monkeypatch.setattr(loop, "train", diverge)
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

from lpa_core.cli import main
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
        "vgg-att2-concat-pc_cifar10_w0.03125_fast_e2_s3: "
        f"test error {record.metrics['test_error']:.2f} % after 2 epochs"
    )
    assert record.spec.seed == 3
    assert record.profile == "smoke"
    # What it wrote can be exported, and is a network of these classes.
    (weights,) = (tmp_path / "runs").glob("*/weights.safetensors")
    assert main(["export", str(weights), str(tmp_path / "small.safetensors")]) == 0
    assert load_trained(tmp_path / "small.safetensors").classes == list(arrays["classes"])
