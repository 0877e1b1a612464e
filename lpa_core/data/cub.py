"""CUB-200-2011: birds, cropped to their boxes and resized to 80x80 (the paper's A.1)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lpa_core.data.dataset import Arrays, DataError, Parts, data_folder, open_prepared
from lpa_core.data.photographs import (
    open_photograph,
    progress,
    resized_by,
    shrink_photograph,
)

__all__ = ["CLASSES", "load_parts", "read_birds", "read_cub"]

LISTS = (
    "images.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "bounding_boxes.txt",
    "classes.txt",
)
SIZE = 80
AGAIN = "unpack CUB_200_2011.tgz again"


def numbers_in(ranges: str) -> tuple[int, ...]:
    """ "1-3 7" to (1, 2, 3, 7)."""
    ends = [[int(end) for end in item.split("-")] for item in ranges.split()]
    return tuple(number for end in ends for number in range(end[0], end[-1] + 1))


# The classes of each set, by the number at the start of their name ("001.Black_footed…").
CLASSES = {
    "cub200": numbers_in("1-200"),
    "cub50": numbers_in("1-50"),
    "cub127": numbers_in(
        "1-58 60-61 63 67-70 73 75 77 79-81 83 85-90 93-98 100-101 105-106 109-110 114 120 "
        "123-124 132 134 136 138-140 151-152 158-159 163-166 169-170 172 176 180-181 "
        "184-192 194-195 198 200"
    ),
}


@dataclass(frozen=True)
class Lists:
    """What the text files of CUB_200_2011 say, by the number of an image or a class."""

    files: dict[str, str]
    labels: dict[str, str]
    training: dict[str, str]
    boxes: dict[str, str]
    names: dict[str, str]

    def images_of(self, classes: tuple[int, ...]) -> list[tuple[int, str]]:
        """(label, image) of some classes, sorted by class and then by image.

        Labels count from 0 in the order of `classes`.
        """
        order = {number: label for label, number in enumerate(classes)}
        kept = sorted((int(c), int(i)) for i, c in self.labels.items() if int(c) in order)
        return [(order[number], str(image)) for number, image in kept]


def read_lists(folder: Path, also: tuple[str, ...] = ()) -> Lists:
    """The lists of CUB_200_2011.

    Raises:
        DataError: one of them or of the files in `also` is missing, or they do not agree.
    """
    missing = [name for name in (*LISTS, *also) if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks {', '.join(missing)}: unpack all of CUB_200_2011.tgz there"
        )
    lists = Lists(*(read_list(folder / name) for name in LISTS))
    files, labels, training, boxes = lists.files, lists.labels, lists.training, lists.boxes
    if not files.keys() == labels.keys() == training.keys() == boxes.keys():
        raise DataError(
            f"the lists in {folder} name different images ({len(files)} in images.txt, "
            f"{len(labels)} with a class, {len(training)} with a split, {len(boxes)} with "
            f"a box): {AGAIN}"
        )
    return lists


def read_list(file: Path) -> dict[str, str]:
    """The lines of a list, `NUMBER WORDS`, as a dictionary."""
    lines = file.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    try:
        return {number: words.strip() for number, words in pairs}
    except ValueError as error:
        raise DataError(
            f"{file} has a line that is not a number followed by a value: {AGAIN}"
        ) from error


def read_birds(root: Path, name: str) -> Arrays:
    """Some classes, from the prepared cub200 if `root` has it, else from CUB_200_2011."""
    prepared = root / "cub200.npz"
    if prepared.exists():
        return select_classes(prepared, CLASSES[name])
    return read_cub(root / "CUB_200_2011", name)


def select_classes(path: Path, classes: tuple[int, ...]) -> Arrays:
    """Some classes of the prepared cub200. Its label 0 is class number 1."""
    with open_prepared(path, "prepare cub200 again") as file:
        arrays = dict(file)
    labels = np.array(classes) - 1
    kept = np.isin(arrays["y_all"], labels)
    for key in ("x_all", "y_all", "is_train"):
        arrays[key] = arrays[key][kept]
    arrays["y_all"] = np.searchsorted(labels, arrays["y_all"])
    return arrays | {"classes": arrays["classes"][labels]}


def read_cub(folder: Path, name: str = "cub200") -> Arrays:
    """x_all, y_all, is_train and classes of cub200, or of some of its classes.

    Args:
        folder: CUB_200_2011 as published, with its lists and its images.
        name: a key of `CLASSES`.

    Raises:
        DataError: a list or a photograph is missing, or the lists do not agree.
    """
    lists = read_lists(folder)
    kept = lists.images_of(CLASSES[name])
    photographs = [folder / "images" / lists.files[i] for _, i in kept]
    missing = [file for file in photographs if not file.is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing)} of the {len(kept)} photographs of {name}; the "
            f"first is {missing[0]}. Unpack all of CUB_200_2011.tgz there, or move the "
            "folder away so that it is downloaded"
        )
    pairs = list(zip(photographs, kept, strict=True))
    return {
        "x_all": np.stack(
            [cropped(file, lists.boxes[i]) for file, (_, i) in progress(pairs, name)]
        ),
        "y_all": np.array([label for label, _ in kept], dtype=np.int64),
        "is_train": np.array([lists.training[i] == "1" for _, i in kept]),
        "classes": np.array([c for n in CLASSES[name] if (c := lists.names.get(str(n)))]),
        "resized_by": resized_by(),
    }


def cropped(file: Path, box: str) -> np.ndarray:
    """One bird, uint8 (80, 80, 3); `box` is its left, top, width and height in pixels."""
    left, top, width, height = (round(float(number)) for number in box.split())
    photograph = open_photograph(file)
    right = min(left + width, photograph.width)
    bottom = min(top + height, photograph.height)
    if not (0 <= left < right and 0 <= top < bottom):
        raise DataError(
            f"{file} is {photograph.width}x{photograph.height} pixels, and its box "
            f"({box}) lies outside it: {AGAIN}"
        )
    bird = photograph.crop((left, top, right, bottom))
    return np.asarray(shrink_photograph(bird, SIZE))


# ---------------------------------------------------------------------------- parts


def load_parts(
    name: str = "cub200", split: str = "test", root: str | Path | None = None
) -> Parts:
    """The part annotations of CUB-200-2011 for the images of `load(name, split, root)`.

    The prepared file does not contain them. The data folder must hold the lists of
    CUB_200_2011 and its folder `parts`; the images are not needed.

    Args:
        name: "cub200", "cub50" or "cub127".
        split: "train" or "test".
        root: see `data_folder`.

    Raises:
        ValueError: unknown set or split.
        DataError: a list is missing, or the lists do not agree with each other or with
            the prepared file.
    """
    if name not in CLASSES or split not in ("train", "test"):
        raise ValueError(
            f"no part annotations for {name!r}, {split!r}: choose one of "
            f"{', '.join(CLASSES)}, and train or test"
        )
    root = data_folder(root)
    folder = root / "CUB_200_2011"
    lists = read_lists(folder, also=("parts/parts.txt", "parts/part_locs.txt"))
    in_split = "1" if split == "train" else "0"
    kept = [
        (label, i)
        for label, i in lists.images_of(CLASSES[name])
        if lists.training[i] == in_split
    ]
    check_rows(root / f"{name}.npz", split, [label for label, _ in kept])
    names = read_list(folder / "parts/parts.txt")
    rows = {i: row for row, (_, i) in enumerate(kept)}
    columns = {number: column for column, number in enumerate(names)}
    points = torch.zeros(len(kept), len(names), 2)
    visible = torch.zeros(len(kept), len(names), dtype=torch.bool)
    for line in (folder / "parts/part_locs.txt").read_text(encoding="utf-8").splitlines():
        try:
            i, number, across, down, seen = line.split()
            if i not in rows:
                continue
            left, top, width, height = map(float, lists.boxes[i].split())
            row, column = rows[i], columns[number]
            points[row, column, 0] = (float(across) - left) / width
            points[row, column, 1] = (float(down) - top) / height
        except (KeyError, ValueError, ZeroDivisionError) as error:
            raise DataError(
                f"{folder}/parts/part_locs.txt has the line {line!r}; each line must be "
                f"an image, a part, x, y and whether the part is visible: {AGAIN}"
            ) from error
        # Cropping to the box removed the parts outside it.
        inside = bool(((points[row, column] >= 0) & (points[row, column] <= 1)).all())
        visible[row, column] = seen == "1" and inside
    return Parts(list(names.values()), points, visible)


def check_rows(path: Path, split: str, labels: list[int]) -> None:
    """Check by the labels that a prepared file has the same rows as the lists."""
    if not path.exists():
        return
    with open_prepared(path, "replace it with a complete one") as file:
        is_train, prepared = file["is_train"], file["y_all"]
    prepared = prepared[is_train if split == "train" else ~is_train]
    if prepared.tolist() != labels:
        raise DataError(
            f"the classes of the {len(prepared)} {split} images in {path} differ from "
            f"those of the {len(labels)} in CUB_200_2011's lists: their parts are unknown"
        )
