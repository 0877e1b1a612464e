"""The two ways to step: stochastic gradient descent, and Muon on the filters.

Muon (Jordan et al. 2024) replaces the momentum of a weight matrix by the nearest matrix
whose singular values are all one, so that every direction of a filter bank is learned at
the same speed. It needs fewer epochs than plain gradient descent, which is what the
`fast` recipe is after; vectors and the classifier still go by gradient descent.
"""

import torch
from torch import Tensor, nn

from lpa_core.training.muon import StackedMuon
from lpa_core.training.recipes import Recipe

__all__ = ["Optimiser"]


class Optimiser:
    """Steps a network's parameters as a recipe says.

    Convolutions' weights (C_out, C_in, k, k) go to `torch.optim.Muon` as matrices
    (C_out, k * k * C_in) that share their memory, if the recipe has a `muon_lr`; all
    else goes to `torch.optim.SGD`. A CPU without bfloat16 instructions emulates Muon's
    products seventeen times slower than it computes them in float32: `StackedMuon` does.
    """

    # Below this share of its weights' norm a gradient is rounding alone (see the chapter
    # on the query: nothing after the last attended layer gets a gradient in pc networks).
    # Muon would blow it up to a full step, so that it counts as zero.
    ROUNDING = 1e-6

    def __init__(self, network: nn.Module, recipe: Recipe):
        named = dict(network.named_parameters())
        filters = {
            f"{name}.weight"
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d) and module.out_channels > 1
        }
        if recipe.muon_lr is None:
            filters = set()
        self.filters = {name: named[name] for name in named if name in filters}
        self.others = {name: named[name] for name in named if name not in filters}
        self.matrices = {
            name: nn.Parameter(as_matrix(weight.data))
            for name, weight in self.filters.items()
        }
        for name, matrix in self.matrices.items():
            if matrix.data_ptr() != self.filters[name].data_ptr():
                raise ValueError(f"{name} is not channels-last in memory")
        self.sgd = torch.optim.SGD(
            self.others.values(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            dampening=recipe.dampening or 0,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.lrs: list[tuple[torch.optim.Optimizer, float]] = [(self.sgd, recipe.lr)]
        self.muon = None
        if recipe.muon_lr is not None and self.matrices:
            device = next(network.parameters()).device
            emulated = device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported()
            build = StackedMuon if emulated else torch.optim.Muon
            self.muon = build(
                self.matrices.values(),
                lr=recipe.muon_lr,
                momentum=recipe.muon_momentum,
                weight_decay=recipe.muon_weight_decay,
            )
            self.lrs.append((self.muon, recipe.muon_lr))

    @torch.no_grad()
    def step(self, lr_factor: float) -> float:
        """One step at `lr_factor` times the recipe's rates; returns the rate of SGD."""
        for name, matrix in self.matrices.items():
            grad = self.filters[name].grad
            if grad is not None:  # without a branch on its norm, which a GPU would wait for
                grad = as_matrix(grad) * (grad.norm() > self.ROUNDING * matrix.norm())
            matrix.grad = grad
        for optimiser, lr in self.lrs:
            for group in optimiser.param_groups:
                group["lr"] = lr * lr_factor
            optimiser.step()
        return self.lrs[0][1] * lr_factor

    def reset_momentum(self) -> None:
        """Forget the momentum, as before the first step."""
        for optimiser, _ in self.lrs:
            optimiser.state.clear()

    def zero_grad(self) -> None:
        for parameter in (*self.filters.values(), *self.others.values()):
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Momentum of each parameter, by name; of those that have moved yet."""
        return {
            name: state["momentum_buffer"]
            for name, state in self.states().items()
            if state.get("momentum_buffer") is not None
        }

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        parameters = self.others | self.matrices
        for name, state in self.states().items():
            if name in state_dict:
                buffer = torch.empty_like(parameters[name])
                state["momentum_buffer"] = buffer.copy_(state_dict[name])

    def states(self) -> dict[str, dict]:
        found = {name: self.sgd.state[p] for name, p in self.others.items()}
        if self.muon:
            found |= {name: self.muon.state[p] for name, p in self.matrices.items()}
        return found


def as_matrix(weight: Tensor) -> Tensor:
    """(C_out, C_in, k, k) as (C_out, k * k * C_in); a view where it is channels-last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
