"""A data set that is generated when it is loaded, so that nothing needs the internet.

Each image shows one handwritten digit (the 8x8 digits that scikit-learn ships) in a
random colour, size and position on a photograph of a texture (those that scikit-image
ships), among fragments of other digits. A mask marks the digit. As in the paper's
photographs, there is something to look for and something to ignore, and the mask says
exactly which pixels an attention map should cover. The paper does not use this set.

It has three splits:

* train: two thirds of the digits, on the upper two thirds of five photographs;
* test: the other digits, on the lower third of the same photographs;
* shifted: the same digits as test, at the same sizes and positions, on other photographs.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from lpa_core.shapes import Bool, Int, UInt8

__all__ = ["COUNTS", "make_embedded"]

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
COUNTS = {"train": 8000, "test": 2000, "shifted": 2000}
SEEN = ("brick", "grass", "gravel", "coffee", "cat")  # functions of skimage.data
UNSEEN = ("immunohistochemistry", "coins", "page")
SIZE = 32
LUMA = np.array([0.299, 0.587, 0.114])
FRAGMENTS = 4  # per image
PATCH = 8  # maximum width of a fragment, in pixels
BATCH = 250  # images made at a time, to fit into the CPU's cache


@cache
def make_embedded(
    split: str,
) -> tuple[
    UInt8[Tensor, "n 32 32 3"], Int[Tensor, " n"], Bool[Tensor, "n 32 32"], list[str]
]:
    """Images, labels, masks and class names of one split, the same at every call.

    The tensors are cached: copy them before you modify them.

    Args:
        split: "train" (8,000 images), "test" or "shifted" (2,000 each).

    Returns:
        images uint8 (N, 32, 32, 3), labels int64 (N,), masks bool (N, 32, 32) that are
        True where the digit covers more than half of a pixel, and the ten names.

    Raises:
        ValueError: there is no such split.
    """
    if split not in COUNTS:
        raise ValueError(
            f"embedded has no split {split!r}: choose one of {', '.join(COUNTS)}"
        )
    digits, digit_labels = originals(split)
    regions = texture_regions(split)
    # Two random generators: test and shifted share the first, so that they differ only
    # in their textures and colours.
    shapes = np.random.default_rng([2018, int(split == "train")])
    surfaces = np.random.default_rng([1804, list(COUNTS).index(split)])
    labels = shapes.permutation(np.arange(COUNTS[split]) % len(CLASSES))
    images = np.empty((len(labels), SIZE, SIZE, 3), np.uint8)
    masks = np.empty((len(labels), SIZE, SIZE), bool)
    for start in range(0, len(labels), BATCH):
        batch = slice(start, start + BATCH)
        alpha = draw_digits(digits, digit_labels, labels[batch], shapes)
        pieces = draw_fragments(digits, digit_labels, labels[batch], alpha, shapes)
        textures = draw_textures(regions, alpha, surfaces)
        images[batch] = paint([*pieces, alpha], textures, surfaces)
        masks[batch] = alpha > 0.5
    to_tensor = torch.from_numpy
    return to_tensor(images), to_tensor(labels.astype(np.int64)), to_tensor(masks), CLASSES


def originals(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The split's 8x8 digits, float (n, 8, 8) in [0, 1], and their labels (n,).

    The first two thirds of each class are for training. The split follows the order of
    the file and is not random, because neighbours there often have the same writer.
    """
    from sklearn.datasets import load_digits

    digits, labels = map(np.asarray, load_digits(return_X_y=True))
    rank = np.empty(len(labels), int)  # a digit's rank among those of its class
    for c in range(len(CLASSES)):
        rank[labels == c] = np.arange(np.count_nonzero(labels == c))
    early = rank < np.bincount(labels)[labels] * 2 // 3
    chosen = early if split == "train" else ~early
    return digits[chosen].reshape(-1, 8, 8) / 16, labels[chosen]


def texture_regions(split: str) -> list[np.ndarray]:
    """The regions of photographs that a split uses, float (H, W, 3) in [0, 1]."""
    if split == "shifted":
        return [halved(photograph(name)) for name in UNSEEN]
    regions = []
    for name in SEEN:
        photo = photograph(name)
        cut = len(photo) * 2 // 3
        regions.append(halved(photo[:cut] if split == "train" else photo[cut:]))
    return regions


def photograph(name: str) -> np.ndarray:
    """One of scikit-image's own photographs, uint8 (H, W, 3); never downloaded."""
    from skimage import data

    photo = getattr(data, name)()
    return photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, axis=2)


