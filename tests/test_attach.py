"""`attach` on networks that nobody planned for, against the same computed by hand.

Guarded: that it reads what a layer gave, whatever happens to that later; that the head is
the paper's; that gradients arrive; that the caller's network stays as it is; each error.
The features come from torchvision's own extractor, and the head is NumPy.
"""

import copy
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from lpa_core.maps import activation_maps
from lpa_core.networks import attach
from lpa_core.networks.attach import RUNNING
from lpa_core.networks.cost import count_parameters

ROOT = Path(__file__).resolve().parents[1]
SIZE = 64
# The attended layers of a backbone, and the node of its graph that is its g.
UNKNOWN = {
    "densenet121": (["features.denseblock2", "features.denseblock3"], "flatten"),
    "regnet_y_400mf": (["trunk_output.block2", "trunk_output.block3"], "flatten"),
    "convnext_tiny": (["features.3", "features.5"], "classifier.1"),
}
SHOWN = {  # as in the chapter
    "resnet18": ["layer2", "layer3"],
    "vgg16_bn": ["features.32", "features.42"],
    "mobilenet_v3_small": ["features.3", "features.8"],
    "efficientnet_b0": ["features.4", "features.6"],
}


class Own(nn.Module):
    """A small network whose activation writes over what its `norm` gave."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.more = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.twice = nn.Tanh()
        self.unused = nn.Conv2d(6, 6, 1)
        self.pair = Pair()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x, _ = self.pair(self.twice(self.twice(self.more(x))))
        return self.fc(x.mean(dim=(2, 3)))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def build(name):
    if name == "own":
        return Own()
    return models.get_model(name, weights=None, num_classes=4)


def stirred(backbone):
    """With running statistics that are not those it starts with."""
    with torch.no_grad():
        for name, tensor in backbone.state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 1.5)
            elif "running_mean" in name:
                tensor.normal_(std=0.1)
    return backbone


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return stirred(build("resnet18")).double()


@pytest.fixture
def images():
    return torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)


def attached_to(backbone, layers, **options):
    options = {"num_classes": 5, "image_size": SIZE} | options
    return attach(backbone, layers, **options).eval()


def extracted(backbone, layers, node, images):
    """Feature maps and g, from torchvision's extractor."""
    extractor = create_feature_extractor(
        copy.deepcopy(backbone).eval(), return_nodes={n: n for n in [*layers, node]}
    )
    with torch.no_grad():
        found = extractor(images)
    return [found[layer].numpy() for layer in layers], found[node].flatten(1).numpy()


# ------------------------------------------------------------ the head a second time


def norm_relu(x, numbers, name):
    mean, variance, weight, bias = (
        numbers[f"{name}.{part}"]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * weight + bias, 0)


def linear(x, numbers, name):
    return x @ numbers[f"{name}.weight"].T + numbers[f"{name}.bias"]


def by_hand(head, layers, features, g, compatibility, fusion="concat"):
    """Equations 1 to 3 and the classifier, in NumPy: scores, maps, descriptors, logits."""
    numbers = {k: v.numpy() for k, v in head.state_dict().items()}
    scores, maps, descriptors, prepared = [], [], [], []
    for layer, local in zip(layers, features, strict=True):
        key = "/" + layer.replace(".", "/")
        own, channels = g, local.shape[1]
        if channels != g.shape[1]:
            own = norm_relu(g, numbers, f"projections.{channels}.0")
            own = linear(own, numbers, f"projections.{channels}.3")
        if compatibility == "dp":
            c = (local * own[:, :, None, None]).sum(axis=1)
        else:
            u = numbers[f"estimators.{key}.score.u.weight"][0]
            c = ((local + own[:, :, None, None]) * u).sum(axis=1)
            c = c + numbers[f"estimators.{key}.score.u.bias"]
        a = np.exp(c - c.max(axis=(1, 2), keepdims=True))
        a = a / a.sum(axis=(1, 2), keepdims=True)
        scores.append(c)
        maps.append(a)
        descriptors.append(np.einsum("bhw,bchw->bc", a, local))
        prepared.append(norm_relu(descriptors[-1], numbers, f"prepare.{key}.0"))
    if fusion == "concat":
        joined = np.concatenate(prepared, axis=1)
        return scores, maps, descriptors, linear(joined, numbers, "classifiers.concat")
    each = []
    for layer, x in zip(layers, prepared, strict=True):
        e = np.exp(linear(x, numbers, "classifiers./" + layer.replace(".", "/")))
        each.append(e / e.sum(axis=1, keepdims=True))
    return scores, maps, descriptors, np.log(sum(each) / len(each))


