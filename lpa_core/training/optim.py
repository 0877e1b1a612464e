"""The two ways to step: stochastic gradient descent, and Muon on the filters.

Muon (Jordan et al. 2024) replaces the momentum of a weight matrix by the nearest matrix
whose singular values are all one, so that every direction of a filter bank is learned at
the same speed. It needs fewer epochs than plain gradient descent, which is what the
`fast` recipe is after; vectors and the classifier still go by gradient descent.
"""

# Calls like torch.optim's own, which torch's type stubs do not list:
# pyright: reportPrivateImportUsage=false

import torch
from torch import Tensor, nn

from lpa_core.training.muon import StackedMuon
from lpa_core.training.precision import newton_schulz_type
from lpa_core.training.recipes import Recipe

__all__ = ["Optimiser"]

# Floating point operations that a GPU does in the time of launching a product of its own:
# matrices are padded with as many, rather than multiplied one by one.
PADDING = 5e9
SCALER = "grad_scaler"  # in the state: its scale, and how long that has held


class Optimiser:
    """Steps a network's parameters as a recipe says.

    Convolutions' weights (C_out, C_in, k, k) go to Muon as matrices (C_out, k * k * C_in)
    that share their memory, if the recipe has a `muon_lr`; all else goes to
    `torch.optim.SGD`. In float16 gradients are scaled, and a step whose gradients are not
    finite is left out, without a wait for the device.
    """

    # Below this share of its weights' norm a gradient is rounding alone (see the chapter
    # on the query: nothing after the last attended layer gets a gradient in pc networks).
    # Muon would blow it up to a full step, so that it counts as zero.
    ROUNDING = 1e-6

    def __init__(self, network: nn.Module, recipe: Recipe, precision: str = "float32"):
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
        device = next(iter(named.values())).device
        loss_scaling = precision == "float16"
        self.muon = None
        if recipe.muon_lr is not None and self.matrices:
            self.muon = build_muon(
                list(self.matrices.values()), recipe, device, loss_scaling
            )
            self.lrs.append((self.muon, recipe.muon_lr))
        # What a GradScaler asks of an optimiser that leaves steps out by itself.
        self.scaler = torch.amp.GradScaler(device.type, enabled=loss_scaling)
        self.param_groups = [{"params": list(named.values())}]
        self._step_supports_amp_scaling = True
        self.starts_at_zero = loss_scaling and bool(recipe.momentum)
        self.begin_momentum()

    def begin_momentum(self) -> None:
        """In float16 the first step may be left out, and must not make any momentum."""
        if self.starts_at_zero:
            for parameter in self.others.values():
                self.sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, scaled where the precision asks for it."""
        self.zero_grad()
        self.scaler.scale(loss).backward()

    def update(self, lr_factor: float | Tensor) -> None:
        """A step with the gradients of `backward`, left out if they are not finite."""
        self.scaler.unscale_(self)  # pyright: ignore[reportArgumentType]
        self.scaler.step(self, lr_factor)  # pyright: ignore[reportArgumentType]
        self.scaler.update()

    @torch.no_grad()
    def step(self, lr_factor: float | Tensor) -> float | Tensor:
        """One step at `lr_factor` times the recipe's rates; returns the rate of SGD."""
        moving = []
        for name, matrix in self.matrices.items():
            grad = self.filters[name].grad
            matrix.grad = None if grad is None else as_matrix(grad)
            if grad is not None:
                moving.append(matrix)
        if moving:  # without a branch on a norm, which a GPU would wait for
            norms = torch.stack(torch._foreach_norm([m.grad for m in moving]))
            own = torch.stack(torch._foreach_norm(moving))
            for m, kept in zip(moving, norms > self.ROUNDING * own, strict=True):
                m.grad = m.grad * kept
        found_inf = getattr(self, "found_inf", None)  # set by the scaler
        for optimiser, lr in self.lrs:
            for group in optimiser.param_groups:
                group["lr"] = lr * lr_factor
            setattr(optimiser, "found_inf", found_inf)  # noqa: B010, as GradScaler does
            optimiser.step()
        return self.lrs[0][1] * lr_factor

    def reset_momentum(self) -> None:
        """Forget the momentum, as before the first step."""
        for optimiser, _ in self.lrs:
            optimiser.state.clear()
        self.begin_momentum()

    def forget_step(self) -> None:
        """After a step that broke off: the next one is a whole one."""
        if self.scaler.is_enabled():
            self.scaler._per_optimizer_states.clear()

    def zero_grad(self) -> None:
        for parameter in (*self.filters.values(), *self.others.values()):
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Momentum of each parameter, by name, of those that have moved yet; and the
        scale, in float16."""
        found = {
            name: state["momentum_buffer"]
            for name, state in self.states().items()
            if state.get("momentum_buffer") is not None
        }
        if self.scaler.is_enabled():
            state = self.scaler.state_dict()
            found[SCALER] = torch.tensor([state["scale"], state["_growth_tracker"]])
        return found

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave; of another precision too."""
        parameters = self.others | self.matrices
        for name, state in self.states().items():
            if name in state_dict:
                buffer = torch.empty_like(parameters[name])
                state["momentum_buffer"] = buffer.copy_(state_dict[name])
        if self.scaler.is_enabled() and SCALER in state_dict:
            scale, growth = state_dict[SCALER].tolist()
            state = self.scaler.state_dict()
            self.scaler.load_state_dict(
                state | {"scale": scale, "_growth_tracker": int(growth)}
            )

    def states(self) -> dict[str, dict]:
        found = {name: self.sgd.state[p] for name, p in self.others.items()}
        if self.muon:
            found |= {name: self.muon.state[p] for name, p in self.matrices.items()}
        return found


def build_muon(
    matrices: list[nn.Parameter], recipe: Recipe, device: torch.device, loss_scaling: bool
) -> torch.optim.Optimizer:
    """torch's own on a CPU with bfloat16, else `StackedMuon` in the device's type.

    A CPU without bfloat16 emulates torch's products, seventeen times slower than it
    computes them in float32; a GPU gets them in few launches.
    """
    assert recipe.muon_lr is not None
    dtype = newton_schulz_type(device)
    if device.type == "cpu" and dtype == torch.bfloat16 and not loss_scaling:
        return torch.optim.Muon(
            matrices,
            lr=recipe.muon_lr,
            momentum=recipe.muon_momentum,
            weight_decay=recipe.muon_weight_decay,
        )
    return StackedMuon(
        matrices,
        lr=recipe.muon_lr,
        momentum=recipe.muon_momentum,
        weight_decay=recipe.muon_weight_decay,
        dtype=dtype,
        padding=PADDING if device.type == "cuda" else 0.0,
    )


def as_matrix(weight: Tensor) -> Tensor:
    """(C_out, C_in, k, k) as (C_out, k * k * C_in); a view where it is channels-last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