def halved(photo: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) to float (H/2, W/2, 3) in [0, 1]: the mean of each 2x2 block."""
    h, w = len(photo) // 2, photo.shape[1] // 2
    return photo[: 2 * h, : 2 * w].reshape(h, 2, w, 2, 3).mean(axis=(1, 3)) / 255


def draw_digits(digits, digit_labels, labels, rng) -> np.ndarray:
    """One digit per label at a random size and position: the fraction of each pixel that
    it covers, (B, 32, 32) in [0, 1]."""
    count = len(labels)
    chosen = digits[pick(digit_labels, labels, rng)]
    height = rng.uniform(15, 22, count)
    width = height * rng.uniform(0.85, 1.15, count)
    top = rng.uniform(0, 1, count) * (SIZE - height)
    left = rng.uniform(0, 1, count) * (SIZE - width)
    pixels = np.arange(SIZE) + 0.5
    rows = (pixels - top[:, None]) * 8 / height[:, None] - 0.5
    columns = (pixels - left[:, None]) * 8 / width[:, None] - 0.5
    return enlarge(chosen, rows, columns)


def pick(digit_labels, labels, rng) -> np.ndarray:
    """The index of a random original digit for each label, (B,)."""
    order = np.argsort(digit_labels, kind="stable")
    counts = np.bincount(digit_labels, minlength=len(CLASSES))
    first = np.cumsum(counts) - counts
    return order[first[labels] + (rng.random(len(labels)) * counts[labels]).astype(int)]


def enlarge(digits, rows, columns) -> np.ndarray:
    """Coverage (B, h, w) of digits (B, 8, 8) at the positions rows (B, h), columns
    (B, w), which are in cells of the original, by cubic interpolation."""
    ink = cubic(rows) @ digits @ cubic(columns).transpose(0, 2, 1)
    return np.clip((ink - 0.3) / 0.35, 0, 1)  # sharper edges than 8x8 has


def cubic(positions) -> np.ndarray:
    """Weights (B, n, 8) of the 8 cells at each position (B, n): Catmull and Rom's kernel.
    Beyond the edge a digit is blank."""
    d = np.abs(positions[..., None] - np.arange(8))
    near = 1 + d * d * (1.5 * d - 2.5)
    far = 2 - d * (4 - d * (2.5 - 0.5 * d))
    return np.where(d < 1, near, np.where(d < 2, far, 0))


def draw_fragments(digits, digit_labels, labels, alpha, rng) -> list[np.ndarray]:
    """Pieces of digits of other classes, 6 to 8 pixels wide, that do not touch the digit:
    coverage (B, 32, 32) of each. An image without room for a piece gets none."""
    free = ~widened(alpha > 0.1, PATCH // 2 + 1)
    canvases = []
    for _ in range(FRAGMENTS):
        other = (labels + rng.integers(1, len(CLASSES), len(labels))) % len(CLASSES)
        patch = draw_patches(digits[pick(digit_labels, other, rng)], rng)
        patch *= np.any(free, axis=(1, 2), keepdims=True)
        lottery = rng.random(free.shape, dtype=np.float32) * free
        top, left = np.divmod(lottery.reshape(len(labels), -1).argmax(axis=1), SIZE)
        canvas = np.zeros((len(labels), SIZE + PATCH, SIZE + PATCH))
        steps = np.arange(PATCH)
        canvas[
            np.arange(len(labels))[:, None, None],
            (top[:, None] + steps)[:, :, None],
            (left[:, None] + steps)[:, None],
        ] = patch
        edge = PATCH // 2
        canvases.append(canvas[:, edge : edge + SIZE, edge : edge + SIZE])
    return canvases


def draw_patches(digits, rng) -> np.ndarray:
    """A round piece of each digit, around a random spot of its ink: (B, 8, 8)."""
    count = len(digits)
    lottery = rng.random(digits.shape) * (digits > 0.6)
    row, column = np.divmod(lottery.reshape(count, -1).argmax(axis=1), 8)
    steps = np.arange(PATCH) - (PATCH - 1) / 2
    scaled = steps * (8 / rng.uniform(15, 22, (count, 1)))
    pieces = enlarge(digits, row[:, None] + scaled, column[:, None] + scaled)
    radius = rng.uniform(3, 4, (count, 1, 1))
    return pieces * np.clip(radius + 0.5 - np.hypot(steps[:, None], steps), 0, 1)


def widened(mask: np.ndarray, by: int) -> np.ndarray:
    """mask (B, 32, 32) with everything within `by` pixels, in rows and in columns."""
    padded = np.pad(mask, ((0, 0), (by, by), (by, by)))
    rows = np.any([padded[:, i : i + SIZE] for i in range(2 * by + 1)], axis=0)
    return np.any([rows[:, :, i : i + SIZE] for i in range(2 * by + 1)], axis=0)


def draw_textures(regions, alpha, rng) -> np.ndarray:
    """Tinted crops of random regions, each mirrored at random: (B, 3, 32, 32)."""
    count = len(alpha)
    crops = np.empty((count, 3, SIZE, SIZE))
    which = rng.integers(len(regions), size=count)
    corner = rng.random((count, 2))
    mirror = rng.random((count, 2)) < 0.5
    steps = np.where(mirror[..., None], np.arange(SIZE)[::-1], np.arange(SIZE))
    for i, region in enumerate(regions):
        here = which == i
        room = np.array(region.shape[:2]) - SIZE + 1
        rows, columns = np.moveaxis(
            (corner[here] * room).astype(int)[..., None] + steps[here], 1, 0
        )
        crops[here] = region[rows[:, :, None], columns[:, None]].transpose(0, 3, 1, 2)
    mean = crops.mean(axis=(2, 3), keepdims=True)
    tint = rng.uniform(0.4, 1.1, (count, 3, 1, 1)).clip(max=1)
    return (mean + 0.7 * (crops - mean)) * tint


def paint(layers, images, rng) -> np.ndarray:
    """Paint layers of coverage (B, 32, 32), the digit last, over images (B, 3, 32, 32).
    Each layer has one colour that contrasts with its background. The images are
    overwritten. Returns uint8 (B, 32, 32, 3)."""
    luma = np.tensordot(images, LUMA, (1, 0))
    for layer in layers:
        under = (luma * layer).sum(axis=(1, 2)) / (layer.sum(axis=(1, 2)) + 1e-6)
        u = rng.random((len(images), 8, 3))
        colours = u * u * (3 - 2 * u)  # more often saturated than grey
        best = np.abs(colours @ LUMA - under[:, None]).argmax(axis=1)
        colour = colours[np.arange(len(images)), best][:, :, None, None]
        images += layer[:, None] * (colour - images)
    return np.round(images * 255).astype(np.uint8).transpose(0, 2, 3, 1)