def compare(seen, layers, expected):
    *by_layer, logits = expected
    for field, wanted in zip(("scores", "maps", "descriptors"), by_layer, strict=True):
        found = getattr(seen, field)
        assert list(found) == layers
        for layer, numbers in zip(layers, wanted, strict=True):
            np.testing.assert_allclose(
                found[layer].numpy(), numbers, rtol=1e-7, atol=1e-9, err_msg=field
            )
    np.testing.assert_allclose(seen.logits.numpy(), logits, rtol=1e-7, atol=1e-9)


@pytest.fixture(scope="module", params=UNKNOWN)
def unknown(request):
    """A backbone in double precision, its layers, and the node of its g."""
    torch.manual_seed(0)
    return stirred(build(request.param)).double(), *UNKNOWN[request.param]


@pytest.mark.parametrize("compatibility", ["pc", "dp"])
def test_it_is_the_papers_head_on_what_the_layers_gave(unknown, compatibility, images):
    backbone, layers, node = unknown
    network = attached_to(backbone, layers, compatibility=compatibility)
    with torch.no_grad():
        seen = network.attend(images)
    features, g = extracted(backbone, layers, node, images)
    np.testing.assert_allclose(seen.query.numpy(), g, rtol=1e-7, atol=1e-9)
    compare(seen, layers, by_hand(network.head, layers, features, g, compatibility))
    for attention in seen.maps.values():
        assert attention.std() > 1e-6  # even maps would prove little
        ones = torch.ones(len(images), dtype=torch.float64)
        torch.testing.assert_close(attention.sum(dim=(1, 2)), ones)


def test_gradient_reaches_all_of_the_backbone_that_counts(unknown, images):
    """Under dp every parameter has an effect, those behind the last layer by way of g."""
    backbone, layers, _ = unknown
    network = attached_to(backbone, layers, compatibility="dp")
    F.cross_entropy(network(images), torch.tensor([0, 3])).backward()
    for name, parameter in network.backbone.named_parameters():
        assert parameter.grad is not None, name
    live = [p.grad.norm() > 0 for p in network.backbone.parameters()]
    assert live[0]
    assert sum(live) > 0.95 * len(live)
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_indep_on_a_backbone(resnet, images):
    layers = ["layer2", "layer3"]
    network = attached_to(resnet, layers, fusion="indep")
    with torch.no_grad():
        seen = network.attend(images)
    features, g = extracted(resnet, layers, "flatten", images)
    compare(seen, layers, by_hand(network.head, layers, features, g, "pc", "indep"))


@pytest.mark.parametrize("name", SHOWN)
def test_the_chapters_backbones(name):
    network = attached_to(build(name), SHOWN[name]).train()
    images = torch.randn(2, 3, SIZE, SIZE)
    seen = network.attend(images)
    F.cross_entropy(seen.logits, torch.tensor([0, 3])).backward()
    assert seen.logits.shape == (2, 5)
    assert next(network.backbone.parameters()).grad.norm() > 0
    assert list(seen.maps) == SHOWN[name]
    for attention in seen.maps.values():
        torch.testing.assert_close(attention.sum(dim=(1, 2)), torch.ones(2))


# ---------------------------------------------- layers that later ones write over


def own_by_hand(backbone, images):
    """What `norm` gave, before anything wrote over it, and g."""
    numbers = [p.detach() for p in (backbone.conv.weight, backbone.conv.bias)]
    x = F.conv2d(images, *numbers, stride=2, padding=1)
    norm = backbone.norm
    shape = (1, -1, 1, 1)
    x = (x - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + 1e-5).sqrt()
    local = (x * norm.weight.view(shape) + norm.bias.view(shape)).detach()
    weights = [p.detach() for p in (backbone.more.weight, backbone.more.bias)]
    x = F.conv2d(local.clamp_min(0), *weights, stride=2, padding=1)
    return local, x.tanh().tanh().mean(dim=(2, 3))


@pytest.mark.parametrize("compatibility", ["pc", "dp"])
def test_an_activation_in_place_does_not_change_what_was_attended(images, compatibility):
    backbone = stirred(Own()).double()
    network = attached_to(backbone, ["norm"], compatibility=compatibility)
    local, g = own_by_hand(backbone, images)
    assert (local < 0).any()  # which a ReLU would have put out
    with torch.no_grad():
        seen = network.attend(images)
    np.testing.assert_allclose(seen.query.numpy(), g.numpy(), rtol=1e-9, atol=1e-12)
    expected = by_hand(network.head, ["norm"], [local.numpy()], g.numpy(), compatibility)
    compare(seen, ["norm"], expected)


