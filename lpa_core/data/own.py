"""Your own data set: a folder of photographs or a prepared file, given by its path.

Three kinds of folders are read. Each has one folder per class, named after the class:

* CLASS/…: photographs, at any depth. A fifth of each class is held out for testing.
* train/CLASS/… and test/CLASS/…: you choose the split; `val` may stand for `test`.
* CLASS/images/… and CLASS/masks/NAME.png: photographs with masks of their objects.

For a prepared file, NAME.npz, see `lpa_core.data.dataset`. One that has all its images in
x_all, without is_train, is split like a folder.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lpa_core.data.dataset import (
    DataError,
    Dataset,
    count_prepared,
    fingerprint,
    open_prepared,
    read_prepared,
    save_prepared,
)
from lpa_core.data.photographs import (
    SIZE,
    SUFFIXES,
    class_folders,
    mask_of,
    open_photograph,
    progress,
    read_pairs,
    resize_all,
    resized_by,
    shrink_photograph,
)

__all__ = [
    "OwnFiles",
    "count_own",
    "load_own",
    "own_files",
    "own_label",
    "own_path",
    "prepare_own",
    "read_files",
]

HELD_OUT = 5  # one image in five is for testing
TESTS = ("test", "val", "valid", "validation")
SPLITS = ("train", "test", "all")
SAVE_AGAIN = "save it again, as numpy.savez does"


def own_path(name: str) -> Path | None:
    """`name` as a path, or None if it can only be a name."""
    path = Path(name).expanduser()
    if "/" in name or "\\" in name or path.suffix == ".npz" or path.is_dir():
        return path
    return None


def own_label(name: str) -> str:
    """The name of a data set; for a path, its last part without .npz."""
    path = own_path(name) if "/" in name or "\\" in name else None
    if path is None:
        return name
    path = path.resolve()
    return path.stem if path.suffix == ".npz" else path.name


class OwnFiles(NamedTuple):
    """The contents of a folder."""

    classes: list[str]
    """Names of the class folders."""
    photographs: dict[str, list[tuple[Path, int]]]
    """The photographs of each split, with their labels."""
    masked: bool
    """Whether the photographs have masks."""


def own_files(folder: Path) -> OwnFiles:
    """The photographs of a folder by split; none is opened.

    Raises:
        DataError: it does not exist, or has no photographs in class folders.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder or .npz file {folder}")
    tests = [name for name in TESTS if (folder / name).is_dir()]
    if tests and (folder / "train").is_dir():
        classes = class_folders(folder / "train")
        splits = {
            "train": in_class_folders(folder / "train", classes),
            "test": in_class_folders(folder / tests[0], classes),
        }
        splits["all"] = splits["train"] + splits["test"]
        return OwnFiles(classes, splits, masked=False)
    classes = class_folders(folder)
    masked = bool(classes) and all((folder / c / "masks").is_dir() for c in classes)
    every = in_class_folders(folder, classes, "images" if masked else "")
    is_train = held_in([label for _, label in every])
    return OwnFiles(
        classes,
        {
            "train": [file for file, kept in zip(every, is_train, strict=True) if kept],
            "test": [file for file, kept in zip(every, is_train, strict=True) if not kept],
            "all": every,
        },
        masked,
    )


def in_class_folders(
    folder: Path, classes: list[str], inner: str = ""
) -> list[tuple[Path, int]]:
    """The photographs of each class with their label, by name, at any depth."""
    unknown = [name for name in class_folders(folder) if name not in classes]
    if unknown:
        raise DataError(
            f"{folder} has the class {unknown[0]!r}, which has no training images: the "
            f"classes are {', '.join(classes)}"
        )
    found, others = [], []
    for label, name in enumerate(classes):
        root = folder / name / inner
        inside = [f for f in sorted(root.rglob("*")) if f.is_file() and not hidden(f, root)]
        taken = [file for file in inside if file.suffix.lower() in SUFFIXES]
        if not taken:
            raise DataError(
                f"{root} has no photographs in it ({', '.join(sorted(SUFFIXES))}): a data "
                "set of your own is a folder with one folder per class, or train/CLASS/… "
                "and test/CLASS/…, or CLASS/images/… and CLASS/masks/…"
            )
        found += [(file, label) for file in taken]
        others += [file for file in inside if file not in taken]
    if not found:
        raise DataError(
            f"{folder} has no folders in it: make one per class, with its photographs"
        )
    if others:
        names = ", ".join(file.name for file in others[:3]) + (" …" if others[3:] else "")
        print(f"{folder}: {len(others)} other files left out: {names}", file=sys.stderr)
    return found


def hidden(file: Path, root: Path) -> bool:
    """Whether a file is one that operating systems add to folders."""
    parts = file.relative_to(root).parts
    return any(p[0] == "." or p in ("__MACOSX", "Thumbs.db", "desktop.ini") for p in parts)


