"""Attention on the parts of birds, against a loop over pixels; the task on real birds."""

import math

import numpy as np
import pytest
import torch

from lpa_core import build_network
from lpa_core.data import Dataset, Parts, build_preprocess, load, load_parts
from lpa_core.data.dataset import data_folder
from lpa_core.maps import discs
from lpa_core.results.store import shipped
from lpa_core.tasks import TASKS, MeasureOptions, measure
from lpa_core.tasks import parts as task
from lpa_core.tasks.parts import GROUPS, PartsSettings, describe_parts
from lpa_core.training import Trained

OWNERS = [
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg",
    "left wing", "nape", "right eye", "right leg", "right wing", "tail", "throat",
]  # fmt: skip


def share_by_hand(one_map, points, radius, side=80):
    """Shares of attention and of area on discs around points, pixel by pixel."""
    inside = [
        (y, x)
        for y in range(side)
        for x in range(side)
        if any(
            ((x + 0.5) / side - across) ** 2 + ((y + 0.5) / side - down) ** 2 <= radius**2
            for across, down in points
        )
    ]
    total = float(one_map.sum())
    return sum(float(one_map[y, x]) for y, x in inside) / total, len(inside) / side**2


def test_discs_are_those_inside_the_image_of_the_visible_points():
    points = torch.tensor([[[0.5, 0.5], [0.2, 0.7]], [[0.0, 0.0], [1.0, 0.4]]])
    visible = torch.tensor([[True, True], [True, False]])
    found = discs(points, visible, radius=0.15, side=20)
    for row, mask in enumerate(found):
        seen = points[row][visible[row]].tolist()
        _, area = share_by_hand(np.ones((20, 20)), seen, 0.15, side=20)
        assert mask.double().mean().item() == pytest.approx(area)
    with pytest.raises(ValueError, match=r"radius 0.01: give at least 0.05, a pixel"):
        discs(points, visible, radius=0.01, side=20)


@pytest.fixture
def trained():
    torch.manual_seed(0)
    network = build_network("vgg-att2-concat-pc", num_classes=10, width=1 / 32).eval()
    preprocess = build_preprocess("scale")
    return Trained(network, preprocess, [str(n) for n in range(10)], {})


def test_shares_are_those_of_a_loop_over_pixels(trained, monkeypatch):
    torch.manual_seed(1)
    maps = torch.rand(4, 80, 80) ** 4
    monkeypatch.setattr(task, "all_maps", lambda *a: {("attention", "layer10"): maps})
    names = ["beak", "left eye", "tail", "left leg"]
    points = torch.rand(4, 4, 2)
    visible = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [1, 1, 1, 0]]).bool()
    images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    table = describe_parts(trained, images, Parts(names, points, visible), radius=0.12)
    table = table.set_index("part")
    # no leg is visible, and so no feet
    assert list(table.index) == ["beak", "left eye", "tail", "eyes and beak"]
    assert table["images"].tolist() == [2, 3, 4, 3]
    for name, columns in {"tail": [2], "eyes and beak": [0, 1]}.items():
        pairs = []
        for row in range(4):
            seen = [points[row, c].tolist() for c in columns if visible[row, c]]
            if seen:
                pairs.append(share_by_hand(maps[row], seen, 0.12))
        share, area = np.array(pairs).T
        row = table.loc[name]
        assert row["share"] == pytest.approx(share.mean(), rel=1e-5)
        assert row["area"] == pytest.approx(area.mean(), rel=1e-5)
        assert row["density"] == pytest.approx((share / area).mean(), rel=1e-5)
        spread = (share / area).std(ddof=1) / math.sqrt(len(share))
        assert row["density sem"] == pytest.approx(spread, rel=1e-4)


def test_parts_of_other_images_are_refused(trained):
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    parts = Parts(["beak"], torch.rand(3, 1, 2), torch.ones(3, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="2 images, but parts for 3"):
        describe_parts(trained, images, parts)
    data = Dataset(images, torch.zeros(2, dtype=torch.int64), ["a"], None, "")
    with pytest.raises(ValueError, match="have no part annotations"):
        TASKS["parts"].run(trained, data, PartsSettings(), False)


def test_some_images_take_their_parts_along():
    parts = Parts(["beak"], torch.rand(3, 1, 2), torch.tensor([[True], [False], [True]]))
    images = torch.zeros(3, 4, 4, 3, dtype=torch.uint8)
    data = Dataset(images, torch.arange(3), ["a", "b", "c"], None, "", parts=parts)
    some = data.take(torch.tensor([2, 0])).parts
    assert some.points[:, 0].tolist() == parts.points[[2, 0], 0].tolist()
    assert some.visible[:, 0].tolist() == [True, True]


def test_the_groups_are_parts_of_the_owners_list():
    members = [part for group in GROUPS.values() for part in group]
    assert len(set(members)) == len(members)
    assert set(members) <= set(OWNERS)


def test_a_set_without_parts_is_refused_before_the_work():
    path = shipped("weights") / "vgg-att2-concat-pc_embedded_w0.125.safetensors"
    with pytest.raises(ValueError, match="choose one of cub200, cub50, cub127"):
        measure("parts", [path], where=MeasureOptions(dataset="embedded", progress=False))


@pytest.mark.slow
def test_real_birds_are_measured_by_their_parts():
    folder = data_folder()
    needed = [folder / "cub50.npz", folder / "CUB_200_2011/parts/part_locs.txt"]
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    path = shipped("weights") / "vgg-att2-concat-pc_cub50_w0.25.safetensors"
    options = MeasureOptions(dataset="cub50", images=40, progress=False)
    (found,) = measure("parts", [path], where=options)
    assert list(found.metrics) == ["layer10", "layer13"]
    for rows in found.metrics.values():
        assert {*GROUPS} <= rows.keys()
        for row in rows.values():
            assert 0 <= row["share"] <= 1 and 0 < row["area"] < 1 and row["images"] <= 40
    # the same images and parts, taken by hand
    data, parts = load("cub50", "test"), load_parts("cub50", "test")
    index = torch.arange(40) * len(data) // 40
    assert found.data.fingerprint == data.take(index).fingerprint
    seen = parts.visible[index][:, parts.names.index("tail")]
    assert found.metrics["layer13"]["tail"]["images"] == int(seen.sum())
