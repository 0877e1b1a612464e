"""Activation-based maps against a loop, Grad-CAM against its formula, maps multiplied."""

import builtins

import numpy as np
import pytest
import torch
from torch import nn

from lpa_core.maps import (
    activation_map,
    activation_maps,
    combine_maps,
    grad_cam,
    multiply_maps,
    rescale,
    resize_maps,
)
from lpa_core.maps.activation import find_layer
from lpa_core.maps.cam import last_spatial_layer
from lpa_core.networks import build_network


def network(name="vgg", image_size=32):
    built = build_network(name, num_classes=5, width=1 / 16, image_size=image_size)
    built.train()
    with torch.no_grad():
        for _ in range(3):
            built(torch.randn(8, 3, image_size, image_size))
    return built.eval()


# --------------------------------------------------------------------------- activation


@pytest.mark.parametrize("power", [1, 2, 4, 0.5])
def test_activation_maps_by_a_loop(power):
    activations = torch.randn(2, 3, 4, 5)
    found = activation_map(activations, power)
    for b in range(2):
        for i in range(4):
            for j in range(5):
                wanted = sum(abs(v) ** power for v in activations[b, :, i, j].tolist())
                assert found[b, i, j].item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("power", [0, -1])
def test_a_power_of_nothing_is_refused(power):
    with pytest.raises(ValueError, match=f"power {power}: give a number above 0"):
        activation_map(torch.ones(1, 1, 2, 2), power)


def test_activation_maps_of_named_layers_are_those_of_what_they_put_out():
    net, images = network("vgg-att2-concat-pc"), torch.randn(2, 3, 32, 32)
    found = activation_maps(net, images, ["layer13", "trunk.layer10"])
    assert list(found) == ["layer13", "trunk.layer10"]
    x = images
    for name, module in net.trunk.named_children():
        x = module(x)
        if name == "layer10":
            wanted = x.detach().square().sum(dim=1)
    torch.testing.assert_close(found["trunk.layer10"], wanted)
    torch.testing.assert_close(found["layer13"], x.detach().square().sum(dim=1))
    assert found["layer13"].shape == (2, 8, 8)


def test_an_activation_that_is_changed_in_place_later_is_kept_as_it_was():
    net, images = network(), torch.randn(2, 3, 32, 32)
    found = activation_maps(net, images, ["trunk.layer1.norm"])["trunk.layer1.norm"]
    layer = net.trunk.layer1
    wanted = layer.norm(layer.conv(images)).detach().square().sum(dim=1)
    torch.testing.assert_close(found, wanted)


def test_no_hook_stays_behind():
    net, images = network(), torch.randn(2, 3, 32, 32)
    activation_maps(net, images, ["layer10"])
    with pytest.raises(ValueError, match="name a layer with a spatial output"):
        activation_maps(net, images, ["layer10", "classifier"])
    grad_cam(net, images, "layer10")
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())


def test_layers_that_are_not_there_are_named():
    with pytest.raises(ValueError, match="no layer 'layer99'; it has .*layer13"):
        find_layer(network(), "layer99")
    with pytest.raises(ValueError, match=r"'conv' is ambiguous: .*trunk.layer1.conv"):
        find_layer(network(), "conv")
    with pytest.raises(ValueError, match="no layer ''"):
        find_layer(network(), "")


# ----------------------------------------------------------------------------- Grad-CAM


def by_hand(net, images, layer, classes):
    """Selvaraju et al. 2017, eq. 1 and 2: mean gradients as weights, a sum, a ReLU."""
    module, kept = find_layer(net, layer), {}

    def keep(module, inputs, output):
        kept["a"] = output

    hook = module.register_forward_hook(keep)
    logits = net(images)
    hook.remove()
    maps = []
    for b, label in enumerate(classes):
        gradient = torch.autograd.grad(logits[b, label], kept["a"], retain_graph=True)[0]
        alpha = gradient[b].mean(dim=(1, 2))
        maps.append((alpha[:, None, None] * kept["a"][b]).sum(dim=0).relu().detach())
    return torch.stack(maps)


