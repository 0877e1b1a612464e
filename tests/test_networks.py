"""Networks against a second computation of them, in NumPy and by the paper's layer lists.

Guarded: everything that `attend` returns, the replaceable query, the number of parameters
and multiply-adds, the maps' sizes, the initialisation, and what is said of wrong input.
"""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lpa_core import build_network, list_networks
from lpa_core.networks.cost import count_parameters, layer_table, multiply_adds
from lpa_core.networks.vgg import shifted

WIDTH = 1 / 16
LEVELS = {
    "vgg-att": [13],
    "vgg-att2": [10, 13],
    "vgg-att3": [7, 10, 13],
    "vgg-mean2": [10, 13],
    "vgg-mean3": [7, 10, 13],
}
ATTENTION = [name for name in list_networks() if name.startswith(tuple(LEVELS))]


def split(name):
    """A network's attended layers, whether it is `indep`, and its compatibility."""
    parts = name.split("-")
    compatibility = "mean" if "mean" in name else parts[-1]
    return LEVELS["-".join(parts[:2])], "indep" in parts, compatibility


def randomised(name, **changes):
    """A tiny network none of whose numbers is the 0 or 1 it starts with."""
    network = build_network(name, num_classes=5, width=WIDTH, **changes).eval()
    with torch.no_grad():
        for tensor_name, tensor in network.state_dict().items():
            if "running_var" in tensor_name:
                tensor.uniform_(0.5, 1.5)
            elif "running_mean" in tensor_name or tensor_name.endswith("bias"):
                tensor.normal_(std=0.3)
            elif tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5)
    return network


# ------------------------------------------------------- the networks a second time