def test_densenets_last_norm_is_read_before_its_activation(images):
    """densenet applies F.relu(…, inplace=True) to what `features` gave."""
    backbone = stirred(build("densenet121")).double()
    layers = ["features.norm5", "features"]
    network = attached_to(backbone, layers)
    with torch.no_grad():
        local = copy.deepcopy(backbone.features).eval()(images)
        seen = network.attend(images)
    assert (local < 0).any()
    for layer in layers:
        wanted = torch.einsum("bhw,bchw->bc", seen.maps[layer], local)
        torch.testing.assert_close(seen.descriptors[layer], wanted)


def test_gradients_through_an_overwritten_layer_are_right():
    """Against finite differences: autograd must not see the overwritten values."""
    backbone = stirred(Own()).double()
    network = attached_to(backbone, ["norm"], compatibility="dp", image_size=8)
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (image,), fast_mode=True)


# ------------------------------------------------------- the caller's own network


def hooks_of(module):
    return [
        hook
        for part in module.modules()
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    ]


@pytest.mark.parametrize("layers", [["layer2", "layer3"], ["layer2", "avgpool"]])
def test_the_backbone_stays_as_it_is(resnet, images, layers):
    """Also where the second list of layers is refused."""
    backbone = copy.deepcopy(resnet)
    backbone.layer1.eval()  # frozen, as in fine-tuning
    before = copy.deepcopy(backbone.state_dict())
    training = [module.training for module in backbone.modules()]
    kinds = [type(module) for module in backbone.modules()]
    try:
        network = attach(backbone, layers, num_classes=5, image_size=SIZE)
    except ValueError:
        assert "avgpool" in layers
    else:
        assert [m.training for m in network.backbone.modules()] == training
        copied = network.backbone.state_dict()
        for name, tensor in copied.items():  # looking for shapes has trained nothing
            assert torch.equal(tensor, before[name]), name
            assert tensor.data_ptr() != backbone.state_dict()[name].data_ptr()
        assert set(before) - set(copied) == {"fc.weight", "fc.bias"}
        F.cross_entropy(network(images), torch.tensor([0, 3])).backward()
        torch.optim.SGD(network.parameters(), lr=0.1).step()
        assert not torch.equal(network.backbone.conv1.weight, backbone.conv1.weight)
        assert not RUNNING.outputs
    after = backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [module.training for module in backbone.modules()] == training
    assert [type(module) for module in backbone.modules()] == kinds
    assert not hooks_of(backbone)


def test_nothing_is_kept_where_the_backbone_fails(resnet):
    network = attached_to(resnet, ["layer2"])
    with pytest.raises(RuntimeError):
        network.backbone.conv1(torch.zeros(1, 4, 8, 8, dtype=torch.float64))
    network.backbone.layer4 = nn.Linear(1, 1).double()
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.float64))
    assert not RUNNING.outputs


def test_the_last_linear_layer_is_left_out_and_nothing_else(resnet):
    """By count: u and norm at 256 channels, its classifier, the projection from 512."""
    network = attached_to(resnet, ["layer3"])
    head = (256 + 1) + 2 * 256 + (256 * 5 + 5) + (2 * 512 + 512 * 256 + 256)
    left_out = 512 * 4 + 4
    assert count_parameters(network) == count_parameters(resnet) - left_out + head


def test_the_last_linear_layer_is_the_one_that_runs_last():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.classify = nn.Linear(5, 4)  # registered first
            self.widen = nn.Linear(8, 5)
            self.conv = nn.Conv2d(3, 8, 3, stride=8)

        def forward(self, x):
            return self.classify(self.widen(self.conv(x).mean(dim=(2, 3))))

    network = attach(Backwards(), ["conv"], 3, compatibility="dp", image_size=32)
    assert network.query_layer == "classify"
    assert network.attend(torch.rand(2, 3, 32, 32)).query.shape == (2, 5)


