"""Does training work on this GPU as it does on a CPU? One command, under three minutes.

    python benchmarks/gpu_check.py [--device cuda] [--keep results/throughput.jsonl]

Five checks, each with a number and its bound, then the table of `throughput.py`. The exit
code is 0 if all hold, 1 if one does not, and 2 if there is no GPU. The tests run the same
checks on a CPU, with a stand-in for recording CUDA graphs.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import throughput
import torch
from torch import Tensor, nn

from lpa_core import build_network
from lpa_core.data import TrainLoader, build_preprocess, load
from lpa_core.provenance import RecordError, append_line, check_appendable
from lpa_core.training import (
    Record,
    RunSpec,
    build_recipe,
    choose_device,
    choose_precision,
    load_trained,
    run,
)
from lpa_core.training.inputs import initial_network, load_data
from lpa_core.training.optim import Optimiser
from lpa_core.training.step import Capture, TrainStep, cuda_capture, tuned_kernels

NETWORK = "vgg-att2-concat-pc"
CaptureOf = Callable[[torch.device], Capture | None]

# Relative differences of losses that rounding may cause in the first steps, two of them
# replayed, and in all steps, as it grows. If two eager trainings with one seed also differ,
# because a GPU does not fix the order of sums, five times that difference is allowed.
FIRST, EARLY, LATE = 5, 2e-3, 2e-2
TIMES_EAGER, LARGEST = 5.0, 0.1
# ‖difference of two runs' weights‖ / ‖how far they moved‖: about 1.4 for other seeds.
SAME = 0.3
ALIKE = 0.6  # minimum decrease of the loss in float16, as a fraction of bfloat16's


@dataclass(frozen=True)
class Check:
    """What was checked, whether it holds, and the numbers."""

    name: str
    holds: bool
    said: str


@dataclass(frozen=True)
class Bench:
    """The setting of the checks.

    Attributes:
        capture: records steps, like `cuda_capture`; the tests use a stand-in.
        width, images, epochs: of the runs; steps, batch: of the compared steps.
    """

    device: torch.device
    capture: CaptureOf = cuda_capture
    network: str = NETWORK
    width: float = 0.25
    images: int = 128 * 20
    epochs: int = 4
    steps: int = 50
    batch: int = 128
    step_width: float = 1.0
    folder: Path = field(default_factory=Path)

    def spec(self, **changes) -> RunSpec:
        fields = {"network": self.network, "width": self.width}
        fields |= {"train_images": self.images}
        return RunSpec(**fields | {"epochs": self.epochs} | changes)

    def train(self, name: str, spec: RunSpec, **options) -> Record:
        options = {"device": str(self.device), "progress": False} | options
        with fixed_order():
            return run(spec, runs=self.folder / name, **options)

    def weights(self, name: str) -> Tensor:
        (path,) = (self.folder / name).glob("*/weights.safetensors")
        return flat(load_trained(path).network)


def flat(network: nn.Module) -> Tensor:
    """All parameters as one vector, on the CPU."""
    found = [p.detach().float().cpu().flatten() for p in network.parameters()]
    return torch.cat(found)


def apart(one: Tensor, two: Tensor, start: Tensor) -> float:
    """The distance between two runs' weights, divided by how far the first one moved."""
    return ((one - two).norm() / (one - start).norm()).item()


