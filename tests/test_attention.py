"""The estimator against loops written from the paper's equations, and what must hold.

Guarded: the compatibility functions, the softmax, the weighted sum, the projection of the
query, and that in pc and mean the query counts for nothing, while in dp and tanh it
steers the map.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lpa_core.attention import (
    COMPATIBILITIES,
    Additive,
    AttentionEstimator,
    DotProduct,
    Parametrised,
    QueryProjection,
    Uniform,
)

quick = settings(max_examples=25, deadline=None)
names = st.sampled_from(sorted(COMPATIBILITIES))
seeds = st.integers(0, 2**16)
sides = st.integers(1, 4)


def build(name, channels, seed=0):
    torch.manual_seed(seed)
    return AttentionEstimator(channels, name)


def draw(seed, batch, channels, height, width):
    random = torch.Generator().manual_seed(seed)
    local = torch.randn(batch, channels, height, width, generator=random)
    return local, torch.randn(batch, channels, generator=random)


def by_loops(name, local, g, u, bias):
    """Equations 1 to 3, a number at a time: scores, attention and descriptor."""
    batch, channels, height, width = local.shape
    scores = np.zeros((batch, height, width))
    attention = np.zeros((batch, height, width))
    descriptor = np.zeros((batch, channels))
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    if name == "dp":
                        scores[b, y, x] += local[b, c, y, x] * g[b, c]
                    elif name == "pc":
                        scores[b, y, x] += u[c] * (local[b, c, y, x] + g[b, c])
                    elif name == "tanh":
                        scores[b, y, x] += u[c] * math.tanh(local[b, c, y, x] + g[b, c])
                if name in ("pc", "tanh"):
                    scores[b, y, x] += bias
        whole = sum(math.exp(c) for c in scores[b].ravel())
        for y in range(height):
            for x in range(width):
                attention[b, y, x] = math.exp(scores[b, y, x]) / whole
                for c in range(channels):
                    descriptor[b, c] += attention[b, y, x] * local[b, c, y, x]
    return scores, attention, descriptor


@quick
@given(names, seeds, st.integers(1, 3), st.integers(1, 5), sides, sides)
def test_estimator_is_the_equations(name, seed, batch, channels, height, width):
    estimator = build(name, channels, seed)
    local, g = draw(seed, batch, channels, height, width)
    u, bias = np.zeros(channels), 0.0
    if name in ("pc", "tanh"):
        u = estimator.score.u.weight.detach().double().numpy().ravel()
        bias = estimator.score.u.bias.item()
    expected = by_loops(name, local.double().numpy(), g.double().numpy(), u, bias)
    scores = estimator.scores(local, g)
    descriptor, attention = estimator(local, g)
    for found, wanted in zip((scores, attention, descriptor), expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-4, atol=1e-5)


# A 3x3 map of two channels, worked out by hand. The first channel counts 0 … 8, the
# second is 1 in the middle and 0 elsewhere.
BY_HAND = torch.stack([torch.arange(9.0).view(3, 3), torch.zeros(3, 3)])[None]
BY_HAND[0, 1, 1, 1] = 1


def test_dot_product_by_hand():
    """g = (0, ln 2): c = ln 2 in the middle, 0 elsewhere, so a = 2/10 and 1/10."""
    g = torch.tensor([[0.0, math.log(2)]])
    descriptor, attention = AttentionEstimator(2, "dp")(BY_HAND, g)
    wanted = torch.full((1, 3, 3), 0.1)
    wanted[0, 1, 1] = 0.2
    torch.testing.assert_close(attention, wanted)
    # Channel one: (0 + 1 + … + 8 + 4) / 10; channel two: 1 * 0.2.
    torch.testing.assert_close(descriptor, torch.tensor([[4.0, 0.2]]))


def test_parametrised_by_hand():
    """u = (0, ln 3), bias 5, g = (7, 11): c = 5 + 11 ln 3, and ln 3 more in the middle."""
    estimator = AttentionEstimator(2, "pc")
    with torch.no_grad():
        estimator.score.u.weight.copy_(torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1))
        estimator.score.u.bias.fill_(5)
    g = torch.tensor([[7.0, 11.0]])
    scores = torch.full((1, 3, 3), 5 + 11 * math.log(3))
    scores[0, 1, 1] += math.log(3)
    torch.testing.assert_close(estimator.scores(BY_HAND, g), scores)
    descriptor, attention = estimator(BY_HAND, g)
    wanted = torch.full((1, 3, 3), 1 / 11)
    wanted[0, 1, 1] = 3 / 11
    torch.testing.assert_close(attention, wanted)
    torch.testing.assert_close(descriptor, torch.tensor([[(36 + 2 * 4) / 11, 3 / 11]]))


def test_bounded_by_hand():
    """g = (7, -1/2): channel two's tanh is t = tanh(1/2) in the middle, -t elsewhere.

    With u = (0, ln 3 / 2t), the middle's score is ln 3 above the others.
    """
    estimator = AttentionEstimator(2, "tanh")
    with torch.no_grad():
        u = torch.tensor([0.0, math.log(3) / (2 * math.tanh(0.5))])
        estimator.score.u.weight.copy_(u.view(1, 2, 1, 1))
        estimator.score.u.bias.fill_(5)
    g = torch.tensor([[7.0, -0.5]])
    scores = torch.full((1, 3, 3), 5 - math.log(3) / 2)
    scores[0, 1, 1] += math.log(3)
    torch.testing.assert_close(estimator.scores(BY_HAND, g), scores)
    descriptor, attention = estimator(BY_HAND, g)
    wanted = torch.full((1, 3, 3), 1 / 11)
    wanted[0, 1, 1] = 3 / 11
    torch.testing.assert_close(attention, wanted)
    torch.testing.assert_close(descriptor, torch.tensor([[(36 + 2 * 4) / 11, 3 / 11]]))


def test_mean_by_hand():
    """0 + 1 + … + 8 over nine positions is 4; a single 1 is one ninth."""
    descriptor, attention = AttentionEstimator(2, "mean")(BY_HAND, torch.ones(1, 2))
    torch.testing.assert_close(attention, torch.full((1, 3, 3), 1 / 9))
    torch.testing.assert_close(descriptor, torch.tensor([[4.0, 1 / 9]]))


# ---------------------------------------------------------------------- properties


@quick
@given(names, seeds, sides, sides)
def test_maps_sum_to_one(name, seed, height, width):
    local, g = draw(seed, 3, 4, height, width)
    _, attention = build(name, 4, seed)(local, g)
    assert attention.shape == (3, height, width)
    assert (attention >= 0).all()
    torch.testing.assert_close(attention.sum(dim=(1, 2)), torch.ones(3))


@quick
@given(names, seeds, sides, sides)
def test_moving_the_positions_moves_the_map_alone(name, seed, height, width):
    local, g = draw(seed, 2, 5, height, width)
    estimator = build(name, 5, seed)
    descriptor, attention = estimator(local, g)
    order = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))
    moved = local.flatten(2)[:, :, order].view_as(local)
    descriptor_moved, attention_moved = estimator(moved, g)
    torch.testing.assert_close(
        attention_moved.flatten(1), attention.flatten(1)[:, order], rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(descriptor_moved, descriptor, rtol=1e-4, atol=1e-5)


@quick
@given(names, seeds)
def test_an_image_alone_gives_what_it_gives_in_a_batch(name, seed):
    local, g = draw(seed, 4, 3, 3, 2)
    estimator = build(name, 3, seed)
    together = estimator(local, g)
    for row in range(4):
        alone = estimator(local[row : row + 1], g[row : row + 1])
        for one, many in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], many[row], rtol=1e-4, atol=1e-6)


@quick
@given(names, seeds, st.floats(0.1, 30))
def test_descriptor_lies_among_the_local_features(name, seed, scale):
    """A convex combination: in no channel below the lowest or above the highest."""
    local, g = draw(seed, 2, 4, 3, 3)
    local = scale * local
    descriptor, _ = build(name, 4, seed)(local, g)
    flat, slack = local.flatten(2), 1e-4 * scale
    assert (descriptor >= flat.min(dim=2).values - slack).all()
    assert (descriptor <= flat.max(dim=2).values + slack).all()


# ------------------------------------------------------------- what the query can do


@quick
@given(seeds, st.floats(0, 10))
def test_in_pc_the_query_changes_nothing(seed, scale):
    local, g = draw(seed, 2, 6, 4, 4)
    other = scale * draw(seed + 1, 2, 6, 1, 1)[1]
    estimator = build("pc", 6, seed)
    for found, wanted in zip(estimator(local, other), estimator(local, g), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    # The scores do change, all of them by the same amount: <u, other - g>.
    shift = (estimator.scores(local, other) - estimator.scores(local, g)).flatten(1)
    torch.testing.assert_close(
        shift, shift.mean(dim=1, keepdim=True).expand_as(shift), rtol=1e-4, atol=1e-5
    )


@quick
@given(seeds, st.floats(0, 10))
def test_in_mean_neither_query_nor_features_make_a_map(seed, scale):
    local, g = draw(seed, 2, 6, 4, 5)
    descriptor, attention = build("mean", 6)(scale * local, scale * g)
    assert torch.equal(attention, torch.full((2, 4, 5), 1 / 20))
    torch.testing.assert_close(descriptor, scale * local.mean(dim=(2, 3)))


@quick
@given(st.sampled_from(["dp", "tanh"]), seeds)
def test_in_dp_and_tanh_the_query_steers_the_map(name, seed):
    local, g = draw(seed, 2, 6, 4, 4)
    other = draw(seed + 1, 2, 6, 1, 1)[1]
    _, with_own = build(name, 6, seed)(local, g)
    _, with_other = build(name, 6, seed)(local, other)
    assert (with_own - with_other).abs().max() > 1e-3


def gradients(name, seed):
    """Norms of the loss's gradient, to g and to the local features."""
    local, g = draw(seed, 2, 6, 4, 4)
    local.requires_grad_(), g.requires_grad_()
    descriptor, _ = build(name, 6, seed)(local, g)
    target = torch.randn(descriptor.shape, generator=torch.Generator().manual_seed(seed))
    (descriptor * target).sum().backward()
    return g.grad.norm().item(), local.grad.norm().item()


