"""The two options of the authors' scripts, against gradients and products made by hand.

Guarded: what `average_gradients` does to each layer's gradient, with autograd asked for
one branch at a time; that it leaves the forward pass alone; that `add_log_probabilities`
makes the normalised product of the levels' probabilities; which networks refuse them.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lpa_core import build_network, list_networks
from lpa_core.networks.base import AttentionHead

WIDTH = 1 / 16
NAMES = list_networks()
ATTENTION = [name for name in NAMES if "-att" in name or "-mean" in name]
INDEP = [name for name in NAMES if "-indep-" in name]


def pair(name, **options):
    """A network without and with options: the same numbers in double precision."""
    common = dict(num_classes=5, width=WIDTH, dropout=0)
    plain = build_network(name, **common).double()
    other = build_network(name, **common, **options).double()
    other.load_state_dict(plain.state_dict())
    return plain, other


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, dtype=torch.float64)


# ---------------------------------------------------------- gradients at the head alone

CHANNELS = {"low": 4, "middle": 6, "high": 6}


def heads(compatibility, join):
    """Without and with the option, the same numbers."""
    options = dict(
        query_channels=6, num_classes=5, compatibility=compatibility, fusion=join,
        dropout=0, projection_dropout=0,
    )  # fmt: skip
    plain = AttentionHead(CHANNELS, **options).double()
    averaged = AttentionHead(CHANNELS, **options, average_gradients=True).double()
    averaged.load_state_dict(plain.state_dict())
    return plain, averaged


def leaves(tensors):
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def loss_by_branch(head, local, queries, labels):
    """The head's loss where each level has a query of its own to take gradients at."""
    prepared = {}
    for (name, x), g in zip(local.items(), queries, strict=True):
        channels = x.shape[1]
        own = g if channels == g.shape[1] else head.projections[str(channels)](g)
        descriptor, _ = head.estimators[name](x, own)
        prepared[name] = head.prepare[name](descriptor)
    logits = head.classify(prepared, torch.cat(list(prepared.values()), dim=1))
    return F.cross_entropy(logits, labels)


@pytest.mark.parametrize("join", ["concat", "indep"])
@pytest.mark.parametrize("compatibility", ["pc", "dp", "tanh", "mean"])
def test_where_branches_meet_the_gradient_is_their_mean(compatibility, join):
    """Local features meet the next layer's gradient; g meets one of each level."""
    plain, averaged = heads(compatibility, join)
    start = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    labels = torch.tensor([0, 2, 4])
    steps = nn.ModuleList([nn.Conv2d(4, 6, 3, 2), nn.Conv2d(6, 6, 2), nn.Linear(6, 6)])
    steps.double()

    def chain(x, forward):
        """low -> middle -> high -> g."""
        low = forward(x)
        middle = steps[0](low).tanh()
        high = steps[1](middle).tanh()
        return low, middle, high, steps[2](high.mean(dim=(2, 3)))

    (root,) = leaves([start])
    low, middle, high, g = found = chain(root, torch.sin)
    seen = averaged({"low": low, "middle": middle, "high": high}, g)
    loss = F.cross_entropy(seen.logits, labels)
    found = torch.autograd.grad(
        loss, [root, *steps.parameters()], allow_unused=True, materialize_grads=True
    )

    # The same, each branch by itself, from detached inputs.
    with torch.no_grad():
        low, middle, high, g = chain(start, torch.sin)
    local = dict(zip(CHANNELS, leaves([low, middle, high]), strict=True))
    queries = leaves([g, g, g])
    loss = loss_by_branch(plain, local, queries, labels)
    of_head = torch.autograd.grad(
        loss, [*local.values(), *queries], allow_unused=True, materialize_grads=True
    )
    of_low, of_middle, of_high = of_head[:3]
    at_g = sum(of_head[3:]) / 3

    def behind(step, x, gradient):
        """Gradients at `x` and at a layer's numbers, from that of the layer's output."""
        (x,) = leaves([x])
        given = [x, *step.parameters()]
        out = step(x.mean(dim=(2, 3))) if step is steps[2] else step(x).tanh()
        return torch.autograd.grad(out, given, gradient)

    next_high, *of_linear = behind(steps[2], high, at_g)
    next_middle, *of_second = behind(steps[1], middle, (of_high + next_high) / 2)
    next_low, *of_first = behind(steps[0], low, (of_middle + next_middle) / 2)
    at_root = (of_low + next_low) / 2 * start.cos()
    wanted = [at_root, *of_first, *of_second, *of_linear]
    for mine, theirs in zip(wanted, found, strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-9, atol=1e-13)
    assert at_root.norm() > 1e-4
    if compatibility in ("dp", "tanh"):
        assert at_g.norm() > 1e-5


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_gradient_at_g_is_the_sum_over_levels_divided_by_their_number(levels):
    channels = dict(list(CHANNELS.items())[-levels:])
    local = {
        name: torch.randn(3, c, 4, 4, dtype=torch.float64) for name, c in channels.items()
    }
    query, labels = torch.randn(3, 6, dtype=torch.float64), torch.tensor([0, 2, 4])
    gradients = []
    for average in (False, True):
        torch.manual_seed(1)
        head = AttentionHead(
            channels, 6, 5, "dp", dropout=0, projection_dropout=0, average_gradients=average
        ).double()
        (g,) = leaves([query])
        (found,) = torch.autograd.grad(F.cross_entropy(head(local, g).logits, labels), g)
        gradients.append(found)
    torch.testing.assert_close(gradients[1], gradients[0] / levels)
    assert gradients[0].norm() > 1e-5


