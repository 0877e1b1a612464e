"""The two ways to step: stochastic gradient descent, and Muon on the filters.

Muon (Jordan et al. 2024) replaces the momentum of a weight matrix by the nearest matrix
whose singular values are all one, so that every direction of a filter bank is learned at
the same speed. It needs fewer epochs than plain gradient descent, which is what the
`fast` recipe is after; vectors and the classifier still go by gradient descent.
"""

import torch
from torch import Tensor, nn

from lpa_core.training.recipes import Recipe

__all__ = ["Optimiser"]


class Optimiser:
    """Steps a network's parameters as a recipe says.

    Convolutions' weights (C_out, C_in, k, k) go to `torch.optim.Muon` as matrices
    (C_out, k * k * C_in) that share their memory, if the recipe has a `filter_rate`; all
    else goes to `torch.optim.SGD`.
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
        if recipe.filter_rate is None:
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
            lr=recipe.rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.rates = [(self.sgd, recipe.rate)]
        self.muon = None
        if self.matrices:
            self.muon = torch.optim.Muon(
                self.matrices.values(),
                lr=recipe.filter_rate,
                momentum=recipe.filter_momentum,
                weight_decay=recipe.filter_weight_decay,
            )
            self.rates.append((self.muon, recipe.filter_rate))

    @torch.no_grad()
    def step(self, share: float) -> float:
        """One step at `share` of the recipe's rates; returns the rate of SGD."""
        for name, matrix in self.matrices.items():
            grad = self.filters[name].grad
            if grad is not None:  # without a branch on its norm, which a GPU would wait for
                grad = as_matrix(grad) * (grad.norm() > self.ROUNDING * matrix.norm())
            matrix.grad = grad
        for optimiser, rate in self.rates:
            for group in optimiser.param_groups:
                group["lr"] = rate * share
            optimiser.step()
        return self.rates[0][1] * share

    def zero_grad(self) -> None:
        for parameter in (*self.filters.values(), *self.others.values()):
            parameter.grad = None

    def momenta(self) -> dict[str, Tensor]:
        """Momentum of each parameter, by name; of those that have moved yet."""
        return {
            name: state["momentum_buffer"]
            for name, state in self.states().items()
            if state.get("momentum_buffer") is not None
        }

    def put_back(self, momenta: dict[str, Tensor]) -> None:
        """Take the momenta that `momenta` gave."""
        parameters = self.others | self.matrices
        for name, state in self.states().items():
            if name in momenta:
                buffer = torch.empty_like(parameters[name])
                state["momentum_buffer"] = buffer.copy_(momenta[name])

    def states(self) -> dict[str, dict]:
        found = {name: self.sgd.state[p] for name, p in self.others.items()}
        if self.muon:
            found |= {name: self.muon.state[p] for name, p in self.matrices.items()}
        return found


def as_matrix(weight: Tensor) -> Tensor:
    """(C_out, C_in, k, k) as (C_out, k * k * C_in); a view where it is channels-last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
