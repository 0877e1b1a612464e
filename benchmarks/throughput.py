"""How fast this machine trains, and how much of it the loop leaves unused.

    python benchmarks/throughput.py [--device auto] [--repeats 3] [--no-compile] [--quick]
                                    [--keep results/throughput.jsonl]

Everything is measured in one run, so that the ratios hold for this machine as it is now:
the rate of a bfloat16 matrix product; the full-width VGG-att2 in a plain float32 loop in
PyTorch's default memory layout, as lpa_core computes it (bfloat16 autocast, channels
last), and compiled where there is a GPU; and, at quarter width, one step on a batch that
is already there beside the real loop with its data and augmentation. Measurements that
are compared take turns; each figure is the median of its repeats. `--keep` adds what was
measured to a file as a line, with every repeat: chapter 17 shows the book's. `--quick`
uses narrow networks and small products: it shows whether all this works, not how fast.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from made_on import made_on
from torch import nn
from tqdm.auto import tqdm

from lpa_core import build_network
from lpa_core.networks.cost import multiply_adds
from lpa_core.provenance import RecordError, append_line, check_appendable, device_name
from lpa_core.training import RunSpec, autocast, choose_device, choose_precision
from lpa_core.training.compiling import STEPS, compiled
from lpa_core.training.loop import (
    compile_step,
    initial_network,
    load_data,
    train_epoch,
)
from lpa_core.training.optim import Optimiser

NETWORK = "vgg-att2-concat-pc"


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function, device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - start


def matrix_rate(device: torch.device, dtype: torch.dtype, quick: bool) -> float:
    """Floating-point operations a second of a large matrix product."""
    size, times = (8192, 20) if device.type == "cuda" else (2048, 10)
    if quick:
        size, times = 256, 2
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)

    def products():
        for _ in range(times):
            torch.mm(a, b)

    products()
    return times * 2 * size**3 / seconds(products, device)


class FullWidth:
    """Steps of the full-width network on one batch, as `lpa_core` does it or plainly."""

    def __init__(
        self,
        device: torch.device,
        precision: str,
        layout: torch.memory_format,
        quick: bool,
    ):
        self.precision, self.device = precision, device
        self.batch = 512 if device.type == "cuda" else 32
        width = 1 / 32 if quick else 1
        self.network = build_network(NETWORK, num_classes=10, width=width, dropout=0.2)
        self.network = self.network.to(device, memory_format=layout).train()
        self.stepped = self.network
        self.images = torch.randn(self.batch, 3, 32, 32, device=device)
        self.images = self.images.contiguous(memory_format=layout)
        self.labels = torch.randint(10, (self.batch,), device=device)
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), lr=0.01, momentum=0.9, nesterov=True
        )

    def compile(self) -> bool:
        """Compile the step; whether that worked."""
        self.stepped = compiled(
            self.network, [self.images], lambda: autocast(self.precision, self.device)
        )
        return self.stepped is not self.network

    def step(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        with autocast(self.precision, self.device):
            logits = self.stepped(self.images)
        loss = F.cross_entropy(logits.float(), self.labels)
        loss.backward()
        self.optimiser.step()

    def images_per_second(self) -> float:
        return self.batch / seconds(self.step, self.device)


class QuarterWidth:
    """The real training loop on full-size images, and the same step without its data."""

    def __init__(self, device: torch.device, compile: bool, quick: bool):
        width, steps = (1 / 32, 2) if quick else (0.25, 12)
        self.spec = RunSpec(
            network=NETWORK, width=width, train_images=128 * steps, epochs=5
        )
        self.device, self.precision = device, choose_precision("auto", device)
        data = load_data(self.spec, device)
        self.loader = data.train
        network, _ = initial_network(self.spec, data)
        self.network = network.to(device, memory_format=torch.channels_last)
        self.optimiser = Optimiser(self.network, self.spec.chosen_recipe())
        self.last = 4  # the epoch that trains on full-size images
        self.stepped: nn.Module = self.network
        if compile:
            self.stepped = compile_step(self.spec, self.network, self.loader, self.last)
        self.images, self.labels = next(self.loader.epoch(self.last, seed=0))

    def bare(self) -> None:
        for _ in range(len(self.loader)):
            self.optimiser.zero_grad()
            with autocast(self.precision, self.device):
                logits = self.stepped(self.images)
            loss = F.cross_entropy(logits.float(), self.labels, label_smoothing=0.1)
            loss.backward()
            self.optimiser.step(0.01)

    def real(self) -> None:
        train_epoch(self.spec, self.stepped, self.loader, self.optimiser, self.last)

    def images_per_second(self, function) -> float:
        count = len(self.loader) * self.loader.batch_size
        return count / seconds(function, self.device)


def measure(
    device: torch.device, repeats: int, compile: bool, quick: bool
) -> tuple[dict[str, list[float]], float]:
    """Of each repeat the matrix product's operations a second, and images a second; and
    how many operations a training step of the full width takes for an image."""
    precision = choose_precision("auto", device)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    plain = FullWidth(device, "float32", torch.contiguous_format, quick)
    ours = FullWidth(device, precision, torch.channels_last, quick)
    full = {"plain": plain, "ours": ours}
    if compile:
        fast = FullWidth(device, precision, torch.channels_last, quick)
        if fast.compile():
            full["compiled"] = fast
    operations = 3 * 2 * multiply_adds(ours.network)  # forward, and twice that backward
    found: dict[str, list[float]] = {name: [] for name in ["rate", *full, "bare", "real"]}
    quarter = QuarterWidth(device, "compiled" in full, quick)
    for network in full.values():
        for _ in range(STEPS):  # again, as compiling the next one undoes the last
            network.step()
    quarter.real()
    for _ in tqdm(range(repeats), desc="measuring"):
        found["rate"].append(matrix_rate(device, dtype, quick))
        for name, network in full.items():
            found[name].append(network.images_per_second())
        found["bare"].append(quarter.images_per_second(quarter.bare))
        found["real"].append(quarter.images_per_second(quarter.real))
    return found, operations


def rows(line: dict) -> list[tuple[str, float, str]]:
    """Rows of the table: what, its value, and how it compares."""
    middle, precision = line["medians"], line["precision"]
    slow, bare, real = (middle[name] for name in ("plain", "bare", "real"))
    found = [
        (f"{precision} matrix product, GFLOP/s", middle["rate"] / 1e9, ""),
        ("full width, float32 NCHW, images/s", slow, ""),
    ]
    names = {"ours": "channels last", "compiled": "channels last, compiled"}
    for name in [name for name in names if name in middle]:
        found.append(
            (
                f"full width, {precision} {names[name]}, images/s",
                middle[name],
                f"{middle[name] / slow:.2f} x float32 NCHW; "
                f"{line['shares'][name]:.0%} of the matrix product's rate",
            )
        )
    return [
        *found,
        ("quarter width, bare step, images/s", bare, ""),
        ("quarter width, real loop, images/s", real, f"{real / bare:.0%} of the bare step"),
    ]


def facts(device: torch.device, repeats: int, compile: bool, quick: bool) -> dict:
    """Measure, and say on what: a line of the file."""
    found, operations = measure(device, repeats, compile, quick)
    middle = {name: median(values) for name, values in found.items()}
    fast = [name for name in ("ours", "compiled") if name in found]
    return {
        "network": NETWORK,
        "precision": choose_precision("auto", device),
        "quick": quick,
        "medians": middle,
        "shares": {name: middle[name] * operations / middle["rate"] for name in fast},
        "repeats": found,
        **made_on(device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats {arguments.repeats}: must be 1 or more")
    try:
        device = choose_device(arguments.device)
        if arguments.keep:
            check_appendable(arguments.keep)
    except (ValueError, RecordError) as error:
        parser.error(str(error))
    compile = arguments.compile
    if compile is None:
        compile = device.type == "cuda"
    print(
        f"{NETWORK}, training steps; {device_name(device)}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"medians of {arguments.repeats} repeats"
    )
    line = facts(device, arguments.repeats, compile, arguments.quick)
    for what, value, note in rows(line):
        print(f"{what:<62}{value:>10.1f}  {note}")
    if arguments.keep:
        try:
            append_line(json.dumps(line), arguments.keep)
        except RecordError as error:  # the disk may have filled since
            parser.error(str(error))


if __name__ == "__main__":
    main()
