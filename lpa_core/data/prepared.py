"""Prepared files, `NAME.npz`: written whole or not at all, checked as they are read."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lpa_core.data.dataset import DataError

__all__ = ["count_prepared", "image_counts", "read_prepared", "save_prepared"]


OPTIONAL = {"resized_by": "what made the pixels, where they were made here"}


def save_prepared(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a prepared file beside its place, then move it there."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
        os.chmod(temporary, 0o644)  # others may share the folder
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_prepared(path: Path, split: str) -> dict[str, np.ndarray]:
    """x, y and classes of one split, or a clear error.

    A file that keeps its splits in one, as x_all and y_all, tells by is_train which
    images are for training.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            present = file.files
            wanted = wanted_keys(present, split)
            arrays = {short: file[key] for short, key in wanted.items() if key in file}
    except Exception as error:  # a damaged archive may fail in any way
        raise DataError(
            f"{path} is truncated or damaged ({error}): delete it to fetch it again, or "
            "put a whole one in its place"
        ) from error
    missing = [key for short, key in wanted.items() if short not in arrays | OPTIONAL]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; it has {', '.join(present)}")
    check_arrays(path, split, arrays)
    return chosen(path, split, arrays)


def wanted_keys(present: list[str], split: str) -> dict[str, str]:
    """Which array of the file is what."""
    together = split in ("train", "test") and {"x_all", "y_all"} & set(present)
    part = "all" if together else split
    keys = {"x": f"x_{part}", "y": f"y_{part}", "classes": "classes"}
    keys |= {key: key for key in OPTIONAL}
    return keys | ({"is_train": "is_train"} if together else {})


def check_arrays(path: Path, split: str, arrays: dict[str, np.ndarray]) -> None:
    x, y = arrays["x"], arrays["y"]
    colour = x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] == 3
    if not colour or y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise DataError(
            f"{path}: {split} images must be uint8 (N, H, W, 3) with one whole number "
            f"each as label; it has {x.dtype} {x.shape} and labels {y.dtype} {y.shape}"
        )
    if len(y) and not (y.min() >= 0 and y.max() < len(arrays["classes"])):
        raise DataError(
            f"{path}: {split} labels run from {y.min()} to {y.max()}, but there are "
            f"{len(arrays['classes'])} classes"
        )


def chosen(path: Path, split: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with the images of the split alone."""
    if "is_train" not in arrays:
        return arrays
    train = arrays.pop("is_train")
    if train.dtype != bool or train.shape != arrays["y"].shape:
        raise DataError(
            f"{path}: is_train must be bool ({len(arrays['y'])},), one for each image; "
            f"it has {train.dtype} {train.shape}"
        )
    kept = train if split == "train" else ~train
    return arrays | {"x": arrays["x"][kept], "y": arrays["y"][kept]}


def image_counts(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How many images each split of a prepared file has."""
    if "is_train" in arrays:
        train = arrays["is_train"]
        return {"train": int(train.sum()), "test": int((~train).sum())}
    return {key[2:]: len(arrays[key]) for key in arrays if key.startswith("y_")}


def count_prepared(path: Path) -> dict[str, int]:
    """How many images each split of the file at `path` has; they are not read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return image_counts(file)
    except Exception as error:  # a damaged archive may fail in any way
        raise DataError(
            f"{path} is truncated or damaged ({error}): delete it to fetch it again, or "
            "put a whole one in its place"
        ) from error