class ByHand:
    """The networks of section 4 in NumPy, from the numbers of a state_dict."""

    def __init__(self, network):
        self.numbers = {k: v.double().numpy() for k, v in network.state_dict().items()}

    def norm(self, x, name, eps):
        mean, variance, weight, bias = (
            self.numbers[f"{name}.{part}"].reshape(-1, *[1] * (x.ndim - 2))
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(variance + eps) * weight + bias

    def linear(self, x, name):
        return x @ self.numbers[f"{name}.weight"].T + self.numbers[f"{name}.bias"]

    def convolution(self, x, name):
        """3x3, padded with zeros, then normalised over the batch's statistics, ReLU."""
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        patches = sliding_window_view(padded, (3, 3), axis=(2, 3))
        x = np.einsum(
            "bchwyx,dcyx->bdhw", patches, self.numbers[f"{name}.conv.weight"], optimize=True
        )
        x = x + self.numbers[f"{name}.conv.bias"][:, None, None]
        return np.maximum(self.norm(x, f"{name}.norm", eps=1e-3), 0)

    def trunk(self, x, pools):
        """Convolutions 1 to 13, with a pooling of so many pixels after some of them."""
        outputs = {}
        for number in range(1, 14):
            x = outputs[number] = self.convolution(x, f"trunk.layer{number}")
            if number in pools:
                x = pooled(x, pools[number])
        return x, outputs

    def vgg(self, images, pools):
        x, _ = self.trunk(images, pools)
        g = x.reshape(len(x), -1)
        x = self.linear(g, "hidden.1")
        x = np.maximum(self.norm(x, "hidden.2", eps=1e-5), 0)
        return {"query": g, "features": x, "logits": self.linear(x, "classifier")}

    def end(self, x, branch="end"):
        """Layers 14, 15 and 16, behind the pooling that comes first."""
        for number in (14, 15):
            x = pooled(self.convolution(x, f"{branch}.layer{number}"), 2)
        return self.linear(x.reshape(len(x), -1), f"{branch}.layer16")

    def fine(self, images, pools):
        """The finer grid without attention; what it classifies is the baseline's head."""
        x, _ = self.trunk(images, pools)
        g = self.end(x)
        x = np.maximum(self.norm(g, "hidden.0", eps=1e-5), 0)
        return {"query": g, "features": x, "logits": self.linear(x, "classifier")}

    def global_pool(self, images, pools):
        """Class activation maps: the predicted class's weights over the last features."""
        x, _ = self.trunk(images, pools)
        features = x.mean(axis=(2, 3))
        logits = self.linear(features, "classifier")
        weights = self.numbers["classifier.weight"][logits.argmax(axis=1)]
        scores = (weights[:, :, None, None] * x).sum(axis=1)
        maps = scores - scores.min(axis=(1, 2), keepdims=True)
        maps = maps / maps.sum(axis=(1, 2), keepdims=True)
        return {
            "query": features,
            "features": features,
            "logits": logits,
            "scores": {"layer13": scores},
            "maps": {"layer13": maps},
        }

    def score(self, features, g, name):
        """<u, l_i + g> and its bias, position by position."""
        u = self.numbers[f"{name}.score.u.weight"][0]
        scores = ((features + g[:, :, None, None]) * u).sum(axis=1)
        return scores + self.numbers[f"{name}.score.u.bias"]

    def progressive(self, images, pools, query=None):
        """Layer 10 gated by a sigmoid on its way into layer 11; layer 13 attended."""
        x = images
        for number in range(1, 11):
            x = self.convolution(x, f"trunk.layer{number}")
            x = pooled(x, pools[7]) if number == 7 else x
        early = self.end(pooled(x, 4), "early_end") if query is None else query[:, :32]
        gate_scores = self.score(x, early, "gate")
        gates = 1 / (1 + np.exp(-gate_scores))
        x = pooled(x * gates[:, None], 2)
        for number in range(11, 14):
            x = self.convolution(x, f"trunk.layer{number}")
        late = self.end(pooled(x, 2)) if query is None else query[:, 32:]
        scores = self.score(x, late, "head.estimators.layer13")
        a = softmax(scores.reshape(len(x), -1)).reshape(scores.shape)
        descriptor = (x * a[:, None]).sum(axis=(2, 3))
        features = np.maximum(self.norm(descriptor, "head.prepare.layer13.0", eps=1e-5), 0)
        return {
            "query": np.concatenate([early, late], axis=1),
            "maps": {
                "layer10": gates / gates.sum(axis=(1, 2), keepdims=True),
                "layer13": a,
            },
            "scores": {"layer10": gate_scores, "layer13": scores},
            "descriptors": {"layer13": descriptor},
            "features": features,
            "logits": self.linear(features, "head.classifiers.concat"),
        }

    def attention(self, images, name, pools, query=None):
        levels, indep, compatibility = split(name)
        x, local = self.trunk(images, pools)
        g = self.end(x) if query is None else query
        seen = {"query": g, "maps": {}, "scores": {}, "descriptors": {}}
        prepared = {}
        for level in (f"layer{number}" for number in levels):
            features = local[int(level.removeprefix("layer"))]
            if features.shape[2] == 80:
                features = pooled_by_two_and_a_half(features)
            own = g
            if features.shape[1] != g.shape[1]:
                projection = f"head.projections.{features.shape[1]}"
                own = np.maximum(self.norm(g, f"{projection}.0", eps=1e-5), 0)
                own = self.linear(own, f"{projection}.3")
            if compatibility == "dp":
                scores = (features * own[:, :, None, None]).sum(axis=1)
            elif compatibility == "mean":
                scores = np.zeros_like(features[:, 0])
            elif compatibility == "tanh":
                u = self.numbers[f"head.estimators.{level}.score.u.weight"][0]
                scores = (np.tanh(features + own[:, :, None, None]) * u).sum(axis=1)
                scores = scores + self.numbers[f"head.estimators.{level}.score.u.bias"]
            else:
                scores = self.score(features, own, f"head.estimators.{level}")
            a = np.exp(scores - scores.max(axis=(1, 2), keepdims=True))
            a = a / a.sum(axis=(1, 2), keepdims=True)
            descriptor = (features * a[:, None]).sum(axis=(2, 3))
            seen["scores"][level], seen["maps"][level] = scores, a
            seen["descriptors"][level] = descriptor
            x = self.norm(descriptor, f"head.prepare.{level}.0", eps=1e-5)
            prepared[level] = np.maximum(x, 0)
        seen["features"] = np.concatenate(list(prepared.values()), axis=1)
        if indep:
            each = [
                softmax(self.linear(x, f"head.classifiers.{level}"))
                for level, x in prepared.items()
            ]
            seen["probabilities"] = sum(each) / len(each)
        else:
            join = "concat" if "concat" in name else f"layer{levels[0]}"
            if f"head.classifiers.{join}.weight" not in self.numbers:
                join = "concat"  # a single level has nothing to join
            seen["logits"] = self.linear(seen["features"], f"head.classifiers.{join}")
            seen["probabilities"] = softmax(seen["logits"])
        return seen


def pooled(x, size):
    """The maximum of each size x size block; those at the far edge may be cut off."""
    short = -x.shape[2] % size, -x.shape[3] % size
    x = np.pad(x, ((0, 0), (0, 0), (0, short[0]), (0, short[1])), constant_values=-np.inf)
    b, c, h, w = x.shape
    return x.reshape(b, c, h // size, size, w // size, size).max(axis=(3, 5))


def pooled_by_two_and_a_half(x):
    """80x80 to 32x32: windows of 2.5 pixels, rounded outwards."""
    edges = [(int(2.5 * i), int(np.ceil(2.5 * (i + 1)))) for i in range(32)]
    return np.stack(
        [
            np.stack([x[:, :, a:b, c:d].max(axis=(2, 3)) for c, d in edges], axis=2)
            for a, b in edges
        ],
        axis=2,
    )


def test_a_flat_class_map_is_even_and_has_a_gradient():
    scores = torch.full((2, 4, 4), 3.0)
    scores[1, 0, 0] = 5
    maps = shifted(scores.requires_grad_())
    assert torch.equal(maps[0], torch.full((4, 4), 1 / 16))
    assert maps[1, 0, 0] == 1 and maps[1].sum() == 1
    maps[:, 0].sum().backward()
    assert scores.grad is not None and scores.grad.isfinite().all()


def softmax(x):
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


def compare(seen, expected):
    for field, wanted in expected.items():
        if field == "probabilities":
            found = seen.logits.softmax(dim=1)
        else:
            found = getattr(seen, field)
        pairs = wanted if isinstance(wanted, dict) else {field: wanted}
        found = found if isinstance(found, dict) else {field: found}
        assert list(found) == list(pairs)
        for key, numbers in pairs.items():
            np.testing.assert_allclose(
                found[key].numpy(), numbers, rtol=2e-3, atol=2e-5, err_msg=f"{field} {key}"
            )


# 20 pixels, the first size of the fast recipe, halve to 10, 5, 3, 2, 1: poolings round up.
@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("size", [32, 20])
def test_attend_is_the_papers_network(name, size):
    network = randomised(name)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        seen = network.attend(images)
    pools = {7: 2, 10: 2, 13: 2}
    compare(seen, ByHand(network).attention(images.double().numpy(), name, pools))
    # Maps that are all but uniform, or all on one position, would prove little.
    for scores in seen.scores.values():
        assert "mean" in name or scores.std(dim=(1, 2)).min() > 0.01


FINE = {7: 2, 10: 2, 13: 2}
OTHERS = [  # their pools at 32 pixels and below, and at 80
    # The last map is averaged as it is: nothing pools behind layer 13.
    ("vgg-gap", "global_pool", {7: 2, 10: 2}, {7: 5, 10: 2}),
    (
        "vgg-gap-coarse",
        "global_pool",
        {2: 2, 4: 2, 7: 2, 10: 2},
        {2: 2, 4: 2, 7: 2, 10: 2, 12: 2},
    ),
    ("vgg-hires", "fine", FINE, FINE | {7: 5}),
    ("vgg-pan", "progressive", FINE, FINE | {7: 5}),
]


@pytest.mark.parametrize(("name", "by_hand", "small", "large"), OTHERS)
@pytest.mark.parametrize("size", [32, 20, 80])
def test_the_other_networks_are_the_specifications(name, by_hand, small, large, size):
    network = randomised(name, image_size=80 if size == 80 else 32)
    images = torch.randn(1 if size == 80 else 2, 3, size, size)
    with torch.no_grad():
        seen = network.attend(images)
        logits = network(images)
    pools = large if size == 80 else small
    compare(seen, getattr(ByHand(network), by_hand)(images.double().numpy(), pools))
    torch.testing.assert_close(logits, seen.logits)
    for attention_map in seen.maps.values():
        assert attention_map.min() >= 0
        torch.testing.assert_close(attention_map.sum(dim=(1, 2)), torch.ones(len(images)))


@pytest.mark.parametrize(
    ("name", "size", "sides"),
    [
        ("vgg-gap", 32, {"layer13": 8}),
        ("vgg-gap", 80, {"layer13": 8}),
        ("vgg-gap-coarse", 32, {"layer13": 2}),
        ("vgg-gap-coarse", 80, {"layer13": 3}),
        ("vgg-pan", 32, {"layer10": 16, "layer13": 8}),
        ("vgg-pan", 80, {"layer10": 16, "layer13": 8}),
        ("vgg-hires", 32, {}),
    ],
)
def test_the_other_networks_maps_have_their_sizes(name, size, sides):
    network = build_network(name, num_classes=3, width=WIDTH, image_size=size).eval()
    with torch.no_grad():
        seen = network.attend(torch.randn(1, 3, size, size))
    shapes = {layer: tuple(m.shape) for layer, m in seen.maps.items()}
    assert shapes == {layer: (1, side, side) for layer, side in sides.items()}


def test_a_class_activation_map_is_of_each_images_own_class():
    """Two images of which the network makes different things: two rows of weights."""
    network = randomised("vgg-gap")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        local = network.trunk(images)
        one, other = local.mean(dim=(2, 3))
        network.classifier.bias.zero_()
        network.classifier.weight.zero_()
        network.classifier.weight[1] = one - other  # the first image's class
        network.classifier.weight[4] = other - one  # the second's
        # Zero half-way between the two.
        network.classifier.bias[1] = ((other @ other) - (one @ one)) / 2
        network.classifier.bias[4] = -network.classifier.bias[1]
        seen = network.attend(images)
    assert seen.logits.argmax(dim=1).tolist() == [1, 4]
    for row, direction in enumerate((one - other, other - one)):
        wanted = (local[row] * direction[:, None, None]).sum(dim=0)
        torch.testing.assert_close(seen.scores["layer13"][row], wanted)


def test_a_class_activation_map_without_relief_is_even():
    network = build_network("vgg-gap", num_classes=3, width=WIDTH).eval()
    with torch.no_grad():
        network.classifier.weight.zero_()
        seen = network.attend(torch.randn(2, 3, 32, 32))
    assert torch.equal(seen.maps["layer13"], torch.full((2, 8, 8), 1 / 64))


def test_a_query_for_progressive_attention_moves_its_gates():
    """Under a sigmoid g does not cancel: layer 10's map listens, layer 13's cannot."""
    network = randomised("vgg-pan")
    images, query = torch.randn(2, 3, 32, 32), torch.randn(2, 64)
    with torch.no_grad():
        own = network.attend(images)
        seen = network.attend(images, query=query)
    numbers = images.double().numpy(), query.double().numpy()
    compare(seen, ByHand(network).progressive(numbers[0], FINE, numbers[1]))
    assert (seen.scores["layer10"] - own.scores["layer10"]).abs().max() > 0.1
    with pytest.raises(ValueError, match=r"have shape \(2, 64\); got \(2, 32\)"):
        network.attend(images, query=query[:, :32])


@pytest.mark.parametrize("bias", [-300.0, 300.0])
def test_gates_all_but_shut_or_open_still_make_a_map(bias):
    """exp(-300) is zero in single precision; the shares of the gates are not."""
    network = randomised("vgg-pan")
    with torch.no_grad():
        network.gate.score.u.bias.fill_(bias)
        images = torch.randn(2, 3, 32, 32)
        seen = network.attend(images)
    compare(seen, ByHand(network).progressive(images.double().numpy(), FINE))


@pytest.mark.parametrize("size", [32, 20])
def test_the_baseline_is_the_papers_network(size):
    network = randomised("vgg")
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        seen = network.attend(images)
    pools = {2: 2, 4: 2, 7: 2, 10: 2, 13: 2}
    compare(seen, ByHand(network).vgg(images.double().numpy(), pools))
    assert (seen.maps, seen.scores, seen.descriptors) == ({}, {}, {})


def test_at_80_pixels_the_networks_are_the_papers_too():
    images = torch.randn(1, 3, 80, 80)
    numbers = images.double().numpy()
    network = randomised("vgg", image_size=80)
    with torch.no_grad():
        seen = network.attend(images)
    pools = {2: 2, 4: 2, 7: 2, 10: 2, 12: 2, 13: 3}
    compare(seen, ByHand(network).vgg(numbers, pools))
    name = "vgg-att3-concat-dp"
    network = randomised(name, image_size=80)
    with torch.no_grad():
        seen = network.attend(images)
    compare(seen, ByHand(network).attention(numbers, name, {7: 5, 10: 2, 13: 2}))
    shapes = {layer: tuple(m.shape) for layer, m in seen.maps.items()}
    assert shapes == {"layer7": (1, 32, 32), "layer10": (1, 16, 16), "layer13": (1, 8, 8)}


def test_indep_averages_probabilities_and_not_their_logarithms():
    """Two levels that are sure of different classes: each class gets one half."""
    network = build_network("vgg-att2-indep-pc", num_classes=3, width=WIDTH)
    head = network.head
    with torch.no_grad():
        for level, sure in (("layer10", 0), ("layer13", 2)):
            head.classifiers[level].weight.zero_()
            head.classifiers[level].bias.fill_(-50.0)[sure] = 0.0
        logits = network.eval()(torch.randn(1, 3, 32, 32))
    torch.testing.assert_close(logits.softmax(dim=1), torch.tensor([[0.5, 0.0, 0.5]]))


def test_forward_gives_the_logits_of_attend():
    network = randomised("vgg-att2-concat-pc")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), network.attend(images).logits)


