"""Several processes for one run, by torchrun: real processes, on the CPU.

Guarded: that two processes make the weights of one, for even and uneven slices, with
BatchNorm, dropout and both optimisers; that either number takes up what the other left;
that a killed process ends all, and that the same command then goes on.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lpa_core.data import EvalLoader, Preprocess, TrainLoader
from lpa_core.provenance import unseal
from lpa_core.results import read_records
from lpa_core.training import Record, distributed
from lpa_core.training.checkpoint import read_pair
from lpa_core.training.distributed import DistributedContext, own_device

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
TWO = (*TORCHRUN, "--nproc-per-node", "2")

# Run by one process and by two. It computes in double precision: in single precision a
# rounding error grows some ten thousand times on its way through these networks, to where
# a small mistake in the sharing could hide behind it.
SCRIPT = """
import dataclasses, hashlib, os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from lpa_core.data import loaders
from lpa_core.data.sources import SOURCES
from lpa_core.training import RECIPES, RunSpec, distributed, inputs, run

folder = Path(sys.argv[1])
build, to_network_input = inputs.build_network, loaders.to_network_input
inputs.build_network = lambda *words, **named: build(*words, **named).double()
loaders.to_network_input = lambda *words: to_network_input(*words).double()
SOURCES["cifar10"] = dataclasses.replace(SOURCES["cifar10"], fingerprints=None)
rank, several = int(os.environ.get("RANK", 0)), distributed.several()
if several:
    dist.init_process_group("gloo")
seen = []


def watch(epochs, network):
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    seen.append(f"{epochs} {digest.hexdigest()}")
    if stop_at == epochs:
        raise KeyboardInterrupt


def train(runs, network, recipe="fast", stop=None, epochs=2):
    global stop_at
    stop_at = stop
    spec = RunSpec(
        network=network, dataset="cifar10", recipe=recipe, width=1 / 32, epochs=epochs,
        precision="float32",
    )
    try:
        run(
            spec, runs=folder / runs, data_root="data", device="cpu", progress=False,
            callback=watch,
        )
    except KeyboardInterrupt:
        pass


train("even", "vgg")
train("even", "vgg-att2-concat-pc")
train("even", "vgg-mean2", epochs=1)
# Without Muon, whose bfloat16 would round slices of 63 and 64 images apart; with dropout
# after many layers.
RECIPES["paper"] = RECIPES["paper"].model_copy(update={"batch_size": 127})
train("uneven", "vgg-att2-concat-pc", "paper", epochs=1)
if not several:
    train("taken_up", "vgg", stop=1)
elif (folder / "taken_up").exists():
    train("taken_up", "vgg")
(folder / f"seen-{rank}").write_text("\\n".join(seen))
"""


def prepare(folder, name="cifar10", images=128):
    """A set of noise, prepared as CIFAR-10; of two test batches, so that both test."""
    rng = np.random.default_rng(0)
    arrays = {"classes": np.array([f"class {n}" for n in range(10)])}
    for split, count in (("train", images), ("test", 260)):
        arrays[f"y_{split}"] = np.arange(count) % 10
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    (folder / "data").mkdir()
    np.savez(folder / "data" / f"{name}.npz", **arrays)


def start(words, folder):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*map(str, words)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return out


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What one process made, and what two made; those took up one run of the one."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    script = one / "script.py"
    script.write_text(SCRIPT)
    prepare(one)
    prepare(two)
    finish(start((sys.executable, script, one), one))
    (one / "taken_up").rename(two / "taken_up")
    finish(start((*TWO, script, two), two))
    return one, two


RUNS = [
    "even/vgg_",
    "even/vgg-att2-concat-pc_",
    "even/vgg-mean2_",
    "uneven/vgg-att2-concat-pc_",
    "taken_up/vgg_",
]


def result(folder, name):
    """A run's record, and its weights and running statistics by name."""
    (path,) = folder.glob(f"{name}*")
    record = Record.model_validate_json((path / "record.json").read_text())
    return record, read_pair(path / "weights.safetensors")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_make_the_weights_of_one(both, name):
    one, weights = result(both[0], name.replace("taken_up", "even"))
    two, shared = result(both[1], name)
    assert (one.processes, two.processes) == (1, 2)
    assert one.id == two.id  # the result is the same, so that the run is
    assert one.spec == two.spec
    assert two.sessions == (2 if name.startswith("taken_up") else 1)
    assert weights.keys() == shared.keys()
    for part, tensor in weights.items():
        # Where single precision steps in (the loss), its rounding is what is left.
        torch.testing.assert_close(shared[part], tensor, rtol=1e-5, atol=1e-7, msg=part)
    for alone, together in zip(one.history, two.history, strict=True):
        wanted, found = (
            epoch.model_dump(exclude={"seconds"}, exclude_none=True)
            for epoch in (alone, together)
        )
        assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.slow
