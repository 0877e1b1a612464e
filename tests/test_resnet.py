"""The residual networks against a NumPy computation of section A.2, from their numbers."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

from lpa_core import build_network
from lpa_core.networks.base import to_channels_last
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
    """A residual network in NumPy."""

    def __init__(self, network, blocks):
        self.blocks = blocks
        self.numbers = {k: v.numpy() for k, v in network.state_dict().items()}

    def norm(self, x, name):
        eps = 1e-3 if name == "end.conv_norm" else 1e-5  # as the scripts have it
        mean, variance, weight, bias = (
            self.numbers[f"{name}.{part}"].reshape(-1, *[1] * (x.ndim - 2))
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(variance + eps) * weight + bias

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
            for number in range(self.blocks):
                x = self.block(x, f"trunk.{stage}.{number}", 1 if number else stride)
            stages[stage] = x
        return x, stages

    def block(self, x, name, stride):
        """The first block of a stage changes the channels; the others add their input."""
        first = self.active(x, f"{name}.first.0")
        y = self.convolution(first, f"{name}.branch.0", stride)
        y = self.active(y, f"{name}.branch.1")
        y = self.convolution(y, f"{name}.branch.3")
        y = self.active(y, f"{name}.branch.4")
        y = self.convolution(y, f"{name}.branch.6")
        if name.endswith(".0"):
            return y + self.convolution(first, f"{name}.shortcut", stride)
        return y + x

    def plain(self, images):
        x, _ = self.trunk(images)
        features = self.active(x, "hidden.0").mean(axis=(2, 3))
        logits = self.linear(features, "classifier")
        return {"query": features, "features": features, "logits": logits}

    def global_feature(self, x):
        x = self.active(x, "end.norm")
        odd = x.shape[2] % 2  # the last row and column are pooled by themselves
        x = np.pad(x, ((0, 0), (0, 0), (0, odd), (0, odd)), constant_values=-np.inf)
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))
        x = self.active(self.convolution(x, "end.conv"), "end.conv_norm")
        return self.linear(x.max(axis=(2, 3)), "end.linear")

    def attention(self, images, attended, query=None):
        x, stages = self.trunk(images)
        g = self.global_feature(x) if query is None else query
        seen = {"query": g, "maps": {}, "scores": {}, "descriptors": {}}
        features = []
        for stage in attended:
            local, own = stages[stage], g
            if local.shape[1] != g.shape[1]:
                projection = f"head.projections.{local.shape[1]}"
                own = self.linear(self.active(g, f"{projection}.0"), f"{projection}.3")
            u = self.numbers[f"head.estimators.{stage}.score.u.weight"][0]
            scores = ((local + own[:, :, None, None]) * u).sum(axis=1)
            scores = scores + self.numbers[f"head.estimators.{stage}.score.u.bias"]
            a = np.exp(scores - scores.max(axis=(1, 2), keepdims=True))
            a = a / a.sum(axis=(1, 2), keepdims=True)
            descriptor = (local * a[:, None]).sum(axis=(2, 3))
            seen["scores"][stage], seen["maps"][stage] = scores, a
            seen["descriptors"][stage] = descriptor
            features.append(self.active(descriptor, f"head.prepare.{stage}.0"))
        seen["features"] = np.concatenate(features, axis=1)
        seen["logits"] = self.linear(seen["features"], "head.classifiers.concat")
        return seen


def compare(seen, expected):
    for field, wanted in expected.items():
        found = getattr(seen, field)
        pairs = wanted if isinstance(wanted, dict) else {field: wanted}
        found = found if isinstance(found, dict) else {field: found}
        assert list(found) == list(pairs)
        for key, numbers in pairs.items():
            np.testing.assert_allclose(
                found[key].numpy(), numbers, rtol=1e-8, atol=1e-10, err_msg=f"{field} {key}"
            )


ATTENDED = {1: ["stage3"], 2: ["stage2", "stage3"]}


# With 20 layers each stage has a second block, which adds its input as it is.
@pytest.mark.parametrize("depth", [11, 20])
@pytest.mark.parametrize("size", [32, 20])
def test_the_residual_network_is_the_specifications(depth, size):
    network = randomised(ResNet(num_classes=5, width=WIDTH, depth=depth))
    images = torch.randn(2, 3, size, size).double()
    with torch.no_grad():
        seen = network.attend(images)
    compare(seen, ByHand(network, blocks=depth // 9).plain(images.numpy()))
    assert (seen.maps, seen.scores, seen.descriptors) == ({}, {}, {})


@pytest.mark.parametrize("depth", [11, 20])
@pytest.mark.parametrize("size", [32, 20])
@pytest.mark.parametrize("levels", [1, 2])
def test_attention_in_residual_networks_is_the_specifications(depth, size, levels):
    network = randomised(
        AttentionResNet(num_classes=5, width=WIDTH, depth=depth, levels=levels)
    )
    images = torch.randn(2, 3, size, size).double()
    with torch.no_grad():
        seen = network.attend(images)
    by_hand = ByHand(network, blocks=depth // 9)
    compare(seen, by_hand.attention(images.numpy(), ATTENDED[levels]))
    sides = {"stage2": size // 2, "stage3": size // 4}
    for stage, attention_map in seen.maps.items():
        assert attention_map.shape == (2, sides[stage], sides[stage])
        assert seen.scores[stage].std(dim=(1, 2)).min() > 0.01  # neither flat nor one-hot


def test_a_query_takes_the_place_of_g_and_in_pc_changes_no_map():
    network = randomised(AttentionResNet(num_classes=5, width=WIDTH, depth=11, levels=2))
    images, query = torch.randn(2, 3, 32, 32).double(), torch.randn(2, 32).double()
    with torch.no_grad():
        own, seen = network.attend(images), network.attend(images, query=query)
    expected = ByHand(network, blocks=1).attention(
        images.numpy(), ATTENDED[2], query.numpy()
    )
    compare(seen, expected)
    torch.testing.assert_close(seen.logits, own.logits)
    with pytest.raises(ValueError, match=r"have shape \(2, 32\); got \(2, 31\)"):
        network.attend(images, query=query[:, :31])


def test_the_residual_network_takes_no_query():
    network = ResNet(num_classes=5, width=WIDTH, depth=11)
    with pytest.raises(ValueError, match="no attention, so it takes no query"):
        network.attend(torch.randn(1, 3, 32, 32), query=torch.zeros(1, 32))


def test_convolutions_start_with_a_variance_by_their_outputs():
    network = AttentionResNet(num_classes=5, width=0.5, depth=11, levels=2)
    found = {
        name: m
        for name, m in network.named_modules()
        if isinstance(m, nn.Conv2d) and "score" not in name
    }
    assert len(found) == 1 + 3 * 4 + 1
    for name, convolution in found.items():
        weight = convolution.weight
        size = convolution.kernel_size[0]
        wanted = (2 / (size * size * convolution.out_channels)) ** 0.5
        slack = 5 / (2 * weight.numel()) ** 0.5
        assert weight.std().item() == pytest.approx(wanted, rel=slack)
        if name == "end.conv":  # the only one with a bias
            assert (convolution.bias == 0).all()
        else:
            assert convolution.bias is None


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


def test_a_network_of_single_channels_trains_in_a_process_that_lives():
    """In channels-last order the backward pass of such a bottleneck ended the process."""
    code = (
        "import torch; from lpa_core import build_network\n"
        "from lpa_core.networks.base import to_channels_last\n"
        "network = to_channels_last(build_network('rn20', num_classes=2, width=1 / 16))\n"
        "images = torch.randn(8, 3, 32, 32).to(memory_format=torch.channels_last)\n"
        "network(images).sum().backward()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wide = to_channels_last(build_network("vgg-att-pc", num_classes=2, width=1 / 32))
    weight = wide.trunk.layer1.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