def test_a_query_given_twice_gets_the_same_gradient_twice(images):
    """The network must leave nothing on a tensor of the caller's."""
    _, averaged = pair("vgg-att2-concat-dp", average_gradients=True)
    averaged.eval()
    query = torch.randn(4, round(512 * WIDTH), dtype=torch.float64, requires_grad=True)
    first, second = (
        torch.autograd.grad(averaged.attend(images, query=query).logits[:, 0].sum(), query)
        for _ in range(2)
    )
    assert first[0].norm() > 1e-5
    assert torch.equal(second[0], first[0])


def test_the_heads_own_numbers_get_the_gradient_they_had():
    """Nothing meets there."""
    gradients = []
    for head in heads("dp", "concat"):
        torch.manual_seed(1)
        local = {
            name: torch.randn(3, c, 4, 4, dtype=torch.float64, requires_grad=True)
            for name, c in CHANNELS.items()
        }
        g = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
        loss = F.cross_entropy(head(local, g).logits, torch.tensor([0, 2, 4]))
        gradients.append(torch.autograd.grad(loss, list(head.parameters())))
    for plain, averaged in zip(*gradients, strict=True):
        assert torch.equal(plain, averaged)


# ------------------------------------------------------------ gradients of a network


def gradients_by_hand(network, images, labels):
    """Every parameter's gradient under the mean rule, one part of the network at a time.

    The network is cut at its attended layers and at g; each part is run again on detached
    inputs, and what it sends back is scaled here.
    """
    parts, stage = [], []
    for name, layer in network.trunk.named_children():
        stage.append(layer)
        if name in network.attended:
            parts.append(nn.Sequential(*stage))
            stage = []
    outputs, x = [], images
    runs = []  # (input, output, parameters) of each part
    for part in [*parts, network.end]:
        x = x.detach().clone().requires_grad_()
        out = part(x)
        runs.append((x, out, list(part.parameters())))
        x = out
        outputs.append(out.detach().clone().requires_grad_())
    *local, g = outputs
    loss = F.cross_entropy(
        network.head(dict(zip(network.attended, local, strict=True)), g).logits, labels
    )
    of_parameters = {}

    def note(parameters, gradients):
        of_parameters.update(zip(parameters, gradients, strict=True))

    head = list(network.head.parameters())
    *of_local, of_g = torch.autograd.grad(
        loss, [*local, g], retain_graph=True, allow_unused=True, materialize_grads=True
    )
    note(head, torch.autograd.grad(loss, head, allow_unused=True, materialize_grads=True))
    x, out, parameters = runs.pop()
    below, *gradients = torch.autograd.grad(out, [x, *parameters], of_g / len(local))
    note(parameters, gradients)
    for of_head in reversed(of_local):
        x, out, parameters = runs.pop()
        below, *gradients = torch.autograd.grad(
            out, [x, *parameters], (of_head + below) / 2
        )
        note(parameters, gradients)
    return [of_parameters[parameter] for parameter in network.parameters()]


