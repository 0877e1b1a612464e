"""One training step as a function of tensors that stay where they are, and its replay.

All that changes from step to step lies on the device before an epoch begins: the order of
the images, their crops and flips, the factor on the rates, the number of the step. So the
step needs nothing from Python. A GPU records it once an image size as a CUDA graph and
replays it: one launch in place of about a thousand, whose 20 microseconds each are longer
than most of these kernels. On a CPU the same function is called.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lpa_core.data import TrainLoader
from lpa_core.data.loaders import Draws
from lpa_core.training.optim import Optimiser
from lpa_core.training.precision import autocast

__all__ = ["Capture", "TrainStep", "cuda_capture", "tuned_kernels"]

Capture = Callable[[Callable[[], None]], Callable[[], None]]
WARM_UP = 3  # steps before a recording: libraries choose their kernels in them


class TrainStep:
    """Steps of a network on a loader's batches.

    Args:
        network: as training calls it.
        share: factor on the loss of a batch, see `train_epoch`.
        capture: records a function without running it and returns what replays it; None
            calls the function each time.
    """

    def __init__(
        self,
        network: nn.Module,
        loader: TrainLoader,
        optimiser: Optimiser,
        *,
        precision: str = "float32",
        label_smoothing: float = 0.0,
        share: float = 1.0,
        capture: Capture | None = None,
    ):
        self.network, self.loader, self.optimiser = network, loader, optimiser
        self.precision, self.label_smoothing = precision, label_smoothing
        self.share, self.capture = share, capture
        self.device = loader.labels.device
        self.replays: dict[int, Callable[[], None]] = {}
        self.calls: dict[int, int] = {}
        steps, device = len(loader), self.device
        self.step = torch.zeros(1, dtype=torch.long, device=device)
        self.factors = torch.zeros(steps, dtype=rate_type(device), device=device)
        self.losses = torch.zeros(steps, device=device)
        self.wrong = torch.zeros(steps, device=device)
        self.draws: Draws | None = None

    def begin(self, draws: Draws, factors: Sequence[float]) -> None:
        """Lay out an epoch: what was drawn for it, and the factor on the rates a step."""
        if self.draws is None:
            self.draws = draws
        for tensor, new in zip(self.draws, draws, strict=True):
            tensor.copy_(new)
        self.factors.copy_(torch.tensor(factors, dtype=self.factors.dtype))
        self.step.zero_()

    def means(self) -> tuple[float, float]:
        """Mean loss and share of wrong answers over the epoch; waits for the device."""
        return self.losses.mean().item(), self.wrong.mean().item()

    def compute(self, size: int) -> None:
        """The next step, on images of `size` pixels a side."""
        assert self.draws is not None
        loader, step = self.loader, self.step
        positions = loader.positions + step * loader.batch_size
        images, labels = loader.batch(self.draws, positions, size)
        with autocast(self.precision, self.device):
            logits = self.network(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        self.optimiser.backward(loss * self.share)
        self.optimiser.update(self.factors.index_select(0, step).squeeze())
        wrong = (logits.detach().argmax(dim=1) != labels).float().mean()
        self.losses.index_copy_(0, step, loss.detach().float().view(1))
        self.wrong.index_copy_(0, step, wrong.view(1))
        step += 1

    def __call__(self, size: int) -> None:
        """The next step, computed or replayed."""
        if self.capture is None:
            self.compute(size)
        elif size in self.replays:
            self.replays[size]()
        elif self.calls.get(size, 0) < WARM_UP:
            self.calls[size] = self.calls.get(size, 0) + 1
            on_a_side_stream(lambda: self.compute(size), self.device)
        else:
            try:
                self.replays[size] = self.capture(lambda: self.compute(size))
            except Exception as error:  # a driver's, a library's: each has its own kind
                reason = str(error).strip().splitlines() or [""]
                warnings.warn(
                    "the step could not be recorded as a CUDA graph, going on without: "
                    f"{type(error).__name__}: {reason[0]}",
                    stacklevel=2,
                )
                self.capture = None
                self.optimiser.forget_step()
            self(size)

    def forget(self) -> None:
        """Record again, as tensors that the step uses were replaced."""
        self.replays.clear()
        self.calls.clear()


def rate_type(device: torch.device) -> torch.dtype:
    """Rates have Python's precision on a CPU; GPUs take float32, and MPS has no other."""
    return torch.float64 if device.type == "cpu" else torch.float32


def on_a_side_stream(function: Callable[[], None], device: torch.device) -> None:
    """Call a function on a stream of its own, as what is to be recorded must be."""
    if device.type != "cuda":
        function()
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream(device).wait_stream(stream)


def cuda_capture(device: torch.device) -> Capture | None:
    """Recording as CUDA graphs, which share their memory; None where there are none.

    PyTorch registers the device's generator with each graph, so that dropout draws anew
    in each replay, from where the seed of the epoch has it.
    """
    if device.type != "cuda":
        return None
    pool: Any = torch.cuda.graph_pool_handle()

    def capture(function: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # A thread may write a checkpoint meanwhile: what it does is not of this recording.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            function()
        return graph.replay

    return capture


@contextmanager
def tuned_kernels(device: torch.device) -> Iterator[None]:
    """cuDNN tries its kernels on each new shape, in the steps before one is recorded."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def check_finite(loss: float, label: str, epoch: int) -> None:
    """Stop a run that has diverged.

    Raises:
        FloatingPointError: the loss is not finite any more.
    """
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"{label}: the loss is not finite any more in epoch {epoch + 1}: the "
            "recipe's learning rate is too high for this network"
        )