def test_an_image_alone_gives_what_it_gives_in_a_batch():
    network = randomised("vgg-att3-indep-dp")
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            network(images)[1:2], network(images[1:2]), rtol=1e-3, atol=1e-5
        )


# -------------------------------------------------------------- the query, replaced


@pytest.mark.parametrize("name", ATTENTION)
def test_a_query_takes_the_place_of_g(name):
    network = randomised(name)
    images, query = torch.randn(2, 3, 32, 32), 3 * torch.randn(2, round(512 * WIDTH))
    with torch.no_grad():
        own = network.attend(images)
        again = network.attend(images, query=own.query)
        steered = network.attend(images, query=query)
    assert torch.equal(own.logits, again.logits)
    assert torch.equal(steered.query, query)
    expected = ByHand(network).attention(
        images.double().numpy(), name, {7: 2, 10: 2, 13: 2}, query.double().numpy()
    )
    compare(steered, expected)
    blind = name.endswith("pc") or "mean" in name
    for layer, own_map in own.maps.items():
        change = (steered.maps[layer] - own_map).abs().max() / own_map.max()
        if blind:
            assert change < 1e-4
        else:
            assert change > 1e-2
    if blind:
        torch.testing.assert_close(steered.logits, own.logits, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 32), (2, 31), (2, 32, 1), (32,)])
