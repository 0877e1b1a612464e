"""The residual networks against a NumPy computation of section A.2, from their numbers."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

from lpa_core import build_network
from lpa_core.networks.resnet import AttentionResNet, ResNet

WIDTH = 1 / 8


def randomised(network):
    """None of whose numbers is the 0 or 1 it starts with."""
    with torch.no_grad():
        for name, tensor in network.double().eval().state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 1.5)
            elif "running_mean" in name or name.endswith("bias"):
                tensor.normal_(std=0.3)
            elif tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5)
    return network


class ByHand:
    """A network of one block a stage, in NumPy."""

    def __init__(self, network):
        self.numbers = {k: v.numpy() for k, v in network.state_dict().items()}

    def norm(self, x, name):
        mean, variance, weight, bias = (
            self.numbers[f"{name}.{part}"].reshape(-1, *[1] * (x.ndim - 2))
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias

    def active(self, x, name):
        return np.maximum(self.norm(x, name), 0)

    def convolution(self, x, name, stride=1):
        weight = self.numbers[f"{name}.weight"]
        pad = weight.shape[2] // 2
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        patches = sliding_window_view(x, weight.shape[2:], axis=(2, 3))
        patches = patches[:, :, ::stride, ::stride]
        x = np.einsum("bchwyx,dcyx->bdhw", patches, weight, optimize=True)
        bias = self.numbers.get(f"{name}.bias")
        return x if bias is None else x + bias[:, None, None]

    def linear(self, x, name):
        return x @ self.numbers[f"{name}.weight"].T + self.numbers[f"{name}.bias"]

    def trunk(self, x):
        x = self.convolution(x, "trunk.stem")
        stages = {}
        for stage, stride in (("stage1", 1), ("stage2", 2), ("stage3", 2)):
            block = f"trunk.{stage}.0"
            first = self.active(x, f"{block}.first.0")
            y = self.convolution(first, f"{block}.branch.0")
            y = self.active(y, f"{block}.branch.1")
            y = self.convolution(y, f"{block}.branch.3", stride)
            y = self.active(y, f"{block}.branch.4")
            y = self.convolution(y, f"{block}.branch.6")
            x = stages[stage] = y + self.convolution(first, f"{block}.shortcut", stride)
        return x, stages

    def plain(self, images):
        x, _ = self.trunk(images)
        features = self.active(x, "hidden.0").mean(axis=(2, 3))
        return self.linear(features, "classifier"), {}

    def attention(self, images):
        x, stages = self.trunk(images)
        b, c, h, w = x.shape
        x = self.active(x, "end.norm").reshape(b, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))
        x = self.active(self.convolution(x, "end.conv"), "end.conv_norm")
        g = self.linear(x.max(axis=(2, 3)), "end.linear")
        maps, features = {}, []
        for stage in ("stage2", "stage3"):
            name = f"head.estimators.{stage}.score.u"
            if f"{name}.weight" not in self.numbers:
                continue
            local, query = stages[stage], g
            if local.shape[1] != g.shape[1]:
                projection = f"head.projections.{local.shape[1]}"
                query = self.linear(self.active(g, f"{projection}.0"), f"{projection}.3")
            u = self.numbers[f"{name}.weight"][0]
            scores = ((local + query[:, :, None, None]) * u).sum(axis=1)
            a = np.exp(scores - scores.max(axis=(1, 2), keepdims=True))
            maps[stage] = a / a.sum(axis=(1, 2), keepdims=True)
            descriptor = (local * maps[stage][:, None]).sum(axis=(2, 3))
            features.append(self.active(descriptor, f"head.prepare.{stage}.0"))
        features = np.concatenate(features, axis=1)
        return self.linear(features, "head.classifiers.concat"), maps


@pytest.mark.parametrize("levels", [None, 1, 2])
def test_residual_networks_are_the_specifications(levels):
    if levels is None:
        network = randomised(ResNet(num_classes=5, width=WIDTH, depth=11))
    else:
        network = randomised(
            AttentionResNet(num_classes=5, width=WIDTH, depth=11, levels=levels)
        )
    images = torch.randn(2, 3, 32, 32)
    compute = ByHand(network).plain if levels is None else ByHand(network).attention
    logits, maps = compute(images.double().numpy())
    with torch.no_grad():
        seen = network.attend(images.double())
    np.testing.assert_allclose(seen.logits.numpy(), logits, rtol=1e-8, atol=1e-10)
    assert list(seen.maps) == list(maps)
    for stage, wanted in maps.items():
        np.testing.assert_allclose(seen.maps[stage].numpy(), wanted, rtol=1e-8)
    shapes = {"stage2": (2, 16, 16), "stage3": (2, 8, 8)}
    assert {s: tuple(m.shape) for s, m in seen.maps.items()} == {s: shapes[s] for s in maps}


def test_the_attended_features_are_left_as_they_are():
    """The activation behind a stage must not write over what the estimator reads."""
    network = randomised(AttentionResNet(num_classes=5, width=WIDTH, depth=11, levels=1))
    images = torch.randn(2, 3, 32, 32).double()
    with torch.no_grad():
        local = network.trunk(images)
        seen = network.attend(images)
    assert local.min() < 0  # raw outputs, not rectified
    wanted = torch.einsum("bhw,bchw->bc", seen.maps["stage3"], local)
    torch.testing.assert_close(seen.descriptors["stage3"], wanted)


@pytest.mark.parametrize("name", ["rn20", "rn20-att", "rn20-att2"])
def test_smaller_images_go_through(name):
    """The first size of the fast recipe."""
    network = build_network(name, num_classes=10, width=WIDTH)
    assert network(torch.randn(2, 3, 20, 20)).shape == (2, 10)


def test_dropout_has_the_authors_rates_or_one_before_the_classifier():
    def rates(network):
        return [m.p for m in network.modules() if isinstance(m, nn.Dropout) and m.p]

    assert rates(build_network("rn20", 10)) == []
    # In the global branch twice, in the projection, before the classifier twice.
    assert rates(build_network("rn20-att2", 10)) == [0.4, 0.5, 0.5, 0.3, 0.3]
    assert rates(build_network("rn20", 10, dropout=0.2)) == [0.2]
    assert rates(build_network("rn20-att2", 10, dropout=0.2)) == [0.2, 0.2]


@pytest.mark.parametrize("name", ["rn164", "rn164-att2"])
def test_other_image_sizes_are_refused(name):
    with pytest.raises(ValueError, match="image_size 80: the residual networks take 32"):
        build_network(name, num_classes=10, image_size=80)


@pytest.mark.parametrize("depth", [2, 3, 21, 163])
def test_a_depth_that_cannot_be_is_refused(depth):
    with pytest.raises(ValueError, match=rf"depth {depth}: give 9 n \+ 2"):
        ResNet(num_classes=10, depth=depth)