@pytest.mark.parametrize(
    "name",
    ["vgg-att-dp", "vgg-att3-concat-dp", "vgg-att3-indep-dp", "vgg-att2-concat-tanh",
     "vgg-att2-indep-pc", "vgg-mean3", "rn20-att2"],
)  # fmt: skip
def test_a_whole_network_propagates_the_mean(name, images):
    plain, averaged = pair(name, average_gradients=True)
    labels = torch.arange(4)
    found = torch.autograd.grad(
        F.cross_entropy(averaged(images), labels), list(averaged.parameters()),
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    wanted = gradients_by_hand(plain, images, labels)
    largest = max(gradient.abs().max() for gradient in wanted)
    for (key, _), mine, theirs in zip(plain.named_parameters(), wanted, found, strict=True):
        assert (theirs - mine).abs().max() < 1e-10 * largest, key
    # And that is another gradient than the usual one, at the first convolution.
    loss = F.cross_entropy(plain(images), labels)
    (usual,) = torch.autograd.grad(loss, next(plain.parameters()))
    assert (found[0] - usual).abs().max() > 0.1 * usual.abs().max()


def test_progressive_attention_propagates_the_mean(images):
    """Behind layer 10 meet its global branch and the gates; behind layer 13 g and the map.

    Each part is run by itself on detached inputs; what it sends back is scaled here.
    """
    plain, averaged = pair("vgg-pan", average_gradients=True)
    labels = torch.arange(4)
    layers = dict(plain.trunk.named_children())
    cut = list(layers).index("layer10") + 1
    low, high = (nn.Sequential(*part) for part in (
        list(layers.values())[:cut], list(layers.values())[cut:]))  # fmt: skip

    ten = low(images)
    (x,) = leaves([ten])
    early = plain.early_end(x)
    (g,) = leaves([early])
    (gated_input,) = leaves([x])
    gated = plain.gate.scores(gated_input, g).sigmoid()[:, None] * gated_input
    (y,) = leaves([gated])
    thirteen = high(y)
    (z,) = leaves([thirteen])
    end = plain.end(z)
    (late,) = leaves([end])
    (local,) = leaves([z])
    logits = plain.head({"layer13": local}, late).logits
    F.cross_entropy(logits, labels).backward()
    end.backward(late.grad)
    thirteen.backward((z.grad + local.grad) / 2)
    gated.backward(y.grad)
    early.backward(g.grad)
    ten.backward((x.grad + gated_input.grad) / 2)

    F.cross_entropy(averaged(images), labels).backward()
    largest = max(p.grad.abs().max() for p in plain.parameters() if p.grad is not None)
    for (name, mine), theirs in zip(
        plain.named_parameters(), averaged.parameters(), strict=True
    ):
        assert mine.grad is not None and theirs.grad is not None, name
        assert (theirs.grad - mine.grad).abs().max() < 1e-10 * largest, name


@pytest.mark.parametrize("name", ATTENTION)
def test_averaging_leaves_the_forward_pass_alone(name, images):
    plain, averaged = pair(name, average_gradients=True)
    assert averaged.head.average_gradients
    assert not plain.head.average_gradients
    seen, same = plain.eval().attend(images), averaged.eval().attend(images)
    assert torch.equal(seen.logits, same.logits)
    assert torch.equal(seen.query, same.query)
    for layer, attention in seen.maps.items():
        assert torch.equal(attention, same.maps[layer])
    with torch.no_grad():  # where there is no gradient to average
        assert torch.equal(averaged(images), same.logits)


# ------------------------------------------------------------------ log-probabilities


@pytest.mark.parametrize("name", INDEP)
def test_log_probabilities_are_added(name, images):
    plain, adding = pair(name, add_log_probabilities=True)
    assert adding.head.add_log_probabilities
    with torch.no_grad():
        averaged, seen = plain.eval().attend(images), adding.eval().attend(images)
    numbers = {k: v.numpy() for k, v in adding.head.state_dict().items()}
    total, mean = 0, 0
    for layer, descriptor in seen.descriptors.items():
        stem = f"prepare.{layer}.0"
        x = (descriptor.numpy() - numbers[f"{stem}.running_mean"]) / np.sqrt(
            numbers[f"{stem}.running_var"] + 1e-5
        )
        x = np.maximum(x * numbers[f"{stem}.weight"] + numbers[f"{stem}.bias"], 0)
        e = np.exp(
            x @ numbers[f"classifiers.{layer}.weight"].T
            + numbers[f"classifiers.{layer}.bias"]
        )
        probabilities = e / e.sum(axis=1, keepdims=True)
        total = total + np.log(probabilities)
        mean = mean + probabilities / len(seen.descriptors)
    np.testing.assert_allclose(seen.logits.numpy(), total, rtol=1e-9)
    product = np.exp(total)
    np.testing.assert_allclose(
        seen.logits.softmax(dim=1).numpy(), product / product.sum(axis=1, keepdims=True)
    )
    np.testing.assert_allclose(averaged.logits.softmax(dim=1).numpy(), mean)
    for layer, attention in averaged.maps.items():
        assert torch.equal(attention, seen.maps[layer])
    assert torch.equal(averaged.features, seen.features)


def logits_of(levels, add):
    """The logits of a head whose levels give these probabilities, whatever they see."""
    channels = {f"level{i}": 3 for i in range(len(levels))}
    head = AttentionHead(
        channels, 3, len(levels[0]), "dp", "indep", add_log_probabilities=add
    )
    head.double().eval()
    with torch.no_grad():
        for name, probabilities in zip(channels, levels, strict=True):
            head.classifiers[name].weight.zero_()
            head.classifiers[name].bias.copy_(torch.tensor(probabilities).double().log())
        local = {name: torch.randn(1, 3, 2, 2, dtype=torch.float64) for name in channels}
        return head(local, torch.randn(1, 3, dtype=torch.float64)).logits[0]


def test_the_two_rules_may_choose_different_classes():
    """Two levels sure of different classes: the product takes what both think possible."""
    levels = [[0.90, 0.09, 0.01], [0.01, 0.19, 0.80]]
    mean = torch.tensor([0.455, 0.140, 0.405], dtype=torch.float64)
    product = torch.tensor([0.0090, 0.0171, 0.0080], dtype=torch.float64)
    averaged, added = logits_of(levels, add=False), logits_of(levels, add=True)
    torch.testing.assert_close(averaged.exp(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(added.exp(), product, rtol=1e-6, atol=0)
    assert (averaged.argmax(), added.argmax()) == (0, 1)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 4).flatmap(
        lambda classes: st.lists(
            st.lists(st.floats(0.01, 1), min_size=classes, max_size=classes),
            min_size=1,
            max_size=3,
        )
    )
)
def test_softmax_gives_the_mean_or_the_normalised_product(weights):
    levels = [(np.array(row) / sum(row)).tolist() for row in weights]
    product = np.prod(levels, axis=0)
    for add, wanted in ((False, np.mean(levels, axis=0)), (True, product / product.sum())):
        found = logits_of(levels, add).softmax(dim=0).numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_both_options_go_together(images):
    name, options = "vgg-att3-indep-dp", {"add_log_probabilities": True}
    _, plain = pair(name, **options)
    _, both = pair(name, **options, average_gradients=True)
    both.load_state_dict(plain.state_dict())
    labels = torch.arange(4)
    assert torch.equal(both(images), plain(images))
    wanted = gradients_by_hand(plain, images, labels)
    found = torch.autograd.grad(
        F.cross_entropy(both(images), labels), list(both.parameters())
    )
    largest = max(gradient.abs().max() for gradient in wanted)
    for mine, theirs in zip(wanted, found, strict=True):
        assert (theirs - mine).abs().max() < 1e-10 * largest


# ---------------------------------------------------------------------- wrong input


@pytest.mark.parametrize("name", [name for name in NAMES if name not in INDEP])
def test_log_probabilities_need_levels_that_have_them(name):
    message = rf"applies to the indep networks; {name} has no class probabilities"
    with pytest.raises(ValueError, match=message):
        build_network(name, num_classes=5, width=WIDTH, add_log_probabilities=True)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in [*ATTENTION, "vgg-pan"]])
def test_averaging_needs_attended_layers(name):
    message = rf"applies to the attention networks; {name} has no attended layers"
    with pytest.raises(ValueError, match=message):
        build_network(name, num_classes=5, width=WIDTH, average_gradients=True)


def test_a_head_that_joins_by_concat_adds_nothing():
    with pytest.raises(ValueError, match=r"needs fusion='indep'; this head uses 'concat'"):
        AttentionHead({"a": 3}, 3, 5, fusion="concat", add_log_probabilities=True)
