"""CUB-200-2011: birds, cropped to their boxes and resized to 80x80 (the paper's A.1)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lpa_core.data.dataset import DataError, data_folder
from lpa_core.data.folders import (
    open_photograph,
    progress,
    resized_by,
    shrink_photograph,
)
from lpa_core.shapes import Bool, Float

__all__ = ["Parts", "first_classes", "load_parts", "read_cub"]

LISTS = (
    "images.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "bounding_boxes.txt",
    "classes.txt",
)
SIZE = 80
CLASS_COUNTS = {"cub200": 200, "cub50": 50}


def read_cub(folder: Path, count: int = 200) -> dict[str, np.ndarray]:
    """x_all, y_all, is_train and classes of the first `count` classes.

    Args:
        folder: CUB_200_2011 as published, with its lists and its images.

    Raises:
        DataError: a list or a photograph is missing, or the lists do not agree.
    """
    missing = [name for name in LISTS if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks {', '.join(missing)}: unpack the whole of CUB_200_2011.tgz "
            "there"
        )
    files, labels, training, boxes, names = (read_list(folder / name) for name in LISTS)
    if not files.keys() == labels.keys() == training.keys() == boxes.keys():
        raise DataError(
            f"{folder}: its lists name different images ({len(files)} in images.txt, "
            f"{len(labels)} with a class, {len(training)} with a split, {len(boxes)} with "
            "a box): unpack CUB_200_2011.tgz again"
        )
    kept = sorted((int(labels[i]), int(i)) for i in files if int(labels[i]) <= count)
    images = [
        cropped(folder / "images" / files[str(i)], boxes[str(i)])
        for _, i in progress(kept, folder.name)
    ]
    return {
        "x_all": np.stack(images),
        "y_all": np.array([label - 1 for label, _ in kept], dtype=np.int64),
        "is_train": np.array([training[str(i)] == "1" for _, i in kept]),
        "classes": np.array([names[str(c)] for c in range(1, min(count, len(names)) + 1)]),
        "resized_by": resized_by(),
    }


def read_list(file: Path) -> dict[str, str]:
    """A list's lines, `NUMBER WORDS`, as a dictionary."""
    lines = file.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    try:
        return {number: words.strip() for number, words in pairs}
    except ValueError as error:
        raise DataError(
            f"{file} has a line that is not a number and what belongs to it: unpack "
            "CUB_200_2011.tgz again"
        ) from error


def cropped(file: Path, box: str) -> np.ndarray:
    """One bird, uint8 (80, 80, 3); `box` is its left, top, width and height in pixels."""
    left, top, width, height = (round(float(number)) for number in box.split())
    photograph = open_photograph(file)
    right = min(left + width, photograph.width)
    bottom = min(top + height, photograph.height)
    if not (0 <= left < right and 0 <= top < bottom):
        raise DataError(
            f"{file} is {photograph.width}x{photograph.height} pixels, and its box "
            f"({box}) is not on it: unpack CUB_200_2011.tgz again"
        )
    bird = photograph.crop((left, top, right, bottom))
    return np.asarray(shrink_photograph(bird, SIZE))


def first_classes(path: Path, count: int) -> dict[str, np.ndarray]:
    """The first `count` classes of a prepared file that keeps its splits in one."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    kept = arrays["y_all"] < count
    for key in ("x_all", "y_all", "is_train"):
        arrays[key] = arrays[key][kept]
    return arrays | {"classes": arrays["classes"][:count]}


@dataclass(frozen=True)
class Parts:
    """Where parts of the birds are, in the cropped images, one row an image of `load`.

    Attributes:
        names: of the P parts ("back", "beak", "belly", …).
        points: (N, P, 2), across and down, as shares of the image from 0 to 1.
        visible: (N, P), whether the part is seen; where it is not, the point says nothing.
    """

    names: list[str]
    points: Float[Tensor, "n p 2"]
    visible: Bool[Tensor, "n p"]


def load_parts(
    name: str = "cub200", split: str = "test", root: str | Path | None = None
) -> Parts:
    """The part annotations of CUB-200-2011 for the images of `load(name, split, root)`.

    They are not in the prepared file: the lists of CUB_200_2011, with its folder `parts`,
    must lie in the data folder. Its images need not.

    Args:
        name: "cub200" or "cub50".
        split: "train" or "test".
        root: see `data_folder`.

    Raises:
        ValueError: another set or split.
        DataError: a list is missing, or the lists do not agree.
    """
    if name not in CLASS_COUNTS or split not in ("train", "test"):
        raise ValueError(
            f"there are parts of {' and '.join(CLASS_COUNTS)}, train and test; not of "
            f"{name!r}, {split!r}"
        )
    folder = data_folder(root) / "CUB_200_2011"
    needed = (*LISTS[:4], "parts/parts.txt", "parts/part_locs.txt")
    missing = [file for file in needed if not (folder / file).is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks {', '.join(missing)}: unpack the lists of CUB_200_2011.tgz "
            "there (the folder `parts` and the files beside `images`)"
        )
    _, labels, training, boxes = (read_list(folder / file) for file in LISTS[:4])
    names = read_list(folder / "parts/parts.txt")
    numbers = {part: column for column, part in enumerate(names)}
    wanted = "1" if split == "train" else "0"
    kept = sorted(
        (int(label), int(i))
        for i, label in labels.items()
        if int(label) <= CLASS_COUNTS[name] and training[i] == wanted
    )
    rows = {str(i): row for row, (_, i) in enumerate(kept)}
    points = torch.zeros(len(kept), len(names), 2)
    visible = torch.zeros(len(kept), len(names), dtype=torch.bool)
    for line in (folder / "parts/part_locs.txt").read_text(encoding="utf-8").splitlines():
        try:
            i, part, across, down, seen = line.split()
            if i not in rows:
                continue
            left, top, width, height = map(float, boxes[i].split())
            row, column = rows[i], numbers[part]
            points[row, column, 0] = (float(across) - left) / width
            points[row, column, 1] = (float(down) - top) / height
        except (KeyError, ValueError, ZeroDivisionError) as error:
            raise DataError(
                f"{folder}/parts/part_locs.txt has the line {line!r}, which is not an "
                "image, a part, a place and whether it is seen: unpack it again"
            ) from error
        # A part outside the box was cut away with the rest of the photograph.
        inside = bool(((points[row, column] >= 0) & (points[row, column] <= 1)).all())
        visible[row, column] = seen == "1" and inside
    return Parts(list(names.values()), points, visible)
