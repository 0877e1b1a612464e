"""CUB-200-2011: birds, cropped to their boxes and resized to 80x80 (the paper's A.1)."""

from pathlib import Path

import numpy as np

from lpa_core.data.dataset import DataError
from lpa_core.data.folders import (
    open_photograph,
    progress,
    resized_by,
    shrink_photograph,
)

__all__ = ["first_classes", "read_cub"]

LISTS = (
    "images.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "bounding_boxes.txt",
    "classes.txt",
)
SIZE = 80


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