def test_a_query_of_another_shape_is_refused(shape):
    network = randomised("vgg-att-dp")
    with pytest.raises(ValueError, match=r"have shape \(2, 32\); got \("):
        network.attend(torch.randn(2, 3, 32, 32), query=torch.zeros(shape))


@pytest.mark.parametrize("name", ["vgg", "vgg-gap", "vgg-hires"])
def test_networks_without_attention_take_no_query(name):
    with pytest.raises(ValueError, match="no attention, so it takes no query"):
        randomised(name).attend(torch.randn(1, 3, 32, 32), query=torch.zeros(1, 32))


# ------------------------------------------------- numbers of the paper's layer lists

# SPEC of section 4: inputs and outputs of convolutions 1 … 15.
CONVOLUTIONS = [
    (3, 64), (64, 64),
    (64, 128), (128, 128),
    (128, 256), (256, 256), (256, 256),
    (256, 512), (512, 512), (512, 512),
    (512, 512), (512, 512), (512, 512),
    (512, 512),
    (512, 512),
]  # fmt: skip
BASELINE_SIDES = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
ATTENTION_SIDES = [32] * 7 + [16] * 3 + [8] * 3 + [4, 2]
CHANNELS = {7: 256, 10: 512, 13: 512}
POSITIONS = {7: 32 * 32, 10: 16 * 16, 13: 8 * 8}


