"""How fast this machine trains, and where the time of a step goes.

    python benchmarks/throughput.py [--device auto] [--batch 128 512] [--seconds 0.5]
                                    [--repeats 3] [--whole] [--small]
                                    [--keep results/throughput.jsonl]

Everything is measured in one run, at the paper's width, so that the ratios hold for this
machine as it is now: the rate of a large matrix product; training steps as the book makes
them, a GPU's replayed from a recording; those of a plain re-implementation of the
three-level network; the evaluation of 10,000 images, on a CPU of 1,000; the parts of a
step. What is compared takes turns, and each figure is the median of its repeats.

From command to record is put together from what was measured: the start of a process, the
recordings, steps of each image size, evaluations, the last checkpoint. `--whole` runs the
command instead. `--keep` adds a line with every repeat to a file: chapter 17 shows the
book's. `--small` uses narrow networks: it shows whether all this works, not how fast.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from made_on import made_on
from torch import Tensor, nn

from lpa_core import build_network
from lpa_core.data import EvalLoader, TrainLoader, build_preprocess, count_images
from lpa_core.networks.cost import multiply_adds
from lpa_core.provenance import RecordError, append_line, check_appendable, device_name
from lpa_core.training import (
    RunSpec,
    autocast,
    build_recipe,
    choose_device,
    choose_precision,
    evaluate,
)
from lpa_core.training.checkpoint import CheckpointWriter
from lpa_core.training.inputs import load_data
from lpa_core.training.loop import EVALUATE_EVERY
from lpa_core.training.optim import Optimiser
from lpa_core.training.precision import DTYPES
from lpa_core.training.record import Progress
from lpa_core.training.step import WARM_UP, TrainStep, cuda_capture, tuned_kernels

ATT2, ATT3, VGG = "vgg-att2-concat-pc", "vgg-att3-concat-pc", "vgg"
PEER = "plain re-implementation"
SIZE = 32  # pixels a side
SHOWN = {"train": 50_000, "test": 10_000}  # images of CIFAR-10

# What one H200 is to reach, see `rows`; at least, but for seconds: at most.
WANTED = {"share": 0.35, "peer": 2.3, VGG: 45_000, "record": 45.0, "evaluation": 1.0}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], object], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - start


def seconds_each(
    function: Callable[[], object], device: torch.device, budget: float
) -> float:
    """Seconds a call, of as many as fill the budget, without a wait between them."""
    once = seconds(function, device)
    count = max(1, min(1000, int(budget / once)))

    def calls():
        for _ in range(count):
            function()

    return seconds(calls, device) / count


def matrix_rate(device: torch.device, precision: str, small: bool, budget: float) -> float:
    """Floating-point operations a second of a large matrix product."""
    size = 256 if small else 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device).to(DTYPES[precision])
    b = torch.randn(size, size, device=device).to(DTYPES[precision])
    torch.mm(a, b)
    return 2 * size**3 / seconds_each(lambda: torch.mm(a, b), device, budget)


# ---------------------------------------------------------------------- as the book trains


class Training:
    """A network's steps as the loop makes them, by `fast`, on images of noise."""

    def __init__(self, name: str, device: torch.device, batch: int, small: bool):
        recipe = build_recipe("fast")
        self.name, self.device, self.batch = name, device, batch
        self.precision = choose_precision("auto", device)
        width = 1 / 32 if small else 1
        self.network = build_network(name, 10, width, dropout=recipe.dropout)
        self.operations = 3 * 2 * multiply_adds(self.network)  # forward, twice that back
        self.network = self.network.to(device, memory_format=torch.channels_last).train()
        images, labels = noise(max(batch, 1024 if small else SHOWN["train"]), device)
        self.preprocess = build_preprocess(recipe.preprocess).fit(images.cpu()).to(device)
        loader = TrainLoader(
            images, labels, self.preprocess, batch, flip=recipe.flip, crop=recipe.crop
        )
        self.optimiser = Optimiser(self.network, recipe, self.precision)
        self.step = TrainStep(
            self.network,
            loader,
            self.optimiser,
            precision=self.precision,
            label_smoothing=recipe.label_smoothing,
            capture=cuda_capture(device),
        )
        self.draws = loader.draws(0, seed=0)
        self.factors = [1e-3] * len(loader)
        self.once: dict[int, float] = {}
        self.before: dict[int, float] = {}

    def prepare(self, size: int = SIZE) -> None:
        """Warm up and record steps of a size, and note how long that takes."""
        if size in self.before:
            return
        self.begin()
        took = seconds(lambda: self.steps(size, WARM_UP + 1), self.device)
        self.begin()
        self.once[size] = seconds(lambda: self.steps(size, 1), self.device)
        self.before[size] = max(0.0, took - (WARM_UP + 1) * self.once[size])

    def begin(self) -> None:
        self.step.begin(self.draws, self.factors)

    def steps(self, size: int, count: int) -> None:
        for number in range(count):
            if number and number % len(self.factors) == 0:
                self.begin()
            self.step(size)

    def seconds_a_step(self, budget: float, size: int = SIZE) -> float:
        """Steps of an epoch, with what lays the epoch out."""
        count = max(1, min(len(self.factors), int(budget / self.once[size])))
        return seconds(lambda: (self.begin(), self.steps(size, count)), self.device) / count