def test_maps_with_channels_last_are_refused():
    with pytest.raises(ValueError, match=r"'features.1' gives \(16, 16, 96\).*first"):
        attach(models.swin_t(weights=None), ["features.1"], 10, image_size=64)
    attach(models.swin_t(weights=None), ["permute"], 10, image_size=64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_head_is_as_precise_as_the_backbone_and_float32_at_least(dtype):
    network = attached_to(Own().to(dtype), ["norm"])
    wanted = torch.promote_types(dtype, torch.float32)
    assert {p.dtype for p in network.head.parameters()} == {wanted}
    with torch.no_grad():
        seen = network.attend(torch.randn(2, 3, SIZE, SIZE, dtype=dtype))
    assert seen.logits.dtype == seen.maps["norm"].dtype == wanted


# ------------------------------------------------------------------ sizes and queries


@pytest.mark.parametrize("shape", [(96, 96), (32, 32), (48, 80)])
def test_other_image_sizes_work(resnet, shape):
    images = torch.randn(2, 3, *shape, dtype=torch.float64)
    layers = ["layer1", "layer2"]
    network = attached_to(resnet, layers)
    with torch.no_grad():
        seen = network.attend(images)
    assert seen.maps["layer2"].shape == (2, shape[0] // 8, shape[1] // 8)
    features, g = extracted(resnet, layers, "flatten", images)
    compare(seen, layers, by_hand(network.head, layers, features, g, "pc"))


@pytest.mark.parametrize("compatibility", ["pc", "dp", "tanh"])
def test_a_query_takes_the_place_of_g(resnet, images, compatibility):
    layers = ["layer3", "layer4"]
    network = attached_to(resnet, layers, compatibility=compatibility)
    query = 0.3 * torch.randn(2, 512, dtype=torch.float64)
    with torch.no_grad():
        own = network.attend(images)
        again = network.attend(images, query=own.query)
        steered = network.attend(images, query=query)
    assert torch.equal(own.logits, again.logits)
    assert torch.equal(steered.query, query)
    for layer in layers:
        change = (steered.maps[layer] - own.maps[layer]).abs().max()
        assert change < 1e-12 if compatibility == "pc" else change > 1e-3
    if compatibility != "tanh":
        features, _ = extracted(resnet, layers, "flatten", images)
        expected = by_hand(network.head, layers, features, query.numpy(), compatibility)
        compare(steered, layers, expected)


def test_a_query_of_another_shape_is_refused(resnet, images):
    network = attached_to(resnet, ["layer2"])
    with pytest.raises(ValueError, match=r"have shape \(2, 512\); got \(2, 128\)"):
        network.attend(images, query=torch.zeros(2, 128, dtype=torch.float64))


@pytest.mark.parametrize("name", ["layer3", "layer4.1.bn2", "avgpool"])
def test_any_layer_can_be_the_query_averaged_over_its_positions(resnet, images, name):
    network = attached_to(resnet, ["layer2"], compatibility="dp", query=name)
    with torch.no_grad():
        seen = network.attend(images)
        if name == "layer4.1.bn2":  # before the block adds its input to it, in place
            block = copy.deepcopy(resnet).eval()
            x = block.maxpool(block.relu(block.bn1(block.conv1(images))))
            x = block.layer4[0](block.layer3(block.layer2(block.layer1(x))))
            block = block.layer4[1]
            g = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
        else:
            (g,), _ = extracted(resnet, [name], "fc", images)
            g = torch.from_numpy(g)
    torch.testing.assert_close(seen.query, g.mean(dim=(2, 3)))


def test_a_backbone_without_a_linear_layer_needs_a_query():
    backbone = build("squeezenet1_1").double()
    with pytest.raises(ValueError, match=r"SqueezeNet has no linear layer .* \(query=…\)"):
        attach(backbone, ["features.5"], num_classes=5, image_size=SIZE)
    images = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    layers = ["features.5"]
    network = attached_to(backbone, layers, compatibility="dp", query="features")
    with torch.no_grad():
        seen = network.attend(images)
        features = copy.deepcopy(backbone.features).eval()
        local, g = features[:6](images).numpy(), features(images).mean(dim=(2, 3)).numpy()
    compare(seen, layers, by_hand(network.head, layers, [local], g, "dp"))


def test_a_backbone_without_parameters():
    backbone = nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2))
    network = attach(backbone, ["0"], num_classes=5, image_size=8, query="1").eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        seen = network.attend(images)
    torch.testing.assert_close(seen.query, images.mean(dim=(2, 3)))


@pytest.mark.parametrize("name", ["values", "keys", "items"])
def test_a_layer_may_be_called_like_a_method_of_a_dictionary(name):
    backbone = nn.Sequential()
    backbone.add_module(name, nn.Conv2d(3, 4, 1))
    backbone.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network = attach(backbone, [name], num_classes=5, image_size=8, query="pool").eval()
    with torch.no_grad():
        assert list(network.attend(torch.randn(2, 3, 8, 8)).maps) == [name]


