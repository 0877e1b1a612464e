"""Maps brought to one size, combined, stretched and measured, against NumPy and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpa_core.maps import combine_maps, mass_on, rescale, resize_maps

quick = settings(max_examples=25, deadline=None)


def attention(seed, count=2, side=8):
    random = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(count, side * side, generator=random)
    return scores.softmax(dim=1).view(count, side, side)


@quick
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 40))
def test_resized_maps_sum_to_one(seed, side, size):
    resized = resize_maps(attention(seed, side=side), size)
    assert resized.shape == (2, size, size)
    assert (resized >= 0).all()
    torch.testing.assert_close(resized.sum(dim=(1, 2)), torch.ones(2))


def test_resizing_to_the_same_size_changes_nothing():
    maps = attention(0)
    torch.testing.assert_close(resize_maps(maps, 8), maps)


def test_a_map_is_enlarged_by_interpolation_between_the_middles_of_its_cells():
    """(3, 1) along a row of two cells: 3, 2.5, 1.5, 1 on four."""
    maps = torch.tensor([[[3.0, 1.0], [3.0, 1.0]]]) / 8
    row = torch.tensor([3.0, 2.5, 1.5, 1.0])
    torch.testing.assert_close(resize_maps(maps, 4)[0], row.expand(4, 4) / 32)


def test_combined_maps_are_the_root_of_their_product():
    """Section A.4, on maps of one size; the first of three levels is left out."""
    maps = {name: attention(n) for n, name in enumerate(("layer7", "layer10", "layer13"))}
    wanted = []
    for low, high in zip(maps["layer10"].numpy(), maps["layer13"].numpy(), strict=True):
        combined = np.sqrt(low * high)
        wanted.append((combined - combined.min()) / (combined.max() - combined.min()))
    found = combine_maps(maps, 8).numpy()
    np.testing.assert_allclose(found, np.stack(wanted), rtol=1e-4, atol=1e-6)


def test_combining_a_map_with_itself_gives_it_again():
    """ "In the limit of the two distributions approaching each other"."""
    maps = attention(3)
    torch.testing.assert_close(
        combine_maps({"layer10": maps, "layer13": maps}, 8), rescale(maps)
    )


def test_maps_of_several_sizes_are_combined_at_the_one_asked_for():
    maps = {"layer10": attention(0, side=16), "layer13": attention(1, side=8)}
    product = resize_maps(maps["layer10"], 32) * resize_maps(maps["layer13"], 32)
    found = combine_maps(maps, 32)
    assert found.shape == (2, 32, 32)
    torch.testing.assert_close(found, rescale(product.sqrt()))


def test_a_single_level_is_rescaled_alone():
    maps = attention(0)
    torch.testing.assert_close(combine_maps({"layer13": maps}, 8), rescale(maps))


def test_each_map_is_stretched_by_itself():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 5.0]], [[-1.0, 0.0], [0.0, 0.0]]])
    wanted = torch.tensor([[[0.0, 0.25], [0.5, 1.0]], [[0.0, 1.0], [1.0, 1.0]]])
    torch.testing.assert_close(rescale(maps), wanted)


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0])
def test_a_constant_map_becomes_zero(value):
    assert torch.equal(rescale(torch.full((2, 3, 3), value)), torch.zeros(2, 3, 3))


def test_mass_on_a_mask_by_hand():
    maps = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]]).expand(4, 2, 2)
    masks = torch.tensor(
        [
            [[True, False], [False, False]],
            [[False, True], [False, True]],
            [[True, True], [True, True]],
            [[False, False], [False, False]],
        ]
    )
    torch.testing.assert_close(mass_on(maps, masks), torch.tensor([0.1, 0.6, 1.0, 0.0]))


def test_a_uniform_map_scores_the_masks_share_of_the_image():
    masks = torch.rand(5, 32, 32) < 0.3
    found = mass_on(torch.full((5, 8, 8), 1 / 64), masks)
    torch.testing.assert_close(found, masks.float().mean(dim=(1, 2)))


def test_a_map_without_a_mask_is_refused():
    with pytest.raises(ValueError, match="3 maps, but 2 masks"):
        mass_on.__wrapped__(attention(0, count=3), torch.ones(2, 8, 8, dtype=torch.bool))


@pytest.mark.parametrize("size", [0, -4])
def test_a_size_without_pixels_is_refused(size):
    with pytest.raises(ValueError, match=f"size {size}: give at least 1 pixel"):
        resize_maps(attention(0), size)


def test_no_maps_cannot_be_combined():
    with pytest.raises(
        ValueError, match="no maps to combine: this network has no attention"
    ):
        combine_maps({}, 8)
