"""The query's branch under pc and mean: no gradient reaches it, and nothing needs it.

Guarded: that a pruned network gives what it gave, to the last digits of double precision;
that the branch is dead in training where the book says so, and alive where it is not;
that a network whose maps depend on g is not pruned.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lpa_core import build_network, list_networks
from lpa_core.networks import attach
from lpa_core.networks.cost import count_parameters, multiply_adds
from lpa_core.networks.prune import drop_query_branch

WIDTH = 1 / 16
NAMES = list_networks()
BLIND = [
    name
    for name in NAMES
    if name.endswith("-pc") or "-mean" in name or (name[:2] == "rn" and "-att" in name)
]
SEEING = [name for name in NAMES if name.endswith(("-dp", "-tanh"))]
PLAIN = ["vgg", "vgg-gap", "vgg-gap-coarse", "vgg-hires", "rn164", "rn20"]


def randomised(name):
    """A tiny network in double precision none of whose numbers is where it starts."""
    network = build_network(name, num_classes=5, width=WIDTH).double().eval()
    with torch.no_grad():
        for tensor_name, tensor in network.state_dict().items():
            if "running_var" in tensor_name:
                tensor.uniform_(0.5, 1.5)
            elif "running_mean" in tensor_name or tensor_name.endswith("bias"):
                tensor.normal_(std=0.3)
            elif tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5)
    return network


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, dtype=torch.float64)


def test_every_network_is_in_one_of_the_lists():
    assert sorted([*BLIND, *SEEING, *PLAIN, "vgg-pan"]) == sorted(NAMES)


# ------------------------------------------------------------------------- pruning


@pytest.mark.parametrize("name", BLIND)
def test_a_pruned_network_gives_what_it_gave(name, images):
    network = randomised(name)
    before = copy.deepcopy(network.state_dict())
    pruned = drop_query_branch(network)
    with torch.no_grad():
        own, found = network.attend(images), pruned.attend(images)
    assert own.query.norm() > 0  # there was a query to do without
    assert found.query.shape == own.query.shape
    torch.testing.assert_close(found.logits, own.logits, rtol=0, atol=1e-12)
    assert list(found.maps) == list(own.maps)
    for layer, attention in own.maps.items():
        torch.testing.assert_close(found.maps[layer], attention, rtol=0, atol=1e-12)
        assert "mean" in name or attention.std() > 1e-6  # even maps would prove little
    assert type(pruned) is type(network)
    assert not pruned.training
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("name", BLIND)
def test_what_is_saved_is_the_branch_and_the_projections(name):
    network = build_network(name, num_classes=5, width=WIDTH)
    pruned = drop_query_branch(network)
    branch = [*network.end.parameters(), *network.head.projections.parameters()]
    saved = sum(parameter.numel() for parameter in branch)
    assert saved > 0
    assert count_parameters(network) - count_parameters(pruned) == saved
    # At least the 3x3 convolution at 4x4 positions, and the layer that gives g.
    channels = network.end[-1].out_features
    least = 9 * channels * channels * 16 + channels * channels
    assert multiply_adds(network) - multiply_adds(pruned) >= least
    left = {key.split(".")[0] for key in pruned.state_dict()}
    assert left == {"trunk", "head"}
    assert not any("projections" in key for key in pruned.state_dict())


def test_a_pruned_network_still_takes_a_query_and_shares_nothing(images):
    network = randomised("vgg-att3-concat-pc")
    pruned = drop_query_branch(network)
    with torch.no_grad():
        own = network.attend(images)
        steered = pruned.attend(images, query=own.query)
        torch.testing.assert_close(steered.logits, own.logits, rtol=0, atol=1e-12)
        for parameter in pruned.parameters():
            parameter.zero_()
        assert torch.equal(network.attend(images).logits, own.logits)


def test_a_pruned_network_can_be_trained_further(images):
    network = drop_query_branch(randomised("vgg-att3-indep-pc")).train()
    F.cross_entropy(network(images), torch.arange(4)).backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("name", [*SEEING, "vgg-pan"])
def test_a_network_that_needs_its_query_is_refused(name):
    network = build_network(name, num_classes=5, width=WIDTH)
    with pytest.raises(ValueError, match=r"depend on its query.* only pc and has no gates"):
        drop_query_branch(network)


@pytest.mark.parametrize("name", PLAIN)
def test_a_network_without_such_a_branch_is_refused(name):
    network = build_network(name, num_classes=5, width=WIDTH)
    with pytest.raises(ValueError, match=r"no branch that computes a query: give an att"):
        drop_query_branch(network)


@pytest.mark.parametrize("compatibility", ["dp", "pc"])
def test_an_attached_network_is_refused(compatibility):
    """Nothing says which part of somebody's backbone is the query's branch."""
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    network = attach(
        backbone, ["0"], num_classes=5, image_size=8, compatibility=compatibility
    )
    with pytest.raises(ValueError, match="no branch that computes a query"):
        drop_query_branch(network)


def test_one_level_that_sees_its_query_is_enough_to_refuse():
    network = build_network("vgg-att2-concat-pc", num_classes=5, width=WIDTH)
    other = build_network("vgg-att2-concat-dp", num_classes=5, width=WIDTH)
    network.head.estimators["layer10"] = other.head.estimators["layer10"]
    with pytest.raises(ValueError, match="depend on its query"):
        drop_query_branch(network)


# ----------------------------------------------------------------- the dead branch


def shares(name, images):
    """Gradient of the loss in each part, relative to the trunk's."""
    network = randomised(name).train()
    F.cross_entropy(network(images), torch.arange(4)).backward()
    parts = {
        "trunk": network.trunk,
        "end": network.end,
        "early_end": getattr(network, "early_end", nn.Identity()),
        "projections": getattr(network.head, "projections", nn.Identity()),
    }
    norms = {
        part: sum(
            0 if p.grad is None else p.grad.square().sum().item()
            for p in module.parameters()
        ) ** 0.5
        for part, module in parts.items()
    }  # fmt: skip
    assert norms["trunk"] > 1e-3
    return {part: norm / norms["trunk"] for part, norm in norms.items()}


@pytest.mark.parametrize("name", BLIND)
def test_no_gradient_reaches_the_query(name, images):
    share = shares(name, images)
    assert share["end"] < 1e-12
    assert share["projections"] < 1e-12


@pytest.mark.parametrize("name", SEEING)
def test_gradient_reaches_a_query_that_counts(name, images):
    share = shares(name, images)
    assert share["end"] > 1e-4
    if "att3" in name:  # the only ones whose layers have other channels than g
        assert share["projections"] > 1e-4


def test_pans_early_query_counts_and_its_late_one_does_not(images):
    share = shares("vgg-pan", images)
    assert share["early_end"] > 1e-4
    assert share["end"] < 1e-12