@quick
@given(seeds)
def test_in_pc_no_gradient_reaches_the_query(seed):
    to_g, to_local = gradients("pc", seed)
    assert to_g < 1e-6 * to_local


@quick
@given(st.sampled_from(["dp", "tanh"]), seeds)
def test_in_dp_and_tanh_a_gradient_reaches_the_query(name, seed):
    to_g, to_local = gradients(name, seed)
    assert to_g > 1e-2 * to_local


# -------------------------------------------------------------------------- parts


@pytest.mark.parametrize("kind", [DotProduct, Uniform])
def test_dot_product_and_mean_learn_nothing(kind):
    assert list(kind(7).parameters()) == []


@pytest.mark.parametrize("kind", [Parametrised, Additive])
def test_pc_and_tanh_learn_u_and_a_bias(kind):
    shapes = {name: tuple(p.shape) for name, p in kind(7).named_parameters()}
    assert shapes == {"u.weight": (1, 7, 1, 1), "u.bias": (1,)}


def test_parametrised_is_the_default():
    assert isinstance(AttentionEstimator(3).score, Parametrised)


def test_projection_is_norm_relu_dropout_linear():
    projection = QueryProjection(6, 4)
    kinds = [type(layer) for layer in projection]
    assert kinds == [nn.BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear]
    assert projection[2].p == 0.5
    norm, linear = projection[0], projection[3]
    with torch.no_grad():
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
        norm.weight.normal_(), norm.bias.normal_()
    g = torch.randn(5, 6)
    mean, variance = norm.running_mean.numpy(), norm.running_var.numpy()
    x = (g.numpy() - mean) / np.sqrt(variance + 1e-5)
    x = np.maximum(x * norm.weight.detach().numpy() + norm.bias.detach().numpy(), 0)
    x = x @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    with torch.no_grad():
        np.testing.assert_allclose(projection.eval()(g).numpy(), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "", "DP"])
def test_unknown_compatibility_is_named_with_those_there_are(name):
    allowed = f"compatibility {name!r}: choose one of dp, pc, tanh, mean"
    with pytest.raises(ValueError, match=allowed):
        AttentionEstimator(4, name)


@pytest.mark.parametrize("name", sorted(COMPATIBILITIES))
@pytest.mark.parametrize(("local_channels", "query_channels"), [(5, 4), (4, 5), (1, 1)])
def test_wrong_channels_are_named_with_those_wanted(name, local_channels, query_channels):
    local = torch.zeros(2, local_channels, 3, 3)
    wanted = f"of 4 channels; it got {local_channels} and {query_channels}"
    with pytest.raises(ValueError, match=wanted):
        AttentionEstimator(4, name)(local, torch.zeros(2, query_channels))