def convolutions_by_hand(pairs):
    """3x3 with a bias, and the two numbers of the norm behind it."""
    return sum(9 * c * d + d + 2 * d for c, d in pairs)


def resnet_by_hand(name, classes):
    """Bottlenecks: norms, 1x1, 3x3 and 1x1 convolutions without bias, and shortcuts."""
    depth, _, kind = name.removeprefix("rn").partition("-")
    inputs, total = 16, 3 * 16 * 9
    for outputs in (64, 128, 256):
        inner = outputs // 4
        for block in range((int(depth) - 2) // 9):
            total += 2 * inputs + inputs * inner  # norm, 1x1
            total += 2 * inner + 9 * inner * inner  # norm, 3x3
            total += 2 * inner + inner * outputs  # norm, 1x1
            total += inputs * outputs if block == 0 else 0  # its channels change
            inputs = outputs
    total += 2 * 256
    if not kind:
        return total + 256 * classes + classes
    total += convolutions_by_hand([(256, 256)]) + 256 * 256 + 256
    levels = {"att": [256], "att2": [128, 256]}[kind]
    total += (2 * 256 + 256 * 128 + 128) if 128 in levels else 0  # the projection
    # u and its bias, the norm of the descriptor, the classifier.
    return total + sum(c + 1 + 2 * c + c * classes for c in levels) + classes


def parameters_by_hand(name, classes):
    """Each convolution has 9 weights a pair of channels, a bias, and a norm's two."""
    if name.startswith("rn"):
        return resnet_by_hand(name, classes)
    coarse = name in ("vgg", "vgg-gap-coarse")
    ends = name.startswith("vgg-gap") or coarse
    total = convolutions_by_hand(CONVOLUTIONS[: 13 if ends else 15])
    if name.startswith("vgg-gap"):
        return total + 512 * classes + classes
    total += 512 * 512 + 512  # the linear layer that gives g, or the baseline's hidden one
    if name in ("vgg", "vgg-hires"):
        return total + 2 * 512 + 512 * classes + classes
    if name == "vgg-pan":  # a second global branch, two scores, norm and classifier
        total += convolutions_by_hand([(512, 512)] * 2) + 512 * 512 + 512
        return total + 2 * (512 + 1) + 2 * 512 + 512 * classes + classes
    levels, indep, compatibility = split(name)
    if 7 in levels:
        total += 2 * 512 + 512 * 256 + 256  # the projection: norm and linear
    for level in levels:
        channels = CHANNELS[level]
        total += 2 * channels  # its norm
        total += channels * classes + (classes if indep else 0)
        total += channels + 1 if compatibility in ("pc", "tanh") else 0
    return total + (0 if indep else classes)


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("name", list_networks())
def test_parameters_are_as_many_as_the_layers_have(name, classes):
    with torch.device("meta"):
        network = build_network(name, num_classes=classes)
    assert count_parameters(network) == parameters_by_hand(name, classes)


def test_known_counts_of_parameters():
    """Typed in, so that the arithmetic above and the networks cannot err alike."""
    assert parameters_by_hand("vgg", 10) == 14_991_946
    assert parameters_by_hand("vgg-att2-concat-pc", 10) == 19_720_780
    assert parameters_by_hand("vgg-gap", 10) == 14_728_266
    assert parameters_by_hand("rn164", 10) == 1_703_258


def resnet_multiply_adds(name, classes):
    depth, _, kind = name.removeprefix("rn").partition("-")
    inputs, side, total = 16, 32, 3 * 16 * 9 * 32 * 32
    for outputs in (64, 128, 256):
        inner = outputs // 4
        for block in range((int(depth) - 2) // 9):
            side //= 2 if block == 0 and outputs > 64 else 1  # the first 1x1 strides
            total += inputs * inner * side * side
            total += (9 * inner * inner + inner * outputs) * side * side
            total += inputs * outputs * side * side if block == 0 else 0
            inputs = outputs
    if not kind:
        return total + 256 * classes
    total += 9 * 256 * 256 * 4 * 4 + 256 * 256
    if kind == "att2":
        total += 256 * 128 + 2 * 128 * 16 * 16 + 128 * classes
    return total + 2 * 256 * 8 * 8 + 256 * classes


def multiply_adds_by_hand(name, size=32, classes=10):
    if name.startswith("rn"):
        return resnet_multiply_adds(name, classes)
    coarse = name in ("vgg", "vgg-gap-coarse")
    sides = BASELINE_SIDES if coarse else ATTENTION_SIDES
    if size == 80:
        sides = (
            [80, 80, 40, 40, 20, 20, 20, 10, 10, 10, 5, 5, 3]
            if coarse
            else ([80] * 7 + ATTENTION_SIDES[7:])
        )
    if name == "vgg-gap":  # it has neither layer 14 nor 15
        sides = sides[:13]
    layers = zip(CONVOLUTIONS, sides, strict=False)
    total = sum(9 * c * d * side * side for (c, d), side in layers)
    if name.startswith("vgg-gap"):
        return total + 512 * classes
    total += 512 * 512
    if name in ("vgg", "vgg-hires"):
        return total + 512 * classes
    if name == "vgg-pan":  # its early branch at 4x4 and 2x2 positions, and the gate
        total += 9 * 512 * 512 * (4 * 4 + 2 * 2) + 512 * 512
        return total + 512 * 16 * 16 + 2 * 512 * 8 * 8 + 512 * classes
    levels, _, compatibility = split(name)
    total += 512 * 256 if 7 in levels else 0
    for level in levels:
        positions = POSITIONS[level]  # at 80 pixels too: level 7 is pooled to 32x32
        products = 1 if compatibility == "mean" else 2  # scores, then the weighted sum
        total += products * CHANNELS[level] * positions
        total += CHANNELS[level] * classes
    return total


SIZED = [
    (name, size)
    for name in list_networks()
    for size in (32, 80)
    if size == 32 or not name.startswith("rn")
]


@pytest.mark.parametrize(("name", "size"), SIZED)
def test_multiply_adds_are_as_many_as_the_layers_take(name, size):
    with FakeTensorMode():  # nothing is computed there, only counted
        network = build_network(name, num_classes=10, image_size=size)
        assert multiply_adds(network) == multiply_adds_by_hand(name, size)
    assert network.training


def test_known_counts_of_multiply_adds():
    """Typed in from the specification."""
    assert multiply_adds_by_hand("rn164") == pytest.approx(244.5e6, abs=0.05e6)


def test_attention_costs_twelve_times_the_baseline():
    vgg = multiply_adds_by_hand("vgg")
    att2 = multiply_adds_by_hand("vgg-att2-concat-dp")
    assert vgg == pytest.approx(0.31e9, rel=0.02)
    assert att2 == pytest.approx(3.8e9, rel=0.02)
    assert att2 / vgg == pytest.approx(12, abs=0.3)


@pytest.mark.parametrize("name", ["vgg", "vgg-att-dp", "vgg-att2-indep-pc",
                                  "vgg-att3-concat-pc", "vgg-gap-coarse", "vgg-hires",
                                  "vgg-mean2", "vgg-pan"])  # fmt: skip
def test_the_layer_table_leaves_nothing_out(name):
    network = build_network(name, num_classes=10, width=WIDTH)
    layers = layer_table(network)
    assert sum(layer.parameters for layer in layers) == count_parameters(network)
    assert sum(layer.multiply_adds for layer in layers) == multiply_adds(network)
    coarse = name in ("vgg", "vgg-gap-coarse")
    sides = BASELINE_SIDES if coarse else ATTENTION_SIDES
    by_name = {layer.name: layer for layer in layers}
    for number, side in enumerate(sides, start=1):
        part = "trunk" if number < 14 else "end"
        channels = round(CONVOLUTIONS[number - 1][1] * WIDTH)
        assert by_name[f"{part}.layer{number}"].shape == (channels, side, side)
    names = list(by_name)
    assert names.index("trunk.layer9") < names.index("trunk.layer10")
    if name == "vgg-att3-concat-pc":
        estimator = by_name["head.estimators.layer7"]
        assert estimator.kind == "AttentionEstimator"
        assert estimator.shape == (32, 32)
        assert estimator.parameters == 256 // 16 + 1
        assert estimator.multiply_adds == 2 * (256 // 16) * 32 * 32
        assert by_name["end.layer16"].shape == (32,)
        assert by_name["head.projections.16"].shape == (16,)
        assert by_name["head.classifiers.concat"].shape == (10,)
    assert network.training


def test_maps_have_the_papers_sizes():
    network = build_network("vgg-att3-concat-pc", num_classes=10, width=WIDTH).eval()
    with torch.no_grad():
        seen = network.attend(torch.randn(2, 3, 32, 32))
    shapes = {layer: tuple(m.shape) for layer, m in seen.maps.items()}
    assert shapes == {"layer7": (2, 32, 32), "layer10": (2, 16, 16), "layer13": (2, 8, 8)}
    assert seen.logits.shape == (2, 10)
    assert seen.features.shape == (2, (256 + 512 + 512) // 16)
    for attention_map in seen.maps.values():
        torch.testing.assert_close(attention_map.sum(dim=(1, 2)), torch.ones(2))


# ------------------------------------------------------- initialisation and dropout


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vgg", 13),
        ("vgg-gap", 13),
        ("vgg-gap-coarse", 13),
        ("vgg-hires", 15),
        ("vgg-att3-concat-dp", 15),
        ("vgg-pan", 15 + 2 + 2),  # two in its early branch, and the 1x1 of its scores
    ],
)
def test_convolutions_start_as_the_authors_scripts_have_it(name, count):
    network = build_network(name, num_classes=10, width=0.25)
    found = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(found) == count
    for convolution in (m for m in found if m.kernel_size == (3, 3)):
        weight = convolution.weight
        wanted = (2 / (3 * 3 * convolution.out_channels)) ** 0.5
        slack = 5 / (2 * weight.numel()) ** 0.5
        assert weight.std().item() == pytest.approx(wanted, rel=slack)
        assert abs(weight.mean().item()) < 5 * wanted / weight.numel() ** 0.5
        assert (convolution.bias == 0).all()


def gains(network):
    norms = nn.BatchNorm1d | nn.BatchNorm2d
    return torch.cat([m.weight for m in network.modules() if isinstance(m, norms)])


def queries(network):
    """u and its bias, of each estimator that has one, and of the gate."""
    found = [getattr(m, "score", None) for m in network.modules()]
    return [score.u for score in found if hasattr(score, "u")]


def assert_normal(values, std):
    """The first four moments of N(0, std), to within five standard errors."""
    z, n = values.detach().flatten().double() / std, values.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = 5 * (variance / n) ** 0.5
        assert abs((z**power).mean().item() - moment) < error, f"moment {power}"


def assert_uniform(values, low, high):
    """Mean and variance of U(low, high), and that nothing lies outside."""
    x, n, width = values.detach().flatten().double(), values.numel(), high - low
    assert low <= x.min() and x.max() <= high
    assert abs(x.mean().item() - (low + high) / 2) < 5 * width / (12 * n) ** 0.5
    assert x.var().item() == pytest.approx(width**2 / 12, rel=5 / n**0.5)


BEGIN = ["vgg-att3-concat-pc", "vgg-att2-concat-tanh", "vgg-pan", "rn20-att2"]


@pytest.mark.parametrize("name", BEGIN)
def test_the_scripts_beginning_has_their_moments(name):
    network = build_network(name, num_classes=10, initialisation="scripts")
    assert_uniform(gains(network), 0, 1)
    assert_normal(torch.cat([u.weight.flatten() for u in queries(network)]), 2**0.5)
    assert all((u.bias == 0).all() for u in queries(network))
    for conv in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        size, outputs = conv.kernel_size[0], conv.out_channels
        assert_normal(conv.weight, (2 / (size * size * outputs)) ** 0.5)
        assert conv.bias is None or (conv.bias == 0).all()
    for linear in (m for m in network.modules() if isinstance(m, nn.Linear)):
        side = linear.in_features**-0.5
        assert_uniform(linear.weight, -side, side)
        assert linear.bias.abs().max() <= side


@pytest.mark.parametrize("name", BEGIN)
def test_pytorchs_beginning_has_its_moments(name):
    network = build_network(name, num_classes=10)
    assert (gains(network) == 1).all()
    for u in queries(network):
        side = u.in_channels**-0.5
        assert_uniform(u.weight, -side, side)


@pytest.mark.parametrize("beginning", ["pytorch", "scripts"])
@pytest.mark.parametrize("std", [0.026, 0.2, 0.5, 1.41])
def test_the_scale_of_u_can_be_chosen(beginning, std):
    options = {"initialisation": beginning, "query_std": std}
    network = build_network("vgg-att3-concat-pc", num_classes=10, **options)
    assert_normal(torch.cat([u.weight.flatten() for u in queries(network)]), std)
    assert all((u.bias == 0).all() for u in queries(network))


def test_two_beginnings_of_one_seed_differ_in_gains_and_u_alone():
    states = []
    for beginning in ("pytorch", "scripts"):
        torch.manual_seed(0)
        network = build_network("vgg-pan", 10, WIDTH, initialisation=beginning)
        states.append(network.state_dict())
    differ = {k for k, v in states[0].items() if not torch.equal(v, states[1][k])}
    norms = {k for k in differ if "norm.weight" in k or "prepare" in k}
    assert norms and {k for k in differ - norms if ".score.u." not in k} == set()


@pytest.mark.parametrize("name", ["vgg", "vgg-gap", "vgg-mean2", "vgg-att-dp", "rn20"])
def test_a_scale_of_u_needs_a_u(name):
    with pytest.raises(ValueError, match=rf"query_std applies to .*; {name} has none"):
        build_network(name, num_classes=10, query_std=0.2)


def rates(network):
    return [m.p for m in network.modules() if isinstance(m, nn.Dropout) and m.p]


def test_dropout_has_the_papers_rates_or_one_before_the_classifier():
    convolutions = [0.3] + [0.4] * 7  # layers 1, 3, 5, 6, 8, 9, 11, 12
    vgg = build_network("vgg", num_classes=10, width=WIDTH)
    assert rates(vgg) == [*convolutions, 0.5, 0.5]
    att2 = build_network("vgg-att2-concat-pc", num_classes=10, width=WIDTH)
    assert rates(att2) == [*convolutions, 0.4, 0.4, 0.5, 0.5, 0.5]
    att3 = build_network("vgg-att3-concat-pc", num_classes=10, width=WIDTH)
    assert rates(att3) == [*convolutions, 0.4, 0.4, 0.5, *[0.5] * 4]
    assert rates(build_network("vgg-gap", 10, WIDTH)) == convolutions
    end = [0.4, 0.4, 0.5]  # layers 14, 15 and 16
    assert rates(build_network("vgg-hires", 10, WIDTH)) == [*convolutions, *end, 0.5]
    assert rates(build_network("vgg-pan", 10, WIDTH)) == [*convolutions, *end, *end, 0.5]
    for name in ("vgg-gap", "vgg-hires", "vgg-pan"):
        assert rates(build_network(name, 10, WIDTH, dropout=0.2)) == [0.2]
    assert rates(build_network("vgg", 10, WIDTH, dropout=0.2)) == [0.2]
    assert rates(build_network("vgg-att2-concat-pc", 10, WIDTH, dropout=0.2)) == [0.2, 0.2]
    assert rates(build_network("vgg-att3-concat-pc", 10, WIDTH, dropout=0)) == []


# ---------------------------------------------------------------------- wrong input


def test_the_papers_names_are_listed():
    assert len(list_networks()) == len(set(list_networks()))
    papers = (
        "vgg vgg-gap vgg-pan rn164 vgg-att-dp vgg-att2-indep-dp vgg-att2-concat-dp "
        "vgg-att-pc vgg-att2-indep-pc vgg-att2-concat-pc vgg-att3-concat-pc "
        "rn164-att rn164-att2"
    )
    controls = "vgg-gap-coarse vgg-hires vgg-mean2 vgg-mean3 vgg-att2-concat-tanh"
    assert set(f"{papers} {controls}".split()) <= set(list_networks())


def test_an_unknown_network_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="network .vgg-att4.: choose one of vgg, "):
        build_network("vgg-att4", num_classes=10)


@pytest.mark.parametrize("name", ["vgg", "vgg-att3-concat-pc"])
@pytest.mark.parametrize("width", [0, -1, float("nan"), 9, 1 / 200])
def test_a_width_that_cannot_be_is_refused(name, width):
    with pytest.raises(ValueError, match=r"width .* give"):
        build_network(name, num_classes=10, width=width)


def test_a_width_that_leaves_a_layer_without_channels_says_which():
    with pytest.raises(ValueError, match=r"in a layer of 64: give at least 0.0156"):
        build_network("vgg", num_classes=10, width=1 / 200)


@pytest.mark.parametrize("name", ["vgg", "vgg-att-dp"])
@pytest.mark.parametrize("size", [48, 0, -32, 31])
def test_an_image_size_that_cannot_be_is_refused(name, size):
    with pytest.raises(ValueError, match=rf"image_size {size}: .* take 32 or 80 pixels"):
        build_network(name, num_classes=10, width=WIDTH, image_size=size)


@pytest.mark.parametrize("classes", [0, -1, True, 2.5, "10", None])
def test_a_number_of_classes_that_cannot_be_is_refused(classes):
    build = build_network.__wrapped__  # without the tests' own check of types
    with pytest.raises(ValueError, match=r"num_classes .* whole number, at least 1"):
        build("vgg", num_classes=classes)


@pytest.mark.parametrize("dropout", [1.0, -0.1, float("nan")])
def test_a_dropout_that_cannot_be_is_refused(dropout):
    with pytest.raises(ValueError, match=r"dropout .* from 0 up to, not including, 1"):
        build_network("vgg", num_classes=10, dropout=dropout)


@pytest.mark.parametrize(
    "shape", [(2, 3, 48, 48), (2, 3, 15, 15), (2, 3, 32, 28), (2, 1, 32, 32), (3, 32, 32)]
)
@pytest.mark.parametrize(
    "name", ["vgg", "vgg-att2-concat-pc", "vgg-gap", "vgg-hires", "vgg-pan"]
)
def test_images_of_another_shape_are_refused(name, shape):
    network = build_network(name, num_classes=10, width=WIDTH)
    attend = type(network).attend.__wrapped__  # without the tests' own check of shapes
    with pytest.raises(ValueError, match=r"shape \(B, 3, 32, 32\).* it got \("):
        attend(network, torch.zeros(shape))