@pytest.mark.parametrize("layer", ["layer7", "layer10", "layer13"])
def test_grad_cam_is_its_formula(layer):
    pytest.importorskip("pytorch_grad_cam")
    net, images = network(), torch.randn(4, 3, 32, 32)
    classes = net(images).argmax(dim=1)
    found = grad_cam(net, images, layer)
    assert found.shape == (4, 32, 32)
    wanted = by_hand(net, images, layer, classes)
    enlarged = torch.nn.functional.interpolate(wanted[:, None], 32, mode="bilinear")[:, 0]
    torch.testing.assert_close(rescale(found), rescale(enlarged), atol=2e-3, rtol=0)
    other = (classes + 1) % 5
    torch.testing.assert_close(
        rescale(grad_cam(net, images, layer, other)),
        rescale(
            torch.nn.functional.interpolate(
                by_hand(net, images, layer, other)[:, None], 32, mode="bilinear"
            )[:, 0]
        ),
        atol=2e-3,
        rtol=0,
    )


def test_grad_cam_leaves_the_network_as_it_was():
    pytest.importorskip("pytorch_grad_cam")
    net, images = network(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():  # as in a notebook that only looks
        before = net(images)
        grad_cam(net, images)
        torch.testing.assert_close(net(images), before)
    assert all(p.grad is None for p in net.parameters())
    assert not net.training


@pytest.mark.parametrize(
    "name, size, layer, side",
    [
        ("vgg", 32, "trunk.layer13", 2),
        ("vgg", 80, "trunk.layer13", 3),
        ("vgg-att2-concat-pc", 32, "end.layer15", 2),
    ],
)
def test_the_last_layer_with_positions(name, size, layer, side):
    net = network(name, size)
    assert last_spatial_layer(net) == layer
    maps = activation_maps(net, torch.randn(1, 3, size, size), [layer])
    assert maps[layer].shape == (1, side, side)


def test_a_network_without_positions_is_named():
    class Flat(nn.Module):
        image_size = 32

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, kernel_size=32)

        def forward(self, x):
            return self.conv(x).flatten(1)

    with pytest.raises(ValueError, match="no convolution with more than one position"):
        last_spatial_layer.__wrapped__.__wrapped__(Flat())


def test_without_the_library_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("pytorch_grad_cam"):
            raise ImportError("not here")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install grad-cam"):
        grad_cam(network(), torch.randn(1, 3, 32, 32))


# ------------------------------------------------------------------- products, constants


def attention(seed, side=8):
    random = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(2, side * side, generator=random)
    return scores.softmax(dim=1).view(2, side, side)


def test_multiplied_maps_are_the_plain_product():
    maps = {name: attention(n) for n, name in enumerate(("layer7", "layer10", "layer13"))}
    product = maps["layer10"].numpy() * maps["layer13"].numpy()
    low, high = (f(axis=(1, 2), keepdims=True) for f in (product.min, product.max))
    found = multiply_maps(maps, 8).numpy()
    np.testing.assert_allclose(found, (product - low) / (high - low), atol=1e-6)
    squared = combine_maps(maps, 8).square()
    assert (squared - torch.from_numpy(found)).abs().max() > 1e-4 or np.allclose(low, 0)
    alone = {"layer13": attention(1)}
    torch.testing.assert_close(multiply_maps(alone, 8), rescale(attention(1)))
    with pytest.raises(ValueError, match="no maps to combine"):
        multiply_maps({}, 8)


@pytest.mark.parametrize("size", [7, 20, 32, 128])
def test_uniform_attention_stays_uniform_when_it_is_resized(size):
    """Rounding in the interpolation must not be stretched to a pattern."""
    sides = {"layer10": 16, "layer13": 8}
    uniform = {name: torch.full((1, n, n), 1 / n**2) for name, n in sides.items()}
    assert resize_maps(uniform["layer13"], size).std() < 1e-6
    for combined in (combine_maps(uniform, size), multiply_maps(uniform, size)):
        assert not combined.any()