# ---------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        (["layer22"], {}, r"ResNet has no layer 'layer22'; it has, .* layer2, .*named_mod"),
        (["layer2", "later3"], {}, r"no layer 'later3'; it has, among others, layer3"),
        ([""], {}, r"has no layer ''; it has, among others, conv1"),
        (["zzz"], {}, r"has no layer 'zzz'; it has, among others, conv1, bn1, relu"),
        (["layer2"], {"query": "avgpol"}, r"no layer 'avgpol'; .* others, avgpool"),
        (["layer2"], {"query": ""}, r"has no layer ''"),
        (["avgpool"], {}, r"'avgpool' has no spatial map .* 64 x 64 .* \(512, 1, 1\)"),
        (["fc"], {}, r"layer 'fc' has no spatial map .* gives \(512,\)"),
        (["layer1.0.relu"], {}, r"'layer1.0.relu' runs 2 times for an image\b.* once"),
        (["layer2"], {"query": "layer1.0.relu"}, r"'layer1.0.relu' runs 2 times"),
        (["layer4"], {"image_size": 32}, r"32 x 32 .* earlier layer or larger images"),
        (["layer2"], {"compatibility": "cosine"}, r"compatibility 'cosine': choose one"),
        ([], {}, r"layers \[\]: give a list of at least one layer name"),
        (["layer2", "layer2"], {}, r"layers \['layer2', 'layer2'\]: give a list of"),
    ],
)
def test_what_cannot_be_attended_is_said(resnet, layers, options, message):
    with pytest.raises(ValueError, match=message):
        attached_to(resnet, layers, **options)


def test_a_name_is_not_taken_for_a_list_of_layers(resnet):
    unchecked = attach.__wrapped__  # without the tests' own check of types
    with pytest.raises(ValueError, match=r"layers 'layer2': give a list"):
        unchecked(resnet, "layer2", num_classes=5, image_size=SIZE)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("twice", r"layer 'twice' runs 2 times"),
        ("unused", r"layer 'unused' runs 0 times"),
        ("pair", r"layer 'pair' has no spatial map .* it gives tuple"),
    ],
)
def test_layers_of_ones_own_that_cannot_be_attended(layer, message):
    with pytest.raises(ValueError, match=message):
        attached_to(Own(), [layer])
    query = message.replace("has no spatial map .* it gives tuple", "is no vector")
    with pytest.raises(ValueError, match=query):
        attached_to(Own(), ["more"], query=layer)


def test_googlenets_side_branch_does_not_run():
    backbone = models.googlenet(weights=None, num_classes=4, init_weights=False)
    with pytest.raises(ValueError, match=r"'aux1.conv' runs 0 times"):
        attached_to(backbone, ["aux1.conv"])


def test_a_size_that_does_not_go_through_is_said():
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 8), nn.Linear(8, 2)
    )
    with pytest.raises(ValueError, match=r"9 x 9 pixels does not go .*: give another"):
        attach(backbone, ["0"], num_classes=5, image_size=9)
    assert attach(backbone, ["0"], num_classes=5, image_size=8).query_layer == "3"


def test_a_backbones_own_check_of_sizes_is_passed_on():
    """torchvision's transformers raise an AssertionError, others what they like."""
    backbone = models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8,
        num_classes=4,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"40 x 40 pixels does not go .*Wrong image"):
        attach(backbone, ["conv_proj"], num_classes=5, image_size=40)
    network = attach(backbone, ["conv_proj"], num_classes=5, image_size=32).eval()
    with torch.no_grad():
        maps = network.attend(torch.randn(2, 3, 32, 32)).maps
    assert maps["conv_proj"].shape == (2, 4, 4)


def vit():
    return models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8,
        num_classes=4,
    )  # fmt: skip


def test_the_tokens_of_a_transformer_are_laid_on_a_map():
    layer = "encoder.layers.encoder_layer_0"
    backbone = vit().double()
    with pytest.raises(ValueError, match=r"encoder_layer_0' gives tokens .* tokens=True"):
        attach(backbone, [layer], num_classes=5, image_size=32)
    network = attach(backbone, [layer], 5, compatibility="dp", image_size=32, tokens=True)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        seen = network.eval().attend(images)
        whole = create_feature_extractor(backbone.eval(), [layer, "getitem_5"])(images)
    local = whole[layer][:, 1:]  # without the class token: 16 patches, row by row
    scores = np.einsum("bnc,bc->bn", local.numpy(), whole["getitem_5"].numpy())
    np.testing.assert_allclose(seen.scores[layer].flatten(1), scores, atol=1e-9)


