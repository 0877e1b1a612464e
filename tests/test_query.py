"""Query-driven maps, against the equations in NumPy: dp follows a query, pc cannot."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from lpa_core.data import build_preprocess
from lpa_core.data.loaders import to_network_input
from lpa_core.networks import build_network
from lpa_core.tasks.query import (
    draw_pairs,
    query_effect,
    relative_change,
    steer,
)
from lpa_core.training import Trained

CLASSES = ["cat", "dog", "car"]


def trained(name, seed=0):
    torch.manual_seed(seed)
    network = build_network(name, num_classes=3, width=1 / 16)
    network.train()
    with torch.no_grad():  # so that the statistics of BatchNorm are no longer 0 and 1
        for _ in range(3):
            network(torch.rand(16, 3, 32, 32))
    preprocess = build_preprocess("mean-std").eval()
    return Trained(network.eval(), preprocess, CLASSES, {"network": name})


def images(count, seed=0):
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (count, 4, 4, 3), generator=random)
    return coarse.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)


def softmax(scores):
    e = np.exp(scores - scores.max())
    return e / e.sum()


def local_and_query(model, x, layer):
    """Local features at a layer, and g brought to their channels, from the modules."""
    x = to_network_input(x, model.preprocess, 32)
    for name, module in model.network.trunk.named_children():
        x = module(x)
        if name == layer:
            local = x
    g = model.network.end(x)
    project = model.network.head.projections
    if str(local.shape[1]) in project:
        g = project[str(local.shape[1])](g)
    return local.detach().double().numpy(), g.detach().double().numpy()


@pytest.mark.parametrize("layer", ["layer7", "layer10", "layer13"])
@pytest.mark.parametrize("name", ["vgg-att3-concat-dp", "vgg-att3-concat-pc"])
def test_maps_under_another_query_are_those_of_the_equations(name, layer):
    model, targets, queries = trained(name), images(3), images(3, seed=1)
    seen = steer(model, targets, queries, layer)
    local, own = local_and_query(model, targets, layer)
    _, other = local_and_query(model, queries, layer)
    for b in range(3):
        maps = []
        for g in (own[b], other[b]):
            if name.endswith("dp"):
                scores = np.einsum("chw,c->hw", local[b], g)  # eq. 3
            else:
                u = model.network.head.estimators[layer].score.u.weight
                u = u.detach().double().numpy().ravel()
                scores = np.einsum("chw,c->hw", local[b] + g[:, None, None], u)  # eq. 2
            maps.append(softmax(scores))
        old, new = maps
        np.testing.assert_allclose(seen.original[b], old, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(seen.steered[b], new, rtol=1e-3, atol=1e-7)
        change = (new - old) / old
        np.testing.assert_allclose(seen.change[b], change, rtol=1e-2, atol=1e-3)
        assert seen.mean_change[b] == pytest.approx(np.abs(change).mean(), abs=1e-3)
        assert seen.moved[b] == pytest.approx(np.abs(new - old).sum() / 2, abs=1e-5)


@pytest.mark.parametrize("layer", ["layer10", "layer13"])
def test_pc_does_not_follow_a_query_and_dp_does(layer):
    still = steer(trained("vgg-att2-concat-pc"), images(8), images(8, seed=1), layer)
    assert still.change.abs().max() < 1e-4  # rounding of scores in single precision
    assert still.moved.max() < 1e-5
    follows = steer(trained("vgg-att2-concat-dp"), images(8), images(8, seed=1), layer)
    assert follows.change.abs().max() > 100 * still.change.abs().max()
    assert follows.moved.min() > 10 * still.moved.max()


def test_an_image_that_is_its_own_query_changes_nothing():
    seen = steer(trained("vgg-att2-concat-dp"), images(3), images(3))
    assert torch.equal(seen.change, torch.zeros_like(seen.change))


def test_relative_change_by_hand():
    old = torch.tensor([[[0.5, 0.25], [0.25, 0.0]]])
    new = torch.tensor([[[0.25, 0.5], [0.25, 0.0]]])
    wanted = torch.tensor([[[-0.5, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    assert torch.equal(relative_change(old, new), wanted)
    assert torch.isfinite(relative_change(new.flip(1), old)).all()


def test_a_query_for_each_target():
    with pytest.raises(ValueError, match="3 targets, but 2 queries"):
        steer.__wrapped__(trained("vgg-att-dp"), images(3), images(2))


@pytest.mark.parametrize("name, has", [("vgg-att-dp", "layer13"), ("vgg", "no layer")])
def test_a_layer_without_attention_is_named(name, has):
    said = f"no attention at 'layer10'; it has it at {has}"
    with pytest.raises(ValueError, match=said):
        steer(trained(name), images(2), images(2))


# -------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_half_of_one_class_and_half_of_two(seed):
    labels = torch.tensor([0, 0, 1, 1, 1, 2])  # the only car can be a query alone
    targets, queries = draw_pairs(labels, 200, seed)
    assert len(targets) == len(queries) == 400
    assert torch.equal(targets[:200], targets[200:])
    assert (labels[targets[:200]] == labels[queries[:200]]).all()
    assert (labels[targets[200:]] != labels[queries[200:]]).all()
    assert (targets != queries).all()
    assert set(targets.tolist()) == {0, 1, 2, 3, 4}
    assert set(queries[200:].tolist()) == set(range(6))
    again = draw_pairs(labels, 200, seed)
    assert torch.equal(again[0], targets) and torch.equal(again[1], queries)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_labels_that_make_no_pairs_are_refused(labels):
    with pytest.raises(ValueError, match="two classes, one of them with at least two"):
        draw_pairs(torch.tensor(labels), 5)


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="count 0: give at least 1"):
        draw_pairs(torch.tensor([0, 0, 1]), 0)


# ------------------------------------------------------------------------------- effect


def effect(name="vgg-att2-concat-dp", batch_size=64):
    random = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    masks = torch.rand(7, 32, 32, generator=random) < 0.3
    masks[2] = False  # an object that was not drawn
    pairs = draw_pairs(labels, 6)
    classes = [CLASSES[label] for label in labels]
    table = query_effect(
        trained(name),
        images(7),
        pairs,
        masks=masks,
        classes=classes,
        batch_size=batch_size,
        progress=False,
    )
    return table, masks, labels


def test_the_effect_of_each_pair_is_that_of_the_pair_alone():
    table, masks, labels = effect()
    assert len(table) == 12
    model, x = trained("vgg-att2-concat-dp"), images(7)
    for row in table.to_dict("records"):
        t, q = row["target"], row["query"]
        seen = steer(model, x[t : t + 1], x[q : q + 1])
        assert row["change"] == pytest.approx(seen.mean_change.item(), rel=1e-3)
        assert row["moved"] == pytest.approx(seen.moved.item(), rel=1e-3)
        for when, maps in (("before", seen.original), ("after", seen.steered)):
            large = torch.nn.functional.interpolate(
                maps[:, None], (32, 32), mode="bilinear", antialias=True
            )[0, 0]
            wanted = (large * masks[t]).sum() / large.sum()
            assert row[when] == pytest.approx(wanted.item(), abs=1e-5)
        assert row["gained"] == pytest.approx(row["after"] - row["before"])
        assert row["target class"] == CLASSES[labels[t]]
        assert row["contains"] == (labels[t] == labels[q]).item()


def test_the_effect_does_not_depend_on_the_batch():
    pd.testing.assert_frame_equal(effect()[0], effect(batch_size=5)[0], rtol=1e-3)


def test_masks_and_classes_for_every_image():
    pairs = draw_pairs(torch.tensor([0, 0, 1]), 2)
    model, x = trained("vgg-att2-concat-dp"), images(3)
    with pytest.raises(ValueError, match="3 images, but 2 classes"):
        query_effect(model, x, pairs, classes=["a", "b"])
    with pytest.raises(ValueError, match="3 images, but 1 masks"):
        query_effect.__wrapped__(model, x, pairs, masks=torch.ones(1, 8, 8).bool())


def test_the_normalisation_of_the_network_is_used():
    """Targets and queries are both normalised as in training."""
    model = trained("vgg-att2-concat-dp")
    other = build_preprocess("mean-std")
    other.mean.fill_(0.3)
    changed = dataclasses.replace(model, preprocess=other.eval())
    one, two = (steer(m, images(2), images(2, seed=1)) for m in (model, changed))
    assert (one.original - two.original).abs().max() > 1e-6
