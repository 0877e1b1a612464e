"""Saliency without learning, which figure 9 compares with the attention maps.

BMS, Boolean map saliency: Zhang & Sclaroff 2013, "Saliency Detection: A Boolean Map
Approach". A thresholded region that does not touch the border is a figure on a ground. It
has two modes: where people look, and whole objects.

MC, absorbing Markov chain: Jiang et al. 2013, "Saliency Detection via Absorbing Markov
Chain". A random walk that starts on the object takes long to reach the border, because it
seldom moves to a region of another colour.

Both take a photograph of any size and give a map of that size, from 0 to 1. Both are
tested against their definitions, but not against the authors' own programs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy
import skimage
import torch
from torch import Tensor

from lpa_core.maps.arrays import enlarged, rescale, resize_photograph
from lpa_core.shapes import Bool, Float, Int

__all__ = [
    "FIXATION_2013",
    "FIXATION_BATCH",
    "LONGEST",
    "OBJECTS_2013",
    "BooleanMaps",
    "absorbed_time",
    "boolean_map_objects",
    "boolean_map_saliency",
    "lab_channels",
    "markov_chain_saliency",
    "surrounded",
]

LONGEST = 300  # larger photographs are shrunk to a longer side of this many pixels

STEP = 8  # between two thresholds of BMS, in channels from 0 to 255

# MC, from its paper and the authors' code:
SUPERPIXELS = 250
COMPACTNESS = 20  # of SLIC, relative to colour distance in CIELab
SIGMA2 = 0.1  # an edge weighs exp(-distance / SIGMA2), distances from 0 to 1
SMALLEST = 1e-5  # added to it, so that a walk can leave every region
ISOLATED = 1.1  # a region with a smaller total weight (its own is 1) is isolated
NEIGHBOUR = 0.3  # a neighbour with this saliency makes an isolated region salient
LEVELS = 10  # of the histogram that detects a long-range background
SPREAD = 2  # the score above which the absorbed time is corrected


@dataclass(frozen=True)
class BooleanMaps:
    """Settings of BMS for images of one width; kernels scale with the width of others.

    Attributes:
        width: of the images, in pixels, like all sizes here.
        opening: kernel width for the opening of a Boolean map.
        dilation: the same for dilating an attention map. last_dilation: for their mean.
        blur: standard deviation of the final blur.
        radius: of the disk in the two reconstructions that find whole objects.
    """

    width: int
    opening: int
    dilation: int = 1
    last_dilation: int = 1
    blur: float = 0
    radius: int = 0


# Where people look and whole objects, with the settings of the authors' release of 2013;
# and where people look, with the two kernels of their later batch file.
FIXATION_2013 = BooleanMaps(600, opening=5, dilation=7, last_dilation=23, blur=20)
FIXATION_BATCH = BooleanMaps(600, opening=5, dilation=7, last_dilation=9, blur=9)
OBJECTS_2013 = BooleanMaps(400, opening=13, radius=15)


def boolean_map_saliency(
    image: np.ndarray | Tensor,
    longest: int = LONGEST,
    settings: BooleanMaps = FIXATION_2013,
) -> Float[np.ndarray, "h w"]:
    """BMS: how often thresholds make a pixel part of a figure (Zhang & Sclaroff 2013).

    This mode predicts where people look: a small figure counts more than a large one,
    because each attention map is normalised to length 1.

    Args:
        image: uint8 (H, W, 3), RGB.
        longest: larger photographs are shrunk to this longer side for the computation.
        settings: sizes of the kernels.

    Returns:
        The map (H, W) from 0 to 1; zero if no region is surrounded.

    Raises:
        ValueError: the image is not uint8 (H, W, 3), or `longest` is too small.
    """
    photograph = checked(image)
    small = shrunk(photograph, longest)
    scale = small.shape[1] / settings.width
    total = np.zeros(small.shape[:2])
    for figure in figures(lab_channels(small), odd(settings.opening, scale)):
        figure = widened(figure, odd(settings.dilation, scale))
        total += figure / np.sqrt(figure.sum())
    size = odd(settings.last_dilation, scale)
    total = scipy.ndimage.grey_dilation(total, size=(size, size))
    total = scipy.ndimage.gaussian_filter(total, settings.blur * scale)
    return enlarged(stretched(total), *photograph.shape[:2])


def boolean_map_objects(
    image: np.ndarray | Tensor, longest: int = LONGEST
) -> Float[np.ndarray, "h w"]:
    """BMS as its authors run it to find whole objects, not where people look.

    Figures of all sizes have the same weight, and none is dilated. Reconstruction removes
    details smaller than a disk from the mean and fills holes in it, and keeps contours.
    Arguments, result and errors as in `boolean_map_saliency`.
    """
    settings = OBJECTS_2013
    photograph = checked(image)
    small = shrunk(photograph, longest)
    scale = small.shape[1] / settings.width
    total = np.zeros(small.shape[:2])
    for figure in figures(lab_channels(small), odd(settings.opening, scale)):
        total += figure
    disk = skimage.morphology.disk(round(settings.radius * scale))
    eroded = scipy.ndimage.grey_erosion(total, footprint=disk)
    total = skimage.morphology.reconstruction(eroded, total)
    dilated = scipy.ndimage.grey_dilation(total, footprint=disk)
    total = skimage.morphology.reconstruction(dilated, total, method="erosion")
    return enlarged(stretched(total), *photograph.shape[:2])


def figures(
    channels: Float[np.ndarray, "h w c"], opening: int
) -> Iterator[Bool[np.ndarray, "h w"]]:
    """The surrounded pixels of each Boolean map that has any.

    A Boolean map is a thresholded channel or its inverse, opened with a square of `opening`
    pixels; thresholds are `STEP` apart.
    """
    for channel in np.moveaxis(channels, -1, 0):
        thresholds = np.arange(channel.min(), channel.max(), STEP)
        above = channel > thresholds[:, None, None]
        for maps in (above, ~above):
            for boolean in widened(narrowed(maps, opening), opening):
                figure = surrounded(boolean)
                if figure.any():
                    yield figure


def narrowed(maps: Bool[np.ndarray, "*n h w"], width: int) -> Bool[np.ndarray, "*n h w"]:
    """Boolean maps eroded by a square of `width` pixels, ignoring the outside of the image.

    It uses shifts, which for Booleans are many times faster than a general filter.
    """
    for axis in (-2, -1):
        there = np.moveaxis(maps, axis, -1)
        maps = maps.copy()
        here = np.moveaxis(maps, axis, -1)
        for shift in range(1, min(width // 2, here.shape[-1] - 1) + 1):
            here[..., shift:] &= there[..., :-shift]
            here[..., :-shift] &= there[..., shift:]
    return maps


def widened(maps: Bool[np.ndarray, "*n h w"], width: int) -> Bool[np.ndarray, "*n h w"]:
    """The same, dilated: the complement is eroded."""
    return ~narrowed(~maps, width)


def surrounded(boolean: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels of regions, of either value, that do not touch the image's border.

    A region is an 8-connected set of one value.
    """
    labels = skimage.measure.label(boolean.astype(np.uint8), background=2, connectivity=2)
    regions = np.asarray(labels)
    free = np.ones(regions.max() + 1, dtype=bool)
    free[border(regions)] = False
    return free[regions]


