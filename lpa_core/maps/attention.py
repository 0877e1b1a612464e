"""Attention maps resized and combined (Jetley et al. 2018, A.4)."""

from torch import Tensor

from lpa_core.maps.arrays import rescale, resize
from lpa_core.shapes import Bool, Float

__all__ = ["combine_maps", "mass_on", "multiply_maps", "resize_maps"]


def resize_maps(maps: Float[Tensor, "b h w"], size: int) -> Float[Tensor, "b s s"]:
    """Maps resized to `size` x `size` by bilinear interpolation, each summing to one.

    Raises:
        ValueError: size is below 1.
    """
    if size < 1:
        raise ValueError(f"size {size}: give at least 1 pixel a side")
    resized = resize(maps[:, None], size, size)[:, 0]
    return resized / resized.sum(dim=(1, 2), keepdim=True)


def combine_maps(
    maps: dict[str, Float[Tensor, "b _ _"]], size: int
) -> Float[Tensor, "b s s"]:
    """The maps of the last two levels, combined and rescaled to [0, 1].

    The square root of the element-wise product, after resizing both to one size: "in the
    limit of the two probabilistic attention distributions approaching each other" it is
    that distribution again (A.4). A network with one level gives that level's map.

    Args:
        maps: per layer, lowest first, as `attend` returns them.
        size: pixels per side of the result.

    Raises:
        ValueError: there are no maps.
    """
    last = last_two(maps, size)
    combined = last[0] if len(last) == 1 else (last[0] * last[1]).sqrt()
    return rescale(combined)


def multiply_maps(
    maps: dict[str, Float[Tensor, "b _ _"]], size: int
) -> Float[Tensor, "b s s"]:
    """The plain product of the last two levels, rescaled to [0, 1].

    For progressive attention, `vgg-pan`: its maps "are not complementary but sequential"
    (A.4), so no root is taken. Arguments and errors as in `combine_maps`.
    """
    last = last_two(maps, size)
    return rescale(last[0] if len(last) == 1 else last[0] * last[1])


def last_two(
    maps: dict[str, Float[Tensor, "b _ _"]], size: int
) -> list[Float[Tensor, "b s s"]]:
    """The maps of the last two levels, or of the only one, at one size."""
    if not maps:
        raise ValueError("there are no maps to combine: this network has no attention")
    return [resize_maps(m, size) for m in list(maps.values())[-2:]]


def mass_on(
    maps: Float[Tensor, "b h w"], masks: Bool[Tensor, "b s s"]
) -> Float[Tensor, " b"]:
    """The share of each map's attention on its mask, from 0 to 1.

    Compare it with the mask's share of the image, which is the score of a uniform map.

    Raises:
        ValueError: maps and masks differ in number.
    """
    if len(maps) != len(masks):
        raise ValueError(f"{len(maps)} maps, but {len(masks)} masks: give one each")
    resized = resize_maps(maps, masks.shape[-1])
    return (resized * masks).sum(dim=(1, 2))
