"""Where data sets come from: a prepared file, a download, or made on the spot.

A prepared file is `NAME.npz` with uint8 images x_train, x_test (N, H, W, 3), labels
y_train, y_test (N,) and `classes`; a set that keeps both parts in one has x_all, y_all
and, where it has an official split, a boolean is_train.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lpa_core.data.dataset import DataError, Dataset, data_folder, fingerprint
from lpa_core.data.embedded import make_embedded
from lpa_core.data.prepared import read_prepared, save_prepared

__all__ = ["SOURCES", "Source", "check_dataset", "list_datasets", "load"]


@dataclass(frozen=True)
class Source:
    """How a set is had.

    Attributes:
        splits: what `load` takes as `split`.
        origin: where it comes from, for people.
        prepare: returns the arrays of a prepared file; None where it must be placed
            by hand.
        fingerprints: of each split, where they are known.
        mirrors: whether an image's mirror image is still one of its class.
    """

    splits: tuple[str, ...]
    origin: str
    prepare: Callable[[Path], dict[str, np.ndarray]] | None = None
    fingerprints: dict[str, str] | None = None
    mirrors: bool = True


def fetch_cifar10(folder: Path) -> dict[str, np.ndarray]:
    """CIFAR-10 by torchvision, which verifies its checksum, in the order of its classes."""
    from torchvision.datasets import CIFAR10

    arrays = {}
    for split in ("train", "test"):
        data = CIFAR10(str(folder), train=split == "train", download=True)
        order = np.argsort(data.targets, kind="stable")
        arrays[f"x_{split}"] = data.data[order]
        arrays[f"y_{split}"] = np.array(data.targets, dtype=np.int64)[order]
    return arrays | {"classes": np.array(data.classes)}


SOURCES = {
    "embedded": Source(
        splits=("train", "test", "shifted"),
        origin="made on the spot from scikit-learn's digits and scikit-image's textures",
        mirrors=False,
    ),
    "cifar10": Source(
        splits=("train", "test"),
        origin="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        prepare=fetch_cifar10,
        fingerprints={
            "train": "4b8d18599822f4b3c242e4d6272ee777feff1b8abbdb421c7e239d74e9e4f173",
            "test": "c91f761068f3511f325614f852ea52846cef7e86f12af3994cc8924ace85edec",
        },
    ),
}


def list_datasets() -> list[str]:
    """Every name that `load` knows."""
    return list(SOURCES)


def check_dataset(name: str) -> str:
    """`name` itself, if there is such a set."""
    if name not in SOURCES:
        raise ValueError(
            f"unknown data set {name!r}: choose one of {', '.join(SOURCES)} "
            "(lpa_core.data.list_datasets())"
        )
    return name


def load(name: str, split: str = "train", root: str | Path | None = None) -> Dataset:
    """One split of a data set, fetched and prepared if it is not there yet.

    Args:
        name: one of `list_datasets()`.
        split: "train", "test", or what else the set has.
        root: the folder of the prepared files; see `data_folder`.

    Raises:
        ValueError: unknown name or split.
        DataError: the set cannot be had, or its file is truncated or altered. Nothing is
            written then.
    """
    source = SOURCES[check_dataset(name)]
    if split not in source.splits:
        raise ValueError(
            f"{name} has no split {split!r}: choose one of {', '.join(source.splits)}"
        )
    if name == "embedded":
        images, labels, masks, classes = make_embedded(split)
        found = fingerprint(images, labels)
        return Dataset(images, labels, classes, masks, found, source.mirrors)
    path = data_folder(root) / f"{name}.npz"
    if not path.exists():
        prepare(name, source, path)
    arrays = read_prepared(path, split)
    images = torch.from_numpy(arrays["x"])
    labels = torch.from_numpy(arrays["y"].astype(np.int64))
    found = fingerprint(images, labels)
    expected = (source.fingerprints or {}).get(split)
    if expected and found != expected:
        raise DataError(
            f"{path} is not {name} as published: the fingerprint of its {split} split is "
            f"{found}, expected {expected}. Delete the file to fetch it again, or put an "
            "unaltered one in its place."
        )
    classes = [str(c) for c in arrays["classes"]]
    return Dataset(images, labels, classes, None, found, source.mirrors)


def prepare(name: str, source: Source, path: Path) -> None:
    """Fetch a set and write its prepared file, whole or not at all."""
    advice = (
        f"{name} is not at {path}, and could not be fetched from {source.origin}. "
        f"Place a prepared {path.name} there (keys x_train, y_train, x_test, y_test, "
        "classes), name its folder in $LPA_DATA, or use the set 'embedded', which needs "
        "no network."
    )
    if source.prepare is None:
        raise DataError(advice)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
            arrays = source.prepare(Path(folder))
    except Exception as error:  # a library's download may fail in any way
        raise DataError(f"{advice} ({type(error).__name__}: {error})") from error
    save_prepared(path, arrays)