def lab_channels(image: np.ndarray) -> Float[np.ndarray, "h w 3"]:
    """CIELab, each channel scaled to 0 … 255."""
    return skimage.color.rgb2lab(image) * (2.55, 1, 1) + (0, 128, 128)


def markov_chain_saliency(
    image: np.ndarray | Tensor, longest: int = LONGEST
) -> Float[np.ndarray, "h w"]:
    """MC: how long a walk over the image takes to reach its border (Jiang et al. 2013).

    Args:
        image: uint8 (H, W, 3), RGB.
        longest: larger photographs are shrunk to this longer side for the computation.

    Returns:
        The map (H, W) from 0 to 1, one value per superpixel.

    Raises:
        ValueError: the image is not uint8 (H, W, 3), or `longest` is too small.
    """
    photograph = checked(image)
    small = shrunk(photograph, longest)
    regions = superpixels(small)
    edge = np.zeros(regions.max() + 1, dtype=bool)
    edge[border(regions)] = True
    near = neighbours(regions)
    affinity = affinities(mean_colours(small, regions), near, edge)
    values = chain_saliency(affinity, near, edge)
    return enlarged(values[regions], *photograph.shape[:2])


def superpixels(image: np.ndarray) -> Int[np.ndarray, "h w"]:
    """SLIC's regions, numbered from 0 without gaps."""
    regions = skimage.segmentation.slic(
        image, n_segments=SUPERPIXELS, compactness=COMPACTNESS, start_label=0
    )
    return np.unique(regions, return_inverse=True)[1].reshape(regions.shape)


def neighbours(regions: Int[np.ndarray, "h w"]) -> Bool[np.ndarray, "n n"]:
    """Which regions touch at a side or corner of a pixel."""
    count = regions.max() + 1
    near = np.zeros((count, count), dtype=bool)
    near[regions[:-1], regions[1:]] = True
    near[regions[:, :-1], regions[:, 1:]] = True
    near[regions[:-1, :-1], regions[1:, 1:]] = True
    near[regions[1:, :-1], regions[:-1, 1:]] = True
    np.fill_diagonal(near, False)
    return near | near.T


