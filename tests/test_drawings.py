"""Drawings, map scales and the chain of networks: what the book's own figures rest on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lpa_core.maps import effective_share
from lpa_core.plots import as_png, as_svg, overlay, show_attention, show_steps
from lpa_core.results import CHAIN, error_steps, read_records
from tools.draw import DRAWINGS, STATIC, draw


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_stored_drawings_are_those_of_the_script(name):
    assert Path(STATIC, f"network-{name}.svg").read_text(encoding="utf-8") == draw(name)


def test_only_dp_asks_with_g_and_only_pc_cancels_it():
    assert "⟨ℓ, g⟩" in draw("vgg-att3-dp") and "cancels" not in draw("vgg-att3-dp")
    assert "⟨ℓ, u⟩" in draw("vgg-att3") and "cancels" in draw("vgg-att3")
    assert "softmax" not in draw("vgg-mean2") + draw("vgg-hires") + draw("vgg")


def test_the_effective_share_of_maps_done_by_hand():
    flat, four = torch.full((8, 8), 1 / 64), torch.zeros(8, 8)
    four[:2, :2] = 1 / 4
    shares = effective_share(torch.stack([flat, four]))
    assert shares.tolist() == pytest.approx([1, 4 / 64])


def test_maps_of_one_scale_do_not_depend_on_their_grid():
    """A flat map of 64 positions and one of 16 get one colour; stretched, a flat map is
    as bright as can be."""
    image = torch.zeros(8, 8, 3, dtype=torch.uint8)
    fine, coarse = torch.full((8, 8), 1 / 64), torch.full((4, 4), 1 / 16)
    shown = [overlay(image, m, 1.0, highest=2.0) for m in (fine, coarse)]
    assert np.allclose(*shown, atol=0.02)
    assert overlay(image, fine, 1.0).mean() > shown[0].mean()


def test_charts_are_svg_and_maps_png():
    image = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    maps = show_attention(image, {"layer1": torch.full((1, 4, 4), 1 / 16)}, ["one"])
    assert as_svg(maps) is None
    found = as_png(maps)
    assert found is not None and found[0].startswith(b"\x89PNG") and found[1]["width"] > 0
    chart = show_steps(error_steps(read_records()))
    assert as_png(chart) is None and "<svg" in (as_svg(chart) or "")


def test_the_steps_add_up_to_the_whole():
    steps = error_steps(read_records())
    assert [step.network for step in steps] == list(CHAIN)
    parts = [step.fewer.mean for step in steps if step.fewer]
    assert sum(parts) == pytest.approx(steps[0].error - steps[-1].error)
    assert error_steps([]) == []
