"""Saliency without learning: what figure 9 sets beside the attention maps, computed.

BMS, Boolean map saliency: Zhang & Sclaroff 2013, "Saliency Detection: A Boolean Map
Approach". A region that a threshold cuts out and that does not touch the border is a
figure on a ground. It has two modes: where people look, and which objects are whole.

MC, absorbing Markov chain: Jiang et al. 2013, "Saliency Detection via Absorbing Markov
Chain". A walk that starts on the object takes long to reach the border, because it seldom
crosses to a region of another colour.

Both take a photograph of any size and give a map of that size, from 0 to 1. Each is tested
against its definition; the authors' own programs were not run beside them.
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

LONGEST = 300  # pixels of the longer side that larger photographs are worked on with

STEP = 8  # of BMS, between two thresholds, in channels from 0 to 255

# MC, from its paper and the authors' code:
SUPERPIXELS = 250
COMPACTNESS = 20  # of SLIC, against colour distance in CIELab
SIGMA2 = 0.1  # an edge weighs exp(-distance / SIGMA2), distances from 0 to 1
SMALLEST = 1e-5  # added to it, so that every region can be left
ISOLATED = 1.1  # a region is set aside whose edges, with 1 for itself, weigh less
NEIGHBOUR = 0.3  # saliency of a neighbour that makes such a region salient
LEVELS = 10  # of the histogram that tells whether the background is long-range
SPREAD = 2  # its score from which on the absorbed time is corrected


@dataclass(frozen=True)
class BooleanMaps:
    """Settings of BMS, in pixels of images of one width; other images get kernels to scale.

    Attributes:
        width: of the images.
        opening: width of the opening of a Boolean map.
        dilation: width of that of an attention map. last_dilation: of that of their mean.
        blur: standard deviation of the final blur.
        radius: of the disk of the two reconstructions that find whole objects.
    """

    width: int
    opening: int
    dilation: int = 1
    last_dilation: int = 1
    blur: float = 0
    radius: int = 0


# Where people look, and whole objects, as the authors' release of 2013 has them; and where
# people look with the two kernels that a later batch file of theirs gives.
FIXATION_2013 = BooleanMaps(600, opening=5, dilation=7, last_dilation=23, blur=20)
FIXATION_BATCH = BooleanMaps(600, opening=5, dilation=7, last_dilation=9, blur=9)
OBJECTS_2013 = BooleanMaps(400, opening=13, radius=15)


def boolean_map_saliency(
    image: np.ndarray | Tensor,
    longest: int = LONGEST,
    settings: BooleanMaps = FIXATION_2013,
) -> Float[np.ndarray, "h w"]:
    """BMS: how often thresholds make a figure of a pixel (Zhang & Sclaroff 2013).

    Made to tell where people look: a small figure counts for more than a large one, since
    each attention map is given the length 1.

    Args:
        image: uint8 (H, W, 3), RGB.
        longest: photographs with a longer side are shrunk to this while it is computed.
        settings: sizes of the kernels.

    Returns:
        The map (H, W) from 0 to 1; zero where no region is surrounded.

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

    Each figure counts the same, whatever its size, and none is widened; what is smaller
    than a disk is taken off the mean, or filled in it, by reconstruction, which keeps
    contours. Arguments, result and errors as in `boolean_map_saliency`.
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

    A Boolean map is a channel above a threshold, or not above it, opened by a square of
    `opening` pixels; thresholds stand `STEP` apart.
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
    """Boolean maps eroded by a square of `width` pixels; outside the image nothing counts.

    By shifts, which is many times as fast for Booleans as a general filter.
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
    """The same, dilated: what is not there, narrowed."""
    return ~narrowed(~maps, width)


def surrounded(boolean: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels of regions, of either value, that do not touch the image's border.

    A region is what is 8-connected and of one value.
    """
    labels = skimage.measure.label(boolean.astype(np.uint8), background=2, connectivity=2)
    regions = np.asarray(labels)
    free = np.ones(regions.max() + 1, dtype=bool)
    free[border(regions)] = False
    return free[regions]


