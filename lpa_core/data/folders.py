"""Photographs in folders made into the arrays of a prepared file.

Cross-domain sets are photographs of many sizes; the paper shows them to networks that
were trained on 32x32 pixels (Jetley et al. 2018, 5.3, A.1). Each is resized whole, so
that nothing of it is cut off, though its sides may change their proportion.
"""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lpa_core.data.dataset import DataError

__all__ = [
    "open_photograph",
    "photographs_in",
    "progress",
    "read_class_folders",
    "read_named_files",
    "resize_all",
    "resized_by",
    "shrink_photograph",
]

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp"}


def read_class_folders(
    folder: Path, skip: Sequence[str] = (), size: int = 32
) -> dict[str, np.ndarray]:
    """A folder with one folder a class: x_all, y_all and classes, classes by name.

    Args:
        folder: what holds the classes' folders.
        skip: those that are no classes.
        size: pixels a side.

    Raises:
        DataError: there is nothing there, or a file is no photograph.
    """
    classes = sorted(f.name for f in folder.iterdir() if f.is_dir() and f.name not in skip)
    classes = [name for name in classes if not name.startswith(".")]
    files = [(file, c) for c in classes for file in photographs_in(folder / c)]
    return prepared(folder, files, classes, size)


def read_named_files(folder: Path, size: int = 32) -> dict[str, np.ndarray]:
    """Files CLASS_NUMBER.jpg in one folder: x_all, y_all and classes."""
    files = [(file, file.stem.rpartition("_")[0]) for file in photographs_in(folder)]
    classes = sorted({c for _, c in files})
    return prepared(folder, sorted(files, key=lambda f: (f[1], f[0])), classes, size)


def prepared(
    folder: Path, files: list[tuple[Path, str]], classes: list[str], size: int
) -> dict[str, np.ndarray]:
    if not files:
        raise DataError(f"{folder} has no photographs in it: unpack the set there again")
    images = [
        np.asarray(shrink_photograph(open_photograph(file), size))
        for file, _ in progress(files, folder.name)
    ]
    return {
        "x_all": np.stack(images),
        "y_all": np.array([classes.index(c) for _, c in files], dtype=np.int64),
        "classes": np.array(classes),
        "resized_by": resized_by(),
    }


def photographs_in(folder: Path) -> list[Path]:
    """The photographs of a folder, by name; other files and folders do not count."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and file.suffix.lower() in SUFFIXES and file.name[0] != "."
    )


def open_photograph(file: Path) -> Any:
    """A photograph as a Pillow image of three colours.

    Raises:
        DataError: it is damaged, or no photograph.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except Exception as error:  # a damaged file may fail in any way
        raise DataError(
            f"{file} cannot be read as a photograph ({error}): unpack the set again"
        ) from error


def shrink_photograph(image: Any, size: int) -> Any:
    """The whole of it at `size` x `size` pixels, bicubic, antialiased."""
    from PIL import Image

    return image.resize((size, size), Image.Resampling.BICUBIC)


def resized_by() -> np.ndarray:
    """What made the pixels, for the prepared file: another version may round otherwise."""
    import PIL

    return np.array(f"Pillow {PIL.__version__}, bicubic")


def resize_all(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, H, W, 3) at `size` pixels a side, each as `shrink_photograph` does."""
    from PIL import Image

    small = (shrink_photograph(Image.fromarray(image), size) for image in images)
    return np.stack([np.asarray(image) for image in small])


def progress(items: Sequence, what: str) -> Iterable:
    """`items`, with a bar."""
    with warnings.catch_warnings():  # in a notebook without ipywidgets: a bar of text
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    return tqdm(items, desc=what, unit="image", mininterval=1)