def noise(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and labels in the shape of CIFAR-10."""
    random = torch.Generator(device).manual_seed(0)
    shape = (count, SIZE, SIZE, 3)
    images = torch.randint(256, shape, generator=random, device=device, dtype=torch.uint8)
    return images, torch.randint(10, (count,), generator=random, device=device)


def split(training: Training, budget: float) -> dict[str, float]:
    """Seconds of the parts of a step, each by itself and without a recording; and how
    long the processor needs to launch a step's kernels, one by one and replayed."""
    device, step, precision = training.device, training.step, training.precision
    loader, network, optimiser = step.loader, training.network, training.optimiser
    factor = torch.full((), 1e-3, dtype=step.factors.dtype, device=device)
    training.begin()
    images, labels = loader.batch(training.draws, loader.positions, SIZE)

    def forward_and_backward():
        with autocast(precision, device):
            logits = network(images)
        optimiser.backward(F.cross_entropy(logits.float(), labels))

    def eager():
        step.step.zero_()
        step.compute(SIZE)

    def launch(function) -> float:
        """The median of some: the queue to the device is empty before each."""
        took = []
        for _ in range(10):
            wait(device)
            start = time.perf_counter()
            function()
            took.append(time.perf_counter() - start)
        return median(took)

    parts = {
        "batch": lambda: loader.batch(training.draws, loader.positions, SIZE),
        "forward and backward": forward_and_backward,
        "optimiser": lambda: optimiser.update(factor),
        "whole": eager,
    }
    found = {}
    for name, function in parts.items():
        function()
        found[name] = seconds_each(function, device, budget)
    if device.type == "cuda":
        found["launch"] = launch(eager)
        if SIZE in step.replays:
            replay = step.replays[SIZE]
            found["launch, replayed"] = launch(lambda: (step.step.zero_(), replay()))
    return found


# ------------------------------------------------------------------------------- the peer


class Block(nn.Sequential):
    """Convolutions, each with BatchNorm and ReLU, and a pooling after each if asked."""

    def __init__(self, channels: int, wide: int, convolutions: int, pool: bool = False):
        layers: list[nn.Module] = []
        for number in range(convolutions):
            here = channels if number == 0 else wide
            layers += [nn.Conv2d(here, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if pool else []
        super().__init__(*layers)


class Peer(nn.Module):
    """VGG-att3 as the most used public re-implementation describes it, written anew.

    Attention before each pooling, a softmax over pc scores, features of three levels
    joined; plain layers in float32, contiguous in memory. It widens the lowest level to
    the query, where the book narrows the query to the level: 3.5 % more multiply-adds.
    """

    def __init__(self, unit: int = 64, classes: int = 10):
        super().__init__()
        top = 8 * unit
        self.low = nn.Sequential(
            Block(3, unit, 2), Block(unit, 2 * unit, 2), Block(2 * unit, 4 * unit, 3)
        )
        self.middle, self.high = Block(4 * unit, top, 3), Block(top, top, 3)
        self.query = nn.Sequential(Block(top, top, 2, pool=True), nn.Conv2d(top, top, 1))
        self.project = nn.Conv2d(4 * unit, top, 1, bias=False)
        self.scores = nn.ModuleList(nn.Conv2d(top, 1, 1, bias=False) for _ in range(3))
        self.classify = nn.Linear(3 * top, classes)

    def forward(self, images: Tensor) -> Tensor:
        low = self.low(images)
        middle = self.middle(F.max_pool2d(low, 2))
        high = self.high(F.max_pool2d(middle, 2))
        g = self.query(F.max_pool2d(high, 2))
        found = []
        levels = (self.project(low), middle, high)
        for local, score in zip(levels, self.scores, strict=True):
            attention = score(local + g).flatten(2).softmax(dim=2).view_as(local[:, :1])
            found.append((attention * local).flatten(2).sum(dim=2))
        return self.classify(torch.cat(found, dim=1))


class PeerTraining:
    """Its steps: SGD, no autocast, cuDNN as torch has it; a batch that is there already."""

    def __init__(self, device: torch.device, batch: int, small: bool):
        self.device, self.batch = device, batch
        self.network = Peer(2 if small else 64).to(device).train()
        images, self.labels = noise(batch, device)
        self.images = images.permute(0, 3, 1, 2).float().div_(255).contiguous()
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4
        )

    def step(self) -> None:
        self.optimiser.zero_grad()
        F.cross_entropy(self.network(self.images), self.labels).backward()
        self.optimiser.step()

    def seconds_a_step(self, budget: float) -> float:
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = False
        try:
            return seconds_each(self.step, self.device, budget)
        finally:
            torch.backends.cudnn.benchmark = before


# ------------------------------------------------------------------ from command to record


def start_seconds(device: torch.device) -> float:
    """From the start of a process to the first product on its device."""
    program = (
        "from lpa_core import cli, training\n"
        f"training.choose_device({str(device)!r})\n"
        "import torch\n"
        f"torch.ones(1, device={str(device)!r}).item()\n"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start


def put_together(
    training: Training, evaluating: float, budget: float, small: bool
) -> dict[str, float | None]:
    """Seconds of the parts of a run, CIFAR-10 by `fast`; the set's loading is None where
    it is not prepared."""
    spec = RunSpec(network=training.name, dataset="cifar10", width=1)
    epochs, steps = spec.chosen_epochs(), SHOWN["train"] // training.batch
    sizes = [spec.epoch_size(epoch, SIZE) for epoch in range(epochs)]
    for size in sorted(set(sizes)):
        training.prepare(size)
    a_step = {size: training.seconds_a_step(budget, size) for size in set(sizes)}
    loading = None
    if not small and count_images("cifar10").get("train"):
        loading = seconds(lambda: load_data(spec, training.device), training.device)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with CheckpointWriter(Path(folder)) as writer:
            writer.save(Progress(), training.network, training.optimiser)
        writing = time.perf_counter() - start
    tested = sum(
        done == epochs or done % EVALUATE_EVERY == 0 for done in range(1, epochs + 1)
    )
    return {
        "start": start_seconds(training.device),
        "data": loading,
        "before the first steps": sum(training.before.values()),
        "steps": sum(steps * a_step[size] for size in sizes),
        "evaluation": tested * evaluating,
        "checkpoint and weights": 2 * writing,
    }


def run_command(device: torch.device, small: bool) -> float:
    """Seconds of the command itself; the record is there when it ends."""
    size = ["--dataset", "cifar10", "--width", "1", "--profile", "gpu"]
    if small:
        size = ["--width", "0.03125", "--epochs", "2", "--train-images", "256"]
        size += ["--profile", "smoke"]
    with tempfile.TemporaryDirectory() as folder:
        files = ["--runs", folder, "--records", str(Path(folder) / "records.jsonl")]
        words = ["train", "--network", ATT2, "--device", str(device), *size, *files]
        start = time.perf_counter()
        command = [sys.executable, "-m", "lpa_core", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took = time.perf_counter() - start
        if not (Path(folder) / "records.jsonl").exists():
            raise RuntimeError("the command ended without a record")
    return took


# ------------------------------------------------------------------------------ the whole


def measure(
    device: torch.device,
    batches: list[int],
    *,
    repeats: int = 3,
    budget: float = 0.5,
    small: bool = False,
    whole: bool = False,
) -> dict:
    """A line of the file: what was measured, and on what.

    Args:
        batches: images a step, of vgg-att2; all else is measured with the first.
        budget: seconds for each figure and repeat.
    """
    precision = choose_precision("auto", device)
    with tuned_kernels(device):
        att2 = {batch: Training(ATT2, device, batch, small) for batch in batches}
        first = att2[batches[0]]
        other = {n: Training(n, device, batches[0], small) for n in (VGG, ATT3)}
        peer = PeerTraining(device, batches[0], small)
        peer.step()
        for training in (*att2.values(), *other.values()):
            training.prepare()
        tested = SHOWN["test"] if device.type == "cuda" else 500 if small else 1000
        test = EvalLoader(
            *noise(tested, device),
            first.preprocess,
            batch_size=250 if device.type == "cpu" else 2000,
        )
        evaluate(first.network, test, precision)  # finds its kernels
        found: dict[str, list[float]] = {}

        def note(name: str, value: float) -> None:
            found.setdefault(name, []).append(value)

        for _ in range(repeats):
            note("rate", matrix_rate(device, precision, small, budget))
            first.network.train()
            for batch, training in att2.items():
                note(f"{ATT2}, {batch}", batch / training.seconds_a_step(budget))
            for name, training in other.items():
                note(name, training.batch / training.seconds_a_step(budget))
            note(PEER, peer.batch / peer.seconds_a_step(budget))
            took = seconds(lambda: evaluate(first.network, test, precision), device)
            note("evaluation", took)
        first.network.train()
        middle = {name: median(values) for name, values in found.items()}
        parts = split(first, budget)
        evaluating = middle["evaluation"] * SHOWN["test"] / tested
        together = put_together(first, evaluating, budget, small)
    line = {
        "network": ATT2,
        "precision": precision,
        "small": small,
        "batches": batches,
        "recorded": all(bool(t.step.replays) for t in (*att2.values(), *other.values())),
        "operations": first.operations,
        "evaluated": len(test.labels),
        "medians": middle,
        "repeats": found,
        "split": parts,
        "together": together,
    }
    if whole:
        line["whole"] = run_command(device, small)
    return line | made_on(device)


def shares(line: dict) -> dict[int, float]:
    """By batch, what share of the matrix product's rate whole steps of vgg-att2 have."""
    middle = line["medians"]
    return {
        batch: middle[f"{ATT2}, {batch}"] * line["operations"] / middle["rate"]
        for batch in line["batches"]
    }


def rows(line: dict) -> list[tuple[str, str, str]]:
    """The table: what, how much, and what one H200 is to reach."""
    middle, (first, *more) = line["medians"], line["batches"]
    share, one = shares(line), f"{ATT2}, {line['batches'][0]}"
    ahead = middle[ATT3] / middle[PEER]
    together = line["together"]
    record = sum(value or 0 for value in together.values())
    how = "put together from measured steps"
    if together["data"] is None:
        how += ", without loading the set"
    found = [
        (f"{line['precision']} matrix product", f"{middle['rate'] / 1e12:.4g} TFLOP/s", ""),
        (f"att2, batch {first}", f"{middle[one]:,.0f} images/s", ""),
        ("  of the matrix product's rate", f"{share[first]:.0%}", f"{WANTED['share']:.0%}"),
        *(
            (
                f"att2, batch {batch}",
                f"{middle[f'{ATT2}, {batch}']:,.0f} images/s, {share[batch]:.0%}",
                "",
            )
            for batch in more
        ),
        ("att3", f"{middle[ATT3]:,.0f} images/s", ""),
        (f"att3, {PEER}", f"{middle[PEER]:,.0f} images/s", ""),
        ("  times as fast as that", f"{ahead:.2f}", f"{WANTED['peer']}"),
        ("vgg", f"{middle[VGG]:,.0f} images/s", f"{WANTED[VGG]:,} images/s"),
        ("att2, CIFAR-10, fast, to the record", f"{record:.1f} s", f"{WANTED['record']} s"),
        (f"  ({how})", "", ""),
        (
            f"{line['evaluated']:,} images evaluated",
            f"{middle['evaluation']:.3f} s",
            f"{WANTED['evaluation']} s",
        ),
    ]
    if "whole" in line:
        found.append(("  the command itself", f"{line['whole']:.1f} s", ""))
    for name, value in line["split"].items():
        found.append((f"a step, not recorded: {name}", f"{1000 * value:.2f} ms", ""))
    return found


def table(line: dict) -> str:
    head = (
        f"{line['device']}, {line['threads']} threads, torch {line['versions']['torch']}; "
        f"medians of {len(line['repeats']['rate'])} repeats; steps are "
        f"{'replayed' if line['recorded'] else 'not recorded'}"
    )
    if line["small"]:
        head += "; --small: narrow networks, whose speed says nothing"
    cells = [("", "here", "one H200 is to reach"), *rows(line)]
    return "\n".join([head, *(f"{a:<42}{b:>26}{c:>24}".rstrip() for a, b, c in cells)])


def default_batches(device: torch.device) -> list[int]:
    """The recipe's, and a larger one where there is room for its activations."""
    large = False
    if device.type == "cuda":
        large = torch.cuda.get_device_properties(device).total_memory > 30e9
    return [128, 512] if large else [128]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, nargs="+", metavar="IMAGES")
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="FILE")
    given = parser.parse_args(words)
    for name, least in (("repeats", 1), ("seconds", 0)):
        value = getattr(given, name)
        if value < least:
            parser.error(f"--{name} {value}: must be {least} or more")
    if given.batch and min(given.batch) < 2:
        parser.error(f"--batch {min(given.batch)}: must be 2 or more")
    try:
        device = choose_device(given.device)
        if given.keep:
            check_appendable(given.keep)
    except (ValueError, RecordError) as error:
        parser.error(str(error))
    batches = given.batch or default_batches(device)
    print(f"measuring on {device_name(device)} …", file=sys.stderr)
    line = measure(
        device,
        list(dict.fromkeys(batches)),
        repeats=given.repeats,
        budget=given.seconds,
        small=given.small,
        whole=given.whole,
    )
    print(table(line))
    if given.keep:
        try:
            append_line(json.dumps(line), given.keep)
        except RecordError as error:  # the disk may have filled since
            parser.error(str(error))


if __name__ == "__main__":
    main()
