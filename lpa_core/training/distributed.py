"""Several processes for one run, started by torchrun: each takes its slice of every batch,
and the result equals that of one process up to rounding.

Every process draws the same order, crops, flips and dropout for the whole batch and takes
its slice of them. BatchNorm uses the moments of the whole batch, torch's
DistributedDataParallel averages the gradients, and every process makes the same step.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lpa_core.networks.base import to_float32

__all__ = ["ALONE", "DistributedContext", "distributed_context", "own_device", "reports"]

TIMEOUT = timedelta(hours=2)  # the main process may have a data set to download


@dataclass(frozen=True)
class DistributedContext:
    """This process, number `rank` of the `world_size` processes of its run."""

    rank: int = 0
    world_size: int = 1
    launcher: int = field(default_factory=os.getppid)

    @property
    def is_main(self) -> bool:
        """Whether it is the process that writes and reports."""
        return self.rank == 0

    def batch_slice(self, batch_size: int) -> slice:
        """This process's slice of each batch; slice sizes differ by at most one.

        Raises:
            ValueError: there are more processes than images.
        """
        if batch_size < self.world_size:
            raise ValueError(
                f"{self.world_size} processes cannot share batches of {batch_size} images: "
                f"start at most {batch_size} processes"
            )
        start = self.rank * batch_size // self.world_size
        return slice(start, (self.rank + 1) * batch_size // self.world_size)

    def all_reduce_sum(self, values: list[float], device: torch.device) -> list[float]:
        """Each value, summed over the processes."""
        if self.world_size == 1:
            return values
        sums = torch.tensor(values, dtype=torch.double, device=device)
        dist.all_reduce(sums)
        return sums.tolist()

    def barrier(self) -> None:
        """Wait until all processes get here.

        Raises:
            ConnectionError: one of them has ended.
        """
        if self.world_size > 1:
            try:
                dist.barrier()
            except RuntimeError as error:
                raise ConnectionError("another process of this run has ended") from error

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block first; the others find what it prepared."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def check_same_epoch(self, number: int, device: torch.device) -> None:
        """Check that all processes found the same number of finished epochs.

        Raises:
            ValueError: they did not, so they do not see the same files.
        """
        if self.world_size > 1:
            extremes = torch.tensor([number, -number], device=device)
            dist.all_reduce(extremes, dist.ReduceOp.MAX)
            most, least = extremes[0].item(), -extremes[1].item()
            if most != least:
                raise ValueError(
                    f"one of the {self.world_size} processes finds {least} finished epochs "
                    f"in the folder of runs, another {most}: use a folder that all share"
                )

    def check_launcher(self) -> None:
        """Stop if torchrun was killed, because a restarted one needs these files.

        Raises:
            ChildProcessError: torchrun has ended.
        """
        if self.world_size > 1 and os.getppid() != self.launcher:
            raise ChildProcessError(
                "torchrun, which started this process, has ended: start it again"
            )

    def synchronise(self, network: nn.Module, batch_size: int) -> None:
        """Make a network's BatchNorm and dropout act on whole batches, in place."""
        batch_slice = self.batch_slice(batch_size)
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(module, name, SharedDropout(child.p, batch_size, batch_slice))
                elif isinstance(child, _BatchNorm):
                    setattr(module, name, shared_norm(child))

    def parallel(self, network: nn.Module, unused: bool) -> nn.Module:
        """The network as training calls it: each backward pass averages gradients.

        Args:
            unused: whether some parameters do not affect the logits.
        """
        return nn.parallel.DistributedDataParallel(network, find_unused_parameters=unused)


ALONE = DistributedContext()


def own_device(name: str) -> str:
    """`name`, or this process's own GPU if torchrun has started several processes.

    Raises:
        ValueError: several processes cannot share this device.
    """
    if not several():
        return name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise ValueError(
            f"{os.environ['WORLD_SIZE']} processes cannot use device {name!r}: choose one "
            "of auto, cpu, cuda; each process takes its own GPU"
        )
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" else name


def several() -> bool:
    """Whether torchrun has started several processes."""
    return dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


def reports() -> bool:
    """Whether this process is the one that reports, even outside of a context."""
    return not several() or os.environ["RANK"] == "0"


@contextmanager
def distributed_context(device: torch.device) -> Iterator[DistributedContext]:
    """This process among those that torchrun started; alone without torchrun."""
    if not several():
        yield ALONE
        return
    join = not dist.is_initialized()
    if join:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        own = device if device.type == "cuda" else None
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=own)
    yield DistributedContext(dist.get_rank(), dist.get_world_size())
    # Not after an error: others may still wait for this process until torchrun ends them.
    if join:
        dist.destroy_process_group()


class SharedDropout(nn.Dropout):
    """Dropout drawn for whole batches of `batch_size`; this process uses `batch_slice`."""

    def __init__(self, rate: float, batch_size: int, batch_slice: slice):
        super().__init__(rate)
        self.batch_size, self.batch_slice = batch_size, batch_slice

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        whole = torch.ones((self.batch_size, *x.shape[1:]), dtype=x.dtype, device=x.device)
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            whole = whole.contiguous(memory_format=torch.channels_last)  # same draw order
        return x * F.dropout(whole, self.p)[self.batch_slice]


def shared_norm(norm: _BatchNorm) -> _BatchNorm:
    """`norm` with the moments of all processes' images; torch's own needs GPUs."""
    if norm.weight.is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    shared = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum).to(norm.weight)
    shared.load_state_dict(norm.state_dict())
    return shared


class SharedBatchNorm(_BatchNorm):
    """BatchNorm by the mean and variance of all processes' images, on a CPU."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept (B, C) and (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1] + [1] * (x.dim() - 2)
        numbers = to_float32(x)
        count = AllReduceSum.apply(numbers.new_tensor(x.numel() / x.shape[1]))
        mean = AllReduceSum.apply(numbers.sum(axes)) / count
        centred = numbers - mean.view(shape)
        variance = AllReduceSum.apply(centred.square().sum(axes)) / count
        running_mean, running_var, seen = (
            self.running_mean,
            self.running_var,
            self.num_batches_tracked,
        )
        assert running_mean is not None and running_var is not None and seen is not None
        assert self.momentum is not None
        with torch.no_grad():
            seen += 1
            running_mean.lerp_(mean, self.momentum)
            unbiased = variance * count / (count - 1)
            running_var.lerp_(unbiased, self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


class AllReduceSum(torch.autograd.Function):
    """The sum over all processes. Its gradient is also a sum, because the loss is."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return AllReduceSum.forward(ctx, gradient)