def test_maps_are_no_tokens(resnet):
    with pytest.raises(ValueError, match=r"'layer2' gives no tokens .* tokens=False"):
        attached_to(resnet, ["layer2"], tokens=True)


# --------------------------------------------------------- threads, copies, compilers


@pytest.fixture(scope="module")
def shared(resnet):
    torch.manual_seed(1)
    return attached_to(resnet, ["layer2", "layer3"])


def in_threads(function, items):
    """As `map`, four threads at a time; grad mode is each thread's own."""

    def alone(item):
        with torch.no_grad():
            return function(item)

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(alone, items))


def test_threads_may_share_a_network(shared):
    batches = [torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64) for _ in range(24)]
    with torch.no_grad():
        expected = [shared(batch) for batch in batches]
    for one, other in zip(in_threads(shared, batches), expected, strict=True):
        assert torch.equal(one, other)


def test_threads_may_share_hooks_of_maps(shared):
    """`activation_maps` puts hooks on for a while: another thread's pass is not its own."""
    batches = [torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64) for _ in range(24)]

    def maps(batch):
        return activation_maps(shared, batch, ["backbone.layer2"])["backbone.layer2"]

    with torch.no_grad():
        expected = [maps(batch) for batch in batches]
    for one, other in zip(in_threads(maps, batches), expected, strict=True):
        assert torch.equal(one, other)


def replica(module):
    """As DataParallel makes them: modules of their own that share all dictionaries."""
    twin = module._replicate_for_data_parallel()
    twin._parameters = dict(module._parameters)
    for name, child in module._modules.items():
        twin._modules[name] = replica(child)
    return twin


def test_replicas_may_run_beside_each_other(shared):
    replicas = [replica(shared), replica(shared)]
    batches = [torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64) for _ in range(16)]
    with torch.no_grad():
        expected = [shared(batch) for batch in batches]
    jobs = [(replicas[n % 2], batch) for n, batch in enumerate(batches)]
    found = in_threads(lambda job: job[0](job[1]), jobs)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_a_network_may_be_copied_and_saved(shared, images):
    file = io.BytesIO()
    torch.save(shared, file)
    file.seek(0)
    with torch.no_grad():
        expected = shared(images)
        for other in (copy.deepcopy(shared), torch.load(file, weights_only=False)):
            assert torch.equal(other(images), expected)


COMPILED = """
import torch
from torchvision.models import resnet18
from lpa_core.networks import attach
network = attach(resnet18(), ["layer2", "layer3"], 5, image_size=32).eval()
images = torch.randn(2, 3, 32, 32)
with torch.no_grad():
    expected = network(images)
    whole = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(whole(images), expected)
    exported = torch.export.export(network, (images,)).module()
    torch.testing.assert_close(exported(images), expected)
"""


def test_a_network_compiles_whole():
    """In a process of its own: the tests' checks of shapes are no part of a graph."""
    command = [sys.executable, "-W", "ignore", "-c", COMPILED]
    subprocess.run(command, check=True, cwd=ROOT, timeout=300)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_network_is_refused_in_a_sentence(shared):
    with pytest.raises(TypeError, match=r"does not take AttachedNetwork: use torch.export"):
        torch.jit.script(shared)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_keeps_its_head_in_float32(dtype):
    network = attached_to(build("resnet18"), ["layer2", "layer3"])
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = network(images)
        before = {n: p.clone() for n, p in network.head.state_dict().items()}
        narrow = network.to(dtype)(images.to(dtype))
    assert {p.dtype for p in network.backbone.parameters()} == {dtype}
    after = network.head.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    torch.testing.assert_close(narrow, expected, atol=0.05, rtol=0.05)


def test_a_single_class_cannot_be_averaged(resnet):
    with pytest.raises(ValueError, match=r"num_classes=1 the only one is always 1"):
        attached_to(resnet, ["layer2", "layer3"], num_classes=1, fusion="indep")
    network = attached_to(resnet, ["layer2"], num_classes=1)
    with torch.no_grad():
        logits = network(torch.randn(4, 3, SIZE, SIZE, dtype=torch.float64))
    assert logits.unique().numel() == 4
