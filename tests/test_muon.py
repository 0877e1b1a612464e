"""Muon in stacks makes the step of torch's own Muon, in whatever type it computes."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lpa_core import build_network
from lpa_core.training import build_recipe
from lpa_core.training.muon import StackedMuon, newton_schulz, stacks
from lpa_core.training.optim import Optimiser

SHAPES = [(8, 24), (8, 24), (24, 8), (8, 72), (16, 16), (40, 12)]
# Of the norm: torch computes in bfloat16, whose numbers have 8 bits.
NEAR = 0.03


def moved(build, steps=4, **options):
    """Matrices after some steps with gradients of a seed, one without a gradient."""
    draw = torch.Generator().manual_seed(1)
    matrices = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]
    start = [matrix.detach().clone() for matrix in matrices]
    optimiser = build(matrices, lr=0.02, momentum=0.95, weight_decay=0.1, **options)
    for _ in range(steps):
        for matrix in matrices[:-1]:
            matrix.grad = torch.randn(matrix.shape, generator=draw)
        optimiser.step()
    moves = [m.detach() - s for m, s in zip(matrices, start, strict=True)]
    return moves, optimiser, matrices


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padding", [0.0, 1e12])
def test_a_step_is_that_of_torch(dtype, padding):
    theirs, their_optimiser, their_matrices = moved(torch.optim.Muon)
    ours, optimiser, matrices = moved(StackedMuon, dtype=dtype, padding=padding)
    assert not ours[-1].any()  # without a gradient it stays, weight decay and all
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        assert (a - b).norm() < NEAR * b.norm()
    for mine, other in zip(matrices[:-1], their_matrices[:-1], strict=True):
        torch.testing.assert_close(  # before Newton-Schulz there is no bfloat16
            optimiser.state[mine]["momentum_buffer"],
            their_optimiser.state[other]["momentum_buffer"],
        )


def test_in_float32_the_formula_is_that_of_torch(monkeypatch):
    """Nothing but the rounding of bfloat16 is between them."""

    def in_float32(gradient, coefficients, steps, eps):
        a, b, c = coefficients
        x = gradient.T if len(gradient) > gradient.shape[1] else gradient
        x = x / x.norm().clamp(min=eps)
        for _ in range(steps):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.T if len(gradient) > gradient.shape[1] else x

    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", in_float32)
    theirs, *_ = moved(torch.optim.Muon)
    ours, *_ = moved(StackedMuon)
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_newton_schulz_sets_all_singular_values_to_about_one():
    matrices = torch.randn(3, 10, 40, generator=torch.Generator().manual_seed(0))
    matrices /= matrices.norm(dim=(1, 2), keepdim=True)
    found = newton_schulz(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    values = left.mT @ found @ right.mT
    diagonal = values.diagonal(dim1=1, dim2=2)
    assert (values - torch.diag_embed(diagonal)).abs().max() < 1e-4
    assert diagonal.min() > 0.6 and diagonal.max() < 1.3
    padded = newton_schulz(torch.nn.functional.pad(matrices, (0, 7)))
    torch.testing.assert_close(padded[..., :40], found)
    assert not padded[..., 40:].any()


def test_stacks_hold_matrices_of_one_shape_or_little_padding():
    matrices = [torch.empty(shape) for shape in SHAPES]
    assert {(*sorted(numbers), columns) for numbers, columns in stacks(matrices, 0)} == {
        (0, 1, 2, 24),
        (3, 72),
        (4, 16),
        (5, 40),
    }
    padded = {(*sorted(numbers), columns) for numbers, columns in stacks(matrices, 1e6)}
    assert padded == {(0, 1, 2, 3, 72), (4, 16), (5, 40)}


class Calls(TorchDispatchMode):
    """Counts the calls that compute something: on a GPU each launches a kernel or more."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        views = function.is_view or "view" in name
        self.count += name.startswith("aten.") and not views
        return function(*args, **(kwargs or {}))


@pytest.mark.usefixtures("muon_as_on_a_card")
def test_a_step_takes_few_calls():
    """Three a matrix (rounding gone, into its stack, out of it), fifteen products and a
    stack of zeros for each shape, and some that do not grow with the network."""
    network = build_network("vgg", num_classes=3, width=1 / 16)
    network = network.to(memory_format=torch.channels_last)
    optimiser = Optimiser(network, build_recipe("fast"))
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    factor = torch.ones((), dtype=torch.float64)
    optimiser.step(factor)
    with Calls() as calls:
        optimiser.step(factor)
    matrices = list(optimiser.matrices.values())
    shapes = stacks(matrices, 0)
    assert calls.count <= 3 * len(matrices) + 16 * len(shapes) + 25


@pytest.mark.parametrize(
    ("native", "kind"), [(True, torch.optim.Muon), (False, StackedMuon)]
)
def test_bfloat16_only_where_the_processor_has_it(monkeypatch, native, kind):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    network = build_network("vgg", num_classes=3, width=1 / 16)
    network = network.to(memory_format=torch.channels_last)
    assert type(Optimiser(network, build_recipe("fast")).muon) is kind
