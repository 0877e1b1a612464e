"""Data sets, their fingerprints, and their prepared files, `NAME.npz`.

A prepared file has uint8 images x_train, x_test (N, H, W, 3), labels y_train, y_test (N,)
and `classes`. A set with all its images in one array has x_all, y_all and, if it has an
official split, a boolean is_train. A file that this package made from photographs also
names the library that resized them (resized_by).
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lpa_core.shapes import Bool, Float, Int, UInt8

__all__ = [
    "Arrays",
    "DataError",
    "Dataset",
    "Parts",
    "count_arrays",
    "count_prepared",
    "data_folder",
    "duplicates",
    "fingerprint",
    "open_prepared",
    "read_prepared",
    "save_prepared",
]

Arrays = dict[str, np.ndarray]


class DataError(RuntimeError):
    """A data set is missing, incomplete or not the published one."""


@dataclass(frozen=True)
class Parts:
    """Positions of the birds' parts in the cropped images, one row per image of `load`.

    Attributes:
        names: the P parts ("back", "beak", "belly", …).
        points: (N, P, 2), x and y as fractions of the image's width and height.
        visible: (N, P), whether the part is visible; if not, its point is meaningless.
    """

    names: list[str]
    points: Float[Tensor, "n p 2"]
    visible: Bool[Tensor, "n p"]

    def take(self, index: Int[Tensor, " k"]) -> "Parts":
        """The parts of the images at these positions, in this order."""
        return Parts(self.names, self.points[index], self.visible[index])


@dataclass(frozen=True)
class Dataset:
    """Images and labels of one split.

    Attributes:
        images: uint8 (N, H, W, 3).
        labels: int64 (N,).
        classes: the classes' names, in the order of their labels.
        masks: bool (N, H, W), True on the object; None if the set has no masks.
        fingerprint: sha256 over images and labels, independent of their order.
        mirrors: whether an image stays in its class when it is mirrored.
        parts: positions of the objects' parts, or None; `load` leaves them out, see
            `load_parts`.
    """

    images: UInt8[Tensor, "n h w 3"]
    labels: Int[Tensor, " n"]
    classes: list[str]
    masks: Bool[Tensor, "n h w"] | None
    fingerprint: str
    mirrors: bool = True
    parts: Parts | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Int[Tensor, " k"]) -> "Dataset":
        """A data set of the images at these positions, in this order.

        Raises:
            IndexError: a position does not exist.
        """
        images, labels = self.images[index], self.labels[index]
        return replace(
            self,
            images=images,
            labels=labels,
            masks=None if self.masks is None else self.masks[index],
            fingerprint=fingerprint(images, labels),
            parts=None if self.parts is None else self.parts.take(index),
        )


def data_folder(root: str | Path | None = None) -> Path:
    """`root`, else $LPA_DATA, else ~/.cache/lpa.

    Raises:
        DataError: the user has no home folder.
    """
    folder = Path(root or os.environ.get("LPA_DATA") or "~/.cache/lpa")
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{folder} cannot be used, because this user has no home folder: set $LPA_DATA "
            "to a folder for data sets (on the command line: --data)"
        ) from error


def fingerprint(images: UInt8[Tensor, "n h w 3"], labels: Int[Tensor, " n"]) -> str:
    """sha256 over the images and labels as a set: their order does not matter."""
    shape = np.array(images.shape[1:], dtype=np.int64).tobytes()
    pixels = images.contiguous().numpy()
    digests = sorted(
        hashlib.sha256(image.tobytes() + label.to_bytes(8, "little")).digest()
        for image, label in zip(pixels, labels.tolist(), strict=True)
    )
    return hashlib.sha256(shape + b"".join(digests)).hexdigest()


def duplicates(
    images: UInt8[Tensor, "n h w 3"], others: UInt8[Tensor, "m h w 3"]
) -> Int[Tensor, "k 2"]:
    """Pairs of equal images: a row (i, j) means that images[i] equals others[j].

    Images are equal if all their pixels are; labels are not compared. An image that
    occurs several times in `others` forms a pair with each of them.
    """
    positions: dict[bytes, list[int]] = {}
    for j, image in enumerate(others.contiguous().numpy()):
        positions.setdefault(image.tobytes(), []).append(j)
    pairs = [
        (i, j)
        for i, image in enumerate(images.contiguous().numpy())
        for j in positions.get(image.tobytes(), [])
    ]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


# ------------------------------------------------------------------------ prepared files

# Only files whose images this package resized have this key.
OPTIONAL = ("resized_by",)


def save_prepared(path: Path, arrays: Arrays) -> None:
    """Write a prepared file whole or not at all.

    Raises:
        OSError: it cannot be written; the error names the file.
    """
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        os.chmod(temporary, 0o644)  # others may share the folder
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise type(error)(error.errno, reason, str(path)) from error
        raise


@contextmanager
def open_prepared(path: Path, advice: str) -> Iterator[Any]:
    """The arrays of a prepared file, each read when it is accessed.

    Raises:
        DataError: the file is damaged, or has an array of Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged archive may fail in any way
        if str(error).startswith("Object arrays"):
            raise DataError(
                f"{path} has an array of Python objects, which is not read, because "
                "unpickling can run code: save it as an array of numbers or of strings "
                "(dtype=str)"
            ) from error
        reason = "it is no .npz archive" if "pickle" in str(error) else error
        raise DataError(f"{path} is truncated or damaged ({reason}): {advice}") from error


