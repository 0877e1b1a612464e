"""Photographs with object masks, read from their folders at whatever size is wanted.

The network sees 32x32 pixels; where its maps are measured against masks, larger ones
tell more. Photograph and mask are resized whole to the same square, so they stay in
register.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lpa_core.data.dataset import DataError
from lpa_core.data.folders import (
    open_photograph,
    photographs_in,
    progress,
    shrink_photograph,
)
from lpa_core.shapes import Bool, Int, UInt8

__all__ = ["count_masked", "read_coseg", "read_object_discovery"]

DISCOVERED = ("Airplane", "Car", "Horse")

Masked = tuple[
    UInt8[Tensor, "n s s 3"], Int[Tensor, " n"], Bool[Tensor, "n s s"], list[str]
]


def read_coseg(folder: Path, size: int) -> Masked:
    """CLASS/images/NAME.jpg with CLASS/masks/NAME.png: images, labels, masks, classes.

    Raises:
        DataError: there is nothing there, or a photograph is without its mask.
    """
    classes = sorted(f.name for f in folder.iterdir() if (f / "images").is_dir())
    pairs = []
    for label, name in enumerate(classes):
        for photograph in photographs_in(folder / name / "images"):
            mask = folder / name / "masks" / f"{photograph.stem}.png"
            if not mask.is_file():
                raise DataError(f"{photograph} has no mask at {mask}: unpack the set again")
            pairs.append((photograph, mask, label))
    if not pairs:
        raise DataError(
            f"{folder} has no photographs in it, as CLASS/images/*.jpg and "
            "CLASS/masks/*.png: unpack the set there again"
        )
    return read_pairs(pairs, classes, size, folder.name)


def read_object_discovery(folder: Path, size: int) -> Masked:
    """CLASS100/NAME.jpg with CLASS100/GroundTruth/NAME.png, of three classes.

    Some of the photographs are there to mislead and show no such object: theirs is an
    empty mask, and so is a mask that is not there.

    Raises:
        DataError: a class, or all of its masks, are missing.
    """
    missing = [
        place
        for name in DISCOVERED
        for place in (f"{name}100", f"{name}100/GroundTruth")
        if not (folder / place).is_dir()
    ]
    if missing:
        raise DataError(
            f"{folder} lacks {', '.join(missing)}: unpack the set there, with its folders "
            "CLASS100/*.jpg and CLASS100/GroundTruth/*.png"
        )
    pairs = []
    for label, name in enumerate(DISCOVERED):
        for photograph in photographs_in(folder / f"{name}100"):
            mask = photograph.parent / "GroundTruth" / f"{photograph.stem}.png"
            pairs.append((photograph, mask if mask.is_file() else None, label))
    return read_pairs(pairs, list(DISCOVERED), size, folder.name)


def read_pairs(pairs, classes: list[str], size: int, what: str) -> Masked:
    """The photographs and masks of `pairs` (photograph, mask or None, label)."""
    images, masks = [], []
    for file, mask_file, _ in progress(pairs, what):
        photograph = open_photograph(file)
        images.append(np.asarray(shrink_photograph(photograph, size)))
        if mask_file is None:
            masks.append(np.zeros((size, size), bool))
            continue
        mask = open_photograph(mask_file)
        if mask.size != photograph.size:
            raise DataError(
                f"{mask_file} is {mask.width}x{mask.height} pixels, its photograph "
                f"{photograph.width}x{photograph.height}: unpack the set again"
            )
        masks.append(shrink_mask(mask, size))
    return (
        torch.from_numpy(np.stack(images)),
        torch.tensor([label for _, _, label in pairs]),
        torch.from_numpy(np.stack(masks)),
        classes,
    )


def shrink_mask(mask: Any, size: int) -> np.ndarray:
    """bool (S, S): True where the object covers more than half of a pixel."""
    from PIL import Image

    covered = mask.convert("L").point(lambda grey: 255 if grey > 127 else 0)
    return np.asarray(covered.resize((size, size), Image.Resampling.BOX)) > 127


def count_masked(folder: Path) -> int:
    """How many photographs such a folder has."""
    inner = [f / "images" if (f / "images").is_dir() else f for f in folder.iterdir()]
    return sum(len(photographs_in(f)) for f in inner if f.is_dir())