@contextmanager
def fixed_order() -> Iterator[None]:
    """cuDNN sums in a fixed order, if it can."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


# ------------------------------------------------------------------------------- checks


def losses_of(bench: Bench, capture: Capture | None) -> tuple[Tensor, TrainStep]:
    """The losses of some steps on one image size, by `fast` with its dropout."""
    recipe = build_recipe("fast").model_copy(update={"batch_size": bench.batch})
    data = load("embedded", "train")
    images, labels = data.images[: 8 * bench.batch], data.labels[: 8 * bench.batch]
    preprocess = build_preprocess(recipe.preprocess).fit(images).to(bench.device)
    loader = TrainLoader(
        images.to(bench.device),
        labels.to(bench.device),
        preprocess,
        bench.batch,
        crop=recipe.crop,
    )
    precision = choose_precision("auto", bench.device)
    torch.manual_seed(0)
    network = build_network(bench.network, 10, bench.step_width, dropout=recipe.dropout)
    network = network.to(bench.device, memory_format=torch.channels_last).train()
    optimiser = Optimiser(network, recipe, precision)
    step = TrainStep(network, loader, optimiser, precision=precision, capture=capture)
    losses = []
    for first in range(0, bench.steps, len(loader)):
        count = min(len(loader), bench.steps - first)
        factors = [(first + n + 1) / bench.steps for n in range(len(loader))]
        step.begin(loader.draws(first, seed=0), factors)
        torch.manual_seed(first)
        for _ in range(count):
            step(loader.size)
        losses.append(step.losses[:count].cpu().clone())
    return torch.cat(losses), step


def captured_is_eager(bench: Bench) -> Check:
    """The recorded step gives the eager step's losses, with dropout and varying rates."""
    name = f"{bench.steps} replayed steps are {bench.steps} eager ones"
    with fixed_order(), tuned_kernels(bench.device):
        eager, _ = losses_of(bench, None)
        again, _ = losses_of(bench, None)
        found, step = losses_of(bench, bench.capture(bench.device))
    if not step.replays:
        return Check(name, False, "the step was not recorded, see the warning above")
    said, holds = [], bool(eager[-1] < eager[0])  # otherwise nothing was trained
    for steps, bound in ((slice(FIRST), EARLY), (slice(None), LATE)):
        noise, differ = (
            ((losses - eager) / eager).abs()[steps].max().item()
            for losses in (again, found)
        )
        bound = min(LARGEST, max(bound, TIMES_EAGER * noise))
        holds = holds and differ <= bound
        said.append(f"{differ:.1e}, bound {bound:.1e} (eager again: {noise:.1e})")
    return Check(
        name,
        holds,
        f"losses differ in the first {FIRST} by {said[0]}, in all by {said[1]}; "
        f"they fall from {eager[0]:.3f} to {eager[-1]:.3f}",
    )


def losses_on_one_batch(bench: Bench, dropout: float, count: int = 12) -> Tensor | None:
    """The losses of some steps at a rate of zero; None if they were not recorded."""
    batch, device = bench.batch, bench.device
    recipe = build_recipe("fast")
    data = load("embedded", "train")
    images = data.images[:batch].repeat(count, 1, 1, 1)
    labels = data.labels[:batch].repeat(count)
    preprocess = build_preprocess(recipe.preprocess).fit(images).to(device)
    loader = TrainLoader(
        images.to(device), labels.to(device), preprocess, batch, flip=False
    )
    torch.manual_seed(0)
    network = build_network(bench.network, 10, bench.width, dropout=dropout)
    network = network.to(device, memory_format=torch.channels_last).train()
    optimiser = Optimiser(network, recipe)
    step = TrainStep(network, loader, optimiser, capture=bench.capture(device))
    in_order = torch.arange(len(labels), device=device)
    step.begin(loader.draws(0, seed=0)._replace(order=in_order), [0.0] * count)
    for _ in range(count):
        step(loader.size)
    return step.losses.cpu() if step.replays else None


def dropout_differs(bench: Bench) -> Check:
    """Each replay draws a new mask; without dropout, the same batch has the same loss."""
    name = "dropout differs from step to step"
    with fixed_order(), tuned_kernels(bench.device):
        drawn = losses_on_one_batch(bench, 0.5)
        still = losses_on_one_batch(bench, 0.0)
    if drawn is None or still is None:
        return Check(name, False, "the step was not recorded, see the warning above")
    count, different = len(drawn), len({round(loss, 6) for loss in drawn.tolist()})
    wide, narrow = ((losses.max() - losses.min()).item() for losses in (drawn, still))
    said = (
        f"{different} different losses in {count} steps on one batch, over a range of "
        f"{wide:.1e}; without dropout over {narrow:.1e}, bound a tenth of that"
    )
    return Check(name, different >= count - 1 and 10 * narrow <= wide, said)