def held_in(labels: list[int]) -> list[bool]:
    """True for training images: all but a fifth of each class, drawn with a fixed seed."""
    order = np.random.default_rng(0).permutation(len(labels))
    seen: dict[int, int] = {}
    kept = [True] * len(labels)
    for place in order:
        count = seen[labels[place]] = seen.get(labels[place], 0) + 1
        kept[place] = count % HELD_OUT != 2  # the second: two images give one to each
    return kept


def load_own(path: Path, split: str, size: int | None = None) -> Dataset:
    """One split of your own data set: "train", "test" or "all".

    Args:
        size: pixels per side; None for 32, or for the size in a prepared file.

    Raises:
        ValueError: there is no such split.
        DataError: the set does not exist or cannot be read.
    """
    if path.suffix == ".npz":
        images, labels, classes = read_own_npz(path, split, size)
        return dataset(images, labels, classes)
    if split not in SPLITS:
        raise ValueError(
            f"{path} has no split {split!r}: choose one of {', '.join(SPLITS)}"
        )
    files = own_files(path)
    found = files.photographs[split]
    if split == "train" and len(files.classes) < 2:
        raise DataError(
            f"{path} has only the class {files.classes[0]!r}: to train, give a folder with "
            "at least two class folders"
        )
    if not found:
        raise DataError(f"{path} has too few photographs for a {split} split: add some")
    if files.masked:
        pairs = [(file, mask_of(file), label) for file, label in found]
        images, labels, masks, _ = read_pairs(pairs, files.classes, size or SIZE, path.name)
        return dataset(images, labels, files.classes, masks)
    images, labels, _ = read_files(found, size or SIZE, path.name)
    return dataset(images, labels, files.classes)


def dataset(
    images: Tensor, labels: Tensor, classes: list[str], masks: Tensor | None = None
) -> Dataset:
    return Dataset(images, labels, classes, masks, fingerprint(images, labels))


def read_files(
    files: list[tuple[Path, int]], size: int, label: str, skip: bool = False
) -> tuple[Tensor, Tensor, list[str]]:
    """Photographs at a size, their labels, and which files were left out and why.

    Args:
        skip: leave out files that cannot be read instead of raising an error.
    """
    images, labels, left_out = [], [], []
    for file, number in progress(files, label):
        try:
            photograph = open_photograph(file)
        except DataError as error:
            if not skip:
                raise DataError(
                    f"{error}; or leave out all such files: python -m lpa_core prepare "
                    "FOLDER NAME.npz --skip"
                ) from error
            left_out.append(str(error))
            continue
        images.append(torch.from_numpy(np.array(shrink_photograph(photograph, size))))
        labels.append(number)
    if not images:
        raise DataError(f"none of the {len(files)} photographs of {label} can be read")
    return torch.stack(images), torch.tensor(labels), left_out


def prepare_own(
    folder: Path, target: Path, size: int, skip: bool = False
) -> tuple[dict[str, int], list[str]]:
    """Write a folder of photographs as a prepared file, with its split.

    Args:
        skip: leave out files that cannot be read instead of raising an error.

    Returns:
        How many images each split has, and which files were left out and why.

    Raises:
        ValueError: the target does not end in .npz, or the folder has masks, which a
            prepared file cannot hold.
        DataError: as in `own_files`.
    """
    if target.suffix != ".npz":
        raise ValueError(f"{target}: name a file that ends in .npz")
    if size < 1:
        raise ValueError(f"size {size}: give at least 1 pixel a side")
    files = own_files(folder)
    if files.masked:
        raise ValueError(
            f"{folder} has masks, which a prepared file cannot hold: use the folder "
            "itself as the data set"
        )
    arrays, counts, left_out = {}, {}, []
    for split in ("train", "test"):
        images, labels, said = read_files(files.photographs[split], size, split, skip)
        arrays |= {f"x_{split}": images.numpy(), f"y_{split}": labels.numpy()}
        counts[split] = len(labels)
        left_out += said
    arrays |= {"classes": np.array(files.classes), "resized_by": resized_by()}
    save_prepared(target, arrays)
    return counts, left_out


def read_own_npz(
    path: Path, split: str, size: int | None
) -> tuple[Tensor, Tensor, list[str]]:
    """Images, labels and classes of a split of a prepared file."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    with open_prepared(path, SAVE_AGAIN) as file:
        whole = "x_all" in file.files and "is_train" not in file.files
    arrays = read_prepared(path, "all" if whole else split, SAVE_AGAIN)
    images, labels = arrays["x"], arrays["y"].astype(np.int64)
    if whole and split != "all":
        chosen = np.array(held_in(labels.tolist())) == (split == "train")
        images, labels = images[chosen], labels[chosen]
    if size is not None and size != images.shape[1]:
        images = resize_all(images, size)
    classes = [str(c) for c in arrays["classes"]]
    return torch.from_numpy(images), torch.from_numpy(labels), classes


def count_own(path: Path) -> dict[str, int]:
    """How many images each split has."""
    if path.suffix != ".npz":
        return {name: len(found) for name, found in own_files(path).photographs.items()}
    return count_prepared(path, SAVE_AGAIN)