def test_all_processes_step_alike(both):
    first, second = ((both[1] / f"seen-{rank}").read_text() for rank in (0, 1))
    assert len(first.splitlines()) == 3 + 3 + 2 + 2 + 2
    assert first == second


WORDS = [
    *("train", "--network", "vgg", "--width", "0.03125", "--epochs", "4"),
    *("--dataset", "data/noise.npz", "--profile", "smoke", "--device", "cpu"),
    *("--records", "records.jsonl"),
]


def workers(process):
    """The processes that torchrun started, by their numbers."""
    listing = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [
        int(pid)
        for pid in listing.split()
        if b"lpa_core" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc")
def test_a_killed_process_ends_all_and_the_same_command_goes_on(tmp_path):
    prepare(tmp_path, "noise", images=512)
    command = (*TWO, "-m", "lpa_core", *WORDS)
    torchrun = start(command, tmp_path)
    while not any(tmp_path.glob("runs/*/checkpoint-*.json")):
        assert torchrun.poll() is None, torchrun.communicate()[1]
        time.sleep(0.01)
    started = workers(torchrun)
    assert len(started) == 2
    os.kill(started[1], signal.SIGKILL)
    torchrun.communicate(timeout=120)
    assert torchrun.returncode != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)
    assert not (tmp_path / "records.jsonl").exists()
    out = finish(start(command, tmp_path))
    assert out.count("vgg_noise_w0.03125_fast_e4_s0: test error") == 1
    (record,) = read_records(tmp_path / "records.jsonl")
    assert (record.sessions, record.processes, record.epochs) == (2, 2, 4)
    assert [epoch.epoch for epoch in record.history] == list(range(1, 5))
    assert not list(tmp_path.rglob("*.part"))


# ------------------------------------------------------------------------- in one process


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_slices_are_of_the_same_batches(count):
    """Side by side they are the batches of one process, whatever divides what."""
    images = torch.randint(0, 256, (50, 8, 8, 3), dtype=torch.uint8)
    labels = torch.arange(50)

    class Raw(Preprocess):
        def forward(self, x):
            return x

    def made(part, first, every):
        train = TrainLoader(images, labels, Raw(), batch_size=16, crop=2, batch_slice=part)
        test = EvalLoader(images, labels, Raw(), 12, first=first, every=every)
        return list(train.epoch(3, seed=5)), list(test), train.batch_share, len(test)

    whole, tested, share, length = made(slice(None), 0, 1)
    assert (share, length) == (1, 5)
    all_ranks = [DistributedContext(rank, count) for rank in range(count)]
    parts = [made(p.batch_slice(16), p.rank, count) for p in all_ranks]
    for number, (x, y) in enumerate(whole):
        assert torch.equal(torch.cat([part[0][number][0] for part in parts]), x)
        assert torch.equal(torch.cat([part[0][number][1] for part in parts]), y)
    assert sum(part[2] for part in parts) == pytest.approx(1)
    assert sum(part[3] for part in parts) == length
    for number, (_, y) in enumerate(tested):
        assert torch.equal(parts[number % count][1][number // count][1], y)


def test_more_processes_than_images_are_refused():
    with pytest.raises(ValueError, match="5 processes cannot share batches of 4 images"):
        DistributedContext(0, 5).batch_slice(4)


def test_each_process_takes_a_device_of_its_own(monkeypatch):
    assert own_device("cuda:1") == "cuda:1"  # without torchrun
    monkeypatch.setattr(distributed, "several", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in {"LOCAL_RANK": "3", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert [own_device(name) for name in ("auto", "cuda", "cpu")] == [
        *("cuda:3", "cuda:3", "cpu")
    ]
    with pytest.raises(ValueError, match="4 processes cannot use device 'cuda:1': choose"):
        own_device("cuda:1")


def test_a_process_stops_when_torchrun_is_gone(monkeypatch):
    assert DistributedContext(0, 2).launcher == os.getppid()
    here = DistributedContext(0, 2, launcher=2)
    monkeypatch.setattr(os, "getppid", lambda: 2)
    here.check_launcher()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    DistributedContext(0, 1, launcher=2).check_launcher()  # nobody started it
    with pytest.raises(ChildProcessError, match="torchrun.* has ended: start it again"):
        here.check_launcher()


def test_an_old_record_was_one_process():
    line = (ROOT / "results" / "records.jsonl").read_text().splitlines()[0]
    old = {k: v for k, v in unseal(line).items() if k not in ("processes", "compiled")}
    record = Record.model_validate(old | {"started": old["started"]}, strict=False)
    assert (record.processes, record.compiled) == (1, False)