def lab_channels(image: np.ndarray) -> Float[np.ndarray, "h w 3"]:
    """CIELab, each channel on a scale of 256 steps."""
    return skimage.color.rgb2lab(image) * (2.55, 1, 1) + (0, 128, 128)


def markov_chain_saliency(
    image: np.ndarray | Tensor, longest: int = LONGEST
) -> Float[np.ndarray, "h w"]:
    """MC: how long a walk over the image takes to its border (Jiang et al. 2013).

    Args:
        image: uint8 (H, W, 3), RGB.
        longest: photographs with a longer side are shrunk to this while it is computed.

    Returns:
        The map (H, W) from 0 to 1, one value a superpixel.

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
    """Which regions share a side or a corner of a pixel."""
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
    """Weights between regions: to neighbours, to theirs, along the border, to itself.

    A region is tied to its neighbours and theirs, and each at the border to all others
    there; such an edge weighs exp(-distance / SIGMA2), with the colour distances of the
    image's edges stretched to [0, 1]. A region weighs 1 with itself.
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

    A region unlike all it is tied to would hold a walk for ever: it is set aside, and
    counts as salient if a neighbour is.
    """
    values = np.zeros(len(affinity))
    kept = affinity.sum(axis=1) >= ISOLATED
    if (kept & edge).any():  # else no walk ever ends
        inner = affinity[np.ix_(kept, kept)]
        # The border's regions are doubled: the doubles absorb, with the same edges.
        exits = affinity[np.ix_(kept, kept & edge)].sum(axis=1)
        values[kept] = corrected_time(inner, exits)
    beside = np.any(near & (values > NEIGHBOUR), axis=1)
    values[~kept] = beside[~kept]
    return values


def corrected_time(
    affinity: Float[np.ndarray, "n n"], exits: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """The absorbed time from 0 to 1, corrected where the background is long-range.

    A wide, even background in the middle holds a walk for long as well. Then many regions
    lie between the extremes, the score rises, and each step is counted by the inverse of
    its region's share in the equilibrium of the walk without exits.
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
    """How long a walk from each node lasts until it is absorbed: y = (I - Q)^-1 steps.

    Args:
        affinity: weights between the transient nodes.
        exits: the weight of each to all absorbing nodes together.
        steps: how long one stay at a node is; ones count the steps.
    """
    leaving = affinity.sum(axis=1) + exits
    transitions = affinity / leaving[:, None]  # Q
    return np.linalg.solve(np.eye(len(affinity)) - transitions, steps)


def border(regions: Int[np.ndarray, "h w"]) -> Int[np.ndarray, " n"]:
    """The labels along the image's border, each once."""
    sides = (regions[0], regions[-1], regions[:, 0], regions[:, -1])
    return np.unique(np.concatenate(sides))


def stretched(values: np.ndarray) -> np.ndarray:
    """From 0 to 1; zero where they are all the same."""
    return rescale(torch.from_numpy(values)[None], rounding=1e-12)[0].numpy()


def odd(width: int, scale: float) -> int:
    """A kernel's width at another scale: the nearest odd number of pixels."""
    return 2 * round((width - 1) / 2 * scale) + 1


def checked(image: np.ndarray | Tensor) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"saliency is computed of one RGB image, uint8 of shape (H, W, 3); "
            f"it got {image.dtype} of shape {image.shape}"
        )
    return image


def shrunk(image: np.ndarray, longest: int) -> np.ndarray:
    """The image with a longer side of at most `longest` pixels, its shape kept."""
    if longest < 16:
        raise ValueError(f"longest {longest}: give at least 16 pixels")
    height, width = image.shape[:2]
    share = min(1, longest / max(height, width))
    if share == 1:
        return image
    height, width = (max(1, round(side * share)) for side in (height, width))
    return resize_photograph(image, height, width).numpy()
