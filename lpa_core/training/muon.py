"""Muon, with all matrices of one shape in one product.

Muon (Jordan et al. 2024) replaces the momentum of a weight matrix by the nearest matrix
whose singular values are all one, so that every direction of a filter bank is learned at
the same speed. `torch.optim.Muon` takes one matrix at a time, always in bfloat16. This one
takes them by shape, in the type that the hardware computes in. Both make the same step to
rounding, and their state has the same names.
"""

# Calls like torch.optim's own, which torch's type stubs do not list:
# pyright: reportPrivateImportUsage=false

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["StackedMuon", "newton_schulz"]

# A quintic whose slope at zero is as large as possible: Jordan et al. 2024.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS, EPS = 5, 1e-7


def newton_schulz(x: Tensor) -> Tensor:
    """The same singular vectors, with singular values of about one (0.7 to 1.2).

    Args:
        x: (n, rows, columns), with rows <= columns and singular values of at most one.

    Returns:
        (n, rows, columns). Columns of zeros stay zeros.
    """
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


class StackedMuon(torch.optim.Optimizer):
    """Muon with the formula of `torch.optim.Muon`: Nesterov momentum, decoupled decay.

    Args:
        params: matrices (rows, columns).
        lr: learning rate, a number or a tensor of one.
        weight_decay, momentum: as of `torch.optim.Muon`.
        dtype: the type of Newton-Schulz.
        padding: matrices with equally many rows share a stack, padded with columns of
            zeros, if that adds no more than so many floating point operations.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float | Tensor,
        weight_decay: float,
        momentum: float,
        dtype: torch.dtype = torch.float32,
        padding: float = 0.0,
    ):
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, defaults)
        self.dtype, self.padding = dtype, padding
        # 1 leaves a step out, 0 makes it; set by `Optimiser`, and read on the device.
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            if not moving:
                continue
            lr, momentum = group["lr"], group["momentum"]
            gradients = [p.grad for p in moving]
            for p in moving:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in moving]
            if self.found_inf is not None:
                pairs = zip(buffers, gradients, strict=True)
                gradients = [torch.where(self.found_inf > 0, b, g) for b, g in pairs]
                lr = lr * (1 - self.found_inf)
            torch._foreach_lerp_(buffers, gradients, 1 - momentum)
            updates = torch._foreach_lerp(gradients, buffers, momentum)
            # The Frobenius norm bounds the largest singular value. It is taken in the type
            # of the matrix, before anything can underflow in a shorter one.
            norms = torch.stack(torch._foreach_norm(updates)).clamp_(min=EPS).unbind()
            rate = torch.as_tensor(-lr)
            torch._foreach_mul_(moving, 1 - lr * group["weight_decay"])
            for indices, columns in stacks(moving, self.padding):
                shape = len(indices), min(moving[indices[0]].shape), columns
                stack = moving[0].new_zeros(shape, dtype=self.dtype)
                for slot, i in zip(stack, indices, strict=True):
                    torch.div(updates[i], norms[i], out=filled(slot, moving[i].shape))
                for slot, i in zip(newton_schulz(stack), indices, strict=True):
                    rows, own = moving[i].shape
                    # Tall matrices move further: of each, the columns move by `lr`.
                    further = math.sqrt(max(1.0, rows / own))
                    update = filled(slot, moving[i].shape)
                    moving[i].addcmul_(update, rate, value=further)
        return loss


def filled(slot: Tensor, shape: torch.Size) -> Tensor:
    """The part of a place in a stack that a matrix fills, transposed if it is tall."""
    rows, columns = shape
    return slot[:rows, :columns] if rows <= columns else slot[:columns, :rows].mT


def stacks(matrices: list[Tensor], padding: float) -> list[tuple[list[int], int]]:
    """Which matrices share a stack: their numbers, and how many columns it has.

    Args:
        padding: the most floating point operations that padding may add to a stack.
    """
    shapes = defaultdict(list)
    for number, matrix in enumerate(matrices):
        shapes[tuple(sorted(matrix.shape))].append(number)
    found: list[tuple[list[int], int]] = []
    rows_of_last, added = 0, 0.0
    for (rows, columns), indices in sorted(shapes.items(), reverse=True):
        # A step of Newton-Schulz has two products of rows * rows * columns.
        wider = found[-1][1] - columns if rows == rows_of_last else 0
        added += 4 * STEPS * rows * rows * wider * len(indices)
        if rows == rows_of_last and added <= padding:
            found[-1][0].extend(indices)
        else:
            found.append((list(indices), columns))
            rows_of_last, added = rows, 0.0
    return found
