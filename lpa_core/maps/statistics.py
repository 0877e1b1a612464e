"""Statistics for the paper's descriptions of maps: "sharp", "diverse", "on the object".

Each map is treated as a distribution over its n positions, so that maps of different
layers, sizes and kinds can be compared.
"""

import torch
from torch import Tensor

from lpa_core.maps.attention import mass_on
from lpa_core.shapes import Bool, Float

__all__ = [
    "density_on",
    "discs",
    "diversity",
    "effective_share",
    "entropy",
    "similarity",
]


def entropy(maps: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Entropy of each map divided by log n: 1 for a uniform map, 0 for a single position.

    Raises:
        ValueError: maps of one position, negative values, or a map that is zero.
    """
    p = distributions(maps)
    return -torch.xlogy(p, p).sum(dim=1) / torch.log(torch.tensor(float(p.shape[1])))


def effective_share(maps: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """The effective number of positions of each map, exp(entropy), as a fraction of n.

    1 for a uniform map, 1/n for a map that is concentrated on one position.

    Raises:
        ValueError: negative values, or a map that is zero.
    """
    p = distributions(maps)
    return torch.exp(-torch.xlogy(p, p).sum(dim=1)) / p.shape[1]


def diversity(maps: Float[Tensor, "b h w"]) -> float:
    """How much the maps of different images differ: 0 if all are equal, at most 1.

    The entropy of the mean map minus the mean entropy of the maps, divided by log n. It is
    the information that the image carries about the attention's position (the
    Jensen-Shannon divergence of the maps). Sharp maps that always point at the middle
    score 0.

    Raises:
        ValueError: as in `entropy`.
    """
    mean = distributions(maps).mean(dim=0).view(1, *maps.shape[1:])
    return max(0.0, (entropy(mean).mean() - entropy(maps).mean()).item())


def density_on(
    maps: Float[Tensor, "b h w"], masks: Bool[Tensor, "b s s"]
) -> Float[Tensor, " b"]:
    """The attention on a mask as a multiple of what a uniform map puts there.

    nan for an empty mask.

    Raises:
        ValueError: maps and masks differ in number.
    """
    return mass_on(maps, masks) / masks.flatten(1).double().mean(dim=1)


def discs(
    points: Float[Tensor, "b p 2"],
    visible: Bool[Tensor, "b p"],
    radius: float = 0.1,
    side: int = 80,
) -> Bool[Tensor, "b s s"]:
    """The union of discs around the visible points of each image, as a mask.

    Args:
        points: x and y as fractions of the image, as in `lpa_core.data.Parts`.
        radius: of a disc, as a fraction of the image's side; parts outside the image are
            cut off.
        side: pixels per side of the masks.

    Raises:
        ValueError: the radius is smaller than a pixel.
    """
    if not radius * side >= 1:
        raise ValueError(f"radius {radius:g}: give at least {1 / side:g}, a pixel")
    centres = ((torch.arange(side) + 0.5) / side).to(points)
    across, down = points[..., 0, None, None], points[..., 1, None, None]
    distance = (centres[None, :] - across) ** 2 + (centres[:, None] - down) ** 2
    return ((distance <= radius**2) & visible[..., None, None]).any(dim=1)


def similarity(
    maps: Float[Tensor, "b h w"], others: Float[Tensor, "_ _ _"]
) -> Float[Tensor, " b"]:
    """Pearson's correlation over the positions of each pair of maps; nan for a uniform one.

    Raises:
        ValueError: the maps differ in number or size.
    """
    if maps.shape != others.shape:
        raise ValueError(
            f"maps of shape {tuple(maps.shape)} and {tuple(others.shape)}: resize them to "
            "one size first (resize_maps)"
        )
    x, y = (m.flatten(1).double() for m in (maps, others))
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
    return (x * y).sum(dim=1) / (x.norm(dim=1) * y.norm(dim=1))


def distributions(maps: Float[Tensor, "b h w"]) -> Float[Tensor, "b n"]:
    """Maps as distributions over their positions, in double precision."""
    flat = maps.flatten(1).double()
    if flat.shape[1] < 2:
        raise ValueError("a map with one position has only one possible distribution")
    if (flat < 0).any() or not (flat.sum(dim=1) > 0).all():
        raise ValueError("maps must be at least 0 everywhere and above 0 somewhere")
    return flat / flat.sum(dim=1, keepdim=True)