def read_prepared(path: Path, split: str, advice: str) -> Arrays:
    """x, y and classes of one split, and resized_by if the file has it.

    In a file with x_all and y_all, is_train says which images are for training.

    Args:
        path: the prepared file.
        split: "train", "test", or another split that it has arrays for.
        advice: what to do about a damaged file.

    Raises:
        DataError: the file is damaged, lacks an array, or has an invalid one.
    """
    with open_prepared(path, advice) as file:
        keys = array_names(file.files, split)
        missing = set(keys.values()) - set(file.files) - set(OPTIONAL)
        if missing:
            raise DataError(
                f"{path} lacks {', '.join(sorted(missing))}; it has {', '.join(file.files)}"
            )
        arrays = {short: file[key] for short, key in keys.items() if key in file}
    check_shapes(path, split, arrays)
    arrays = select_split(path, split, arrays)
    check_labels(path, split, arrays["y"], len(arrays["classes"]))
    return arrays


def array_names(present: list[str], split: str) -> dict[str, str]:
    """Which array of the file holds x, y, classes, is_train and resized_by."""
    in_one = split in ("train", "test") and {"x_all", "y_all"} & set(present)
    suffix = "all" if in_one else split
    names = {"x": f"x_{suffix}", "y": f"y_{suffix}", "classes": "classes"}
    names |= {name: name for name in OPTIONAL}
    return names | ({"is_train": "is_train"} if in_one else {})


def check_shapes(path: Path, split: str, arrays: Arrays) -> None:
    x, y = arrays["x"], arrays["y"]
    colour = x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] == 3
    if not colour or y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise DataError(
            f"{path}: {split} images must be uint8 (N, H, W, 3) with one whole number "
            f"each as label; it has {x.dtype} {x.shape} and labels {y.dtype} {y.shape}"
        )
    if x.shape[1] != x.shape[2]:
        raise DataError(
            f"{path}: {split} images are {x.shape[1]}x{x.shape[2]} pixels, but the "
            "networks take square images: crop or resize them"
        )
    if arrays["classes"].ndim != 1:
        raise DataError(
            f"{path}: classes must be one name per class, (K,); it has "
            f"{arrays['classes'].dtype} {arrays['classes'].shape}"
        )


def select_split(path: Path, split: str, arrays: Arrays) -> Arrays:
    """The arrays, restricted to the images of the split."""
    if "is_train" not in arrays:
        return arrays
    is_train = arrays.pop("is_train")
    if is_train.dtype != bool or is_train.shape != arrays["y"].shape:
        raise DataError(
            f"{path}: is_train must be bool ({len(arrays['y'])},), one for each image; "
            f"it has {is_train.dtype} {is_train.shape}"
        )
    selected = is_train if split == "train" else ~is_train
    return arrays | {"x": arrays["x"][selected], "y": arrays["y"][selected]}


def check_labels(path: Path, split: str, y: np.ndarray, classes: int) -> None:
    if not len(y):
        raise DataError(f"{path} has no {split} images")
    if y.min() < 0 or y.max() >= classes:
        raise DataError(
            f"{path}: {split} labels run from {y.min()} to {y.max()}, but there are "
            f"{classes} classes"
        )
    if len(y) > 1 and classes > 1 and y.min() == y.max():
        raise DataError(
            f"{path}: all {len(y)} {split} labels are {y[0]}, but there are {classes} "
            "classes, so the real labels are missing"
        )


def count_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How many images each split of a prepared file has."""
    if "is_train" in arrays:
        is_train = arrays["is_train"]
        return {"train": int(is_train.sum()), "test": int((~is_train).sum())}
    return {key[2:]: len(arrays[key]) for key in arrays if key.startswith("y_")}


def count_prepared(path: Path, advice: str) -> dict[str, int]:
    """How many images each split of the file at `path` has, without reading them."""
    with open_prepared(path, advice) as file:
        return count_arrays(file)