def mean_colours(
    image: np.ndarray, regions: Int[np.ndarray, "h w"]
) -> Float[np.ndarray, "n 3"]:
    """The mean CIELab colour of each region."""
    flat, lab = regions.ravel(), skimage.color.rgb2lab(image).reshape(-1, 3)
    sums = [np.bincount(flat, weights=channel) for channel in lab.T]
    return np.stack(sums, axis=1) / np.bincount(flat)[:, None]


def affinities(
    colours: Float[np.ndarray, "n 3"],
    near: Bool[np.ndarray, "n n"],
    edge: Bool[np.ndarray, " n"],
) -> Float[np.ndarray, "n n"]:
    """Weights between regions: neighbours, their neighbours, the border, itself.

    Each region has edges to its neighbours and to theirs, and all regions at the border
    have edges to each other. An edge weighs exp(-distance / SIGMA2), with the colour
    distances of all edges rescaled to [0, 1]. The weight of a region to itself is 1.
    """
    tied = near | (near.astype(np.float32) @ near > 0) | np.outer(edge, edge)
    np.fill_diagonal(tied, False)
    affinity = np.eye(len(colours))
    distances = scipy.spatial.distance.cdist(colours, colours)[tied]
    if distances.size:
        affinity[tied] = np.exp(-stretched(distances) / SIGMA2) + SMALLEST
    return affinity


def chain_saliency(
    affinity: Float[np.ndarray, "n n"],
    near: Bool[np.ndarray, "n n"],
    edge: Bool[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """The saliency of each region, from 0 to 1.

    A walk would never leave a region that differs from all its neighbours. Such an isolated
    region is left out, and is salient if a neighbour is.
    """
    values = np.zeros(len(affinity))
    kept = affinity.sum(axis=1) >= ISOLATED
    if (kept & edge).any():  # otherwise no walk ends
        inner = affinity[np.ix_(kept, kept)]
        # The border's regions are duplicated: the copies absorb, with the same edges.
        exits = affinity[np.ix_(kept, kept & edge)].sum(axis=1)
        values[kept] = corrected_time(inner, exits)
    beside = np.any(near & (values > NEIGHBOUR), axis=1)
    values[~kept] = beside[~kept]
    return values


def corrected_time(
    affinity: Float[np.ndarray, "n n"], exits: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """The absorbed time from 0 to 1, corrected for a long-range background.

    A large uniform background in the middle also has a long absorbed time. Then many
    regions have intermediate times and the score is high. In that case, each step is
    weighted by the inverse of its region's probability in the equilibrium without exits.
    """
    degree = affinity.sum(axis=1)
    time = stretched(absorbed_time(affinity, exits, np.ones(len(affinity))))
    share = np.histogram(time, bins=LEVELS, range=(0, 1))[0] / len(time)
    level = np.arange(1, LEVELS + 1)
    if (share * np.minimum(level, LEVELS + 1 - level)).sum() < SPREAD:
        return time
    return stretched(absorbed_time(affinity, exits, 1 / degree))


def absorbed_time(
    affinity: Float[np.ndarray, "n n"],
    exits: Float[np.ndarray, " n"],
    steps: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """The time until a walk from each node is absorbed: y = (I - Q)^-1 steps.

    Args:
        affinity: weights between the transient nodes.
        exits: total weight from each to the absorbing nodes.
        steps: the time of one visit to each node; ones count the steps.
    """
    leaving = affinity.sum(axis=1) + exits
    transitions = affinity / leaving[:, None]  # Q
    return np.linalg.solve(np.eye(len(affinity)) - transitions, steps)


def border(regions: Int[np.ndarray, "h w"]) -> Int[np.ndarray, " n"]:
    """The labels along the image's border, each once."""
    sides = (regions[0], regions[-1], regions[:, 0], regions[:, -1])
    return np.unique(np.concatenate(sides))


def stretched(values: np.ndarray) -> np.ndarray:
    """Values rescaled to [0, 1]; zero if they are all the same."""
    return rescale(torch.from_numpy(values)[None], rounding=1e-12)[0].numpy()


def odd(width: int, scale: float) -> int:
    """A kernel's width at another scale: the nearest odd number of pixels."""
    return 2 * round((width - 1) / 2 * scale) + 1


def checked(image: np.ndarray | Tensor) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"saliency takes one RGB image, uint8 of shape (H, W, 3); "
            f"got {image.dtype} of shape {image.shape}"
        )
    return image


def shrunk(image: np.ndarray, longest: int) -> np.ndarray:
    """The image shrunk to a longer side of at most `longest` pixels."""
    if longest < 16:
        raise ValueError(f"longest {longest}: give at least 16 pixels")
    height, width = image.shape[:2]
    share = min(1, longest / max(height, width))
    if share == 1:
        return image
    height, width = (max(1, round(side * share)) for side in (height, width))
    return resize_photograph(image, height, width).numpy()