def same_seed_same_run(bench: Bench) -> Check:
    """Train twice with one seed, once with another."""
    bench.train("one", bench.spec())
    bench.train("two", bench.spec())
    bench.train("other", bench.spec(seed=1))
    start = beginning(bench)
    one = bench.weights("one")
    same = apart(one, bench.weights("two"), start)
    other = apart(one, bench.weights("other"), start)
    said = (
        f"weights differ by {same:.2g} of the way that they moved, bound {SAME}; "
        f"those of another seed by {other:.2g}"
    )
    return Check(
        "the same seed gives the same run twice", same <= SAME and other > SAME, said
    )


def beginning(bench: Bench) -> Tensor:
    spec = bench.spec()
    network, _ = initial_network(spec, load_data(spec, torch.device("cpu")))
    return flat(network)


def resumed_is_uninterrupted(bench: Bench) -> Check:
    """Kill a run after half of its epochs, at a checkpoint, and resume it."""
    half = bench.epochs // 2

    def stop(done: int, network) -> None:
        if done == half:
            raise KeyboardInterrupt

    spec = bench.spec()
    straight = bench.train("one", spec)  # already done by `same_seed_same_run`
    seconds = os.environ.get("LPA_CHECKPOINT_SECONDS")
    os.environ["LPA_CHECKPOINT_SECONDS"] = "0"
    try:
        bench.train("cut", spec, callback=stop)
    except KeyboardInterrupt:
        pass
    finally:
        if seconds is None:
            del os.environ["LPA_CHECKPOINT_SECONDS"]
        else:
            os.environ["LPA_CHECKPOINT_SECONDS"] = seconds
    resumed = bench.train("cut", spec)
    differ = apart(bench.weights("one"), bench.weights("cut"), beginning(bench))
    sessions = resumed.sessions, straight.sessions
    said = (
        f"weights differ by {differ:.2g} of the way that they moved, bound {SAME}; "
        f"sessions {sessions[0]} and {sessions[1]}"
    )
    holds = differ <= SAME and sessions == (2, 1)
    return Check("a resumed run is the uninterrupted one", holds, said)


def float16_trains_as_bfloat16(bench: Bench) -> Check:
    """The loss decreases as far, with scaled gradients."""
    falls = {}
    for precision in ("bfloat16", "float16"):
        history = bench.train(precision, bench.spec(precision=precision)).history
        falls[precision] = history[0].train_loss, history[-1].train_loss
    (start, brain), (_, half) = falls["bfloat16"], falls["float16"]
    said = (
        f"training loss, from {start:.3f} in the first epoch, to {half:.3f}, in bfloat16 "
        f"to {brain:.3f}; bound {ALIKE:.0%} of that fall"
    )
    holds = math.isfinite(half) and start - half >= ALIKE * (start - brain) > 0
    return Check("float16 trains as bfloat16 does", holds, said)


CHECKS: list[Callable[[Bench], Check]] = [
    captured_is_eager,
    dropout_differs,
    same_seed_same_run,
    resumed_is_uninterrupted,
    float16_trains_as_bfloat16,
]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--keep", type=Path, metavar="FILE")
    given = parser.parse_args(words)
    try:
        device = choose_device(given.device)
        if given.keep:
            check_appendable(given.keep)
    except (ValueError, RecordError) as error:
        print(f"gpu_check: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if device.type != "cuda":
        print(f"gpu_check is for CUDA devices, not {device}", file=sys.stderr)
        return 2
    start, checks = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, folder=Path(folder))
        for check in CHECKS:
            found = check(bench)
            checks.append(found)
            print(f"{'ok  ' if found.holds else 'FAIL'} {found.name}: {found.said}")
    failed = sum(not found.holds for found in checks)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks hold")
    torch.cuda.empty_cache()
    line = throughput.measure(device, throughput.default_batches(device), budget=0.3)
    print(throughput.table(line))
    print(f"all of it: {time.perf_counter() - start:.0f} s")
    if given.keep:
        append_line(json.dumps(line | {"checks": [asdict(c) for c in checks]}), given.keep)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
