"""Photographs and masks of their objects, resized to arrays of one size.

Cross-domain sets are photographs of many sizes; the paper shows them to networks that
were trained on 32x32 pixels (Jetley et al. 2018, 5.3, A.1). Each photograph is resized
without cropping, so its aspect ratio may change. Its mask is resized to the same square,
so that the two stay aligned.
"""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lpa_core.data.dataset import Arrays, DataError
from lpa_core.data.preprocess import resize
from lpa_core.shapes import Bool, Int, UInt8

__all__ = [
    "DISCOVERED",
    "SUFFIXES",
    "Masked",
    "class_folders",
    "count_masked",
    "load_photographs",
    "mask_of",
    "open_photograph",
    "photograph_masks",
    "photographs_in",
    "progress",
    "read_class_folders",
    "read_coseg",
    "read_named_files",
    "read_object_discovery",
    "read_pairs",
    "resize_all",
    "resized_by",
    "shrink_photograph",
]

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
Item = TypeVar("Item")
SIZE = 32  # default pixels per side: what the paper's networks take
DISCOVERED = ("Airplane", "Car", "Horse")

# The object in each of the six photographs, outlined by hand for this book: corners (x, y)
# of a polygon in the square crop, at OUTLINED pixels per side.
OUTLINED = 256
OUTLINES = {
    "cat": "0,0 205,0 212,30 222,60 232,95 237,120 238,145 225,175 205,190 185,205 175,225 "
    "150,245 100,256 0,256",
    "astronaut": "90,10 75,18 62,38 59,60 64,78 76,88 60,95 48,100 40,112 20,135 5,150 "
    "0,158 0,256 158,256 170,232 190,222 192,195 186,175 175,160 158,148 155,135 150,118 "
    "140,103 132,97 140,82 150,72 155,55 150,32 135,18 115,10",
    "coffee": "48,60 56,36 76,18 110,10 140,13 170,26 190,45 197,68 196,85 190,110 183,135 "
    "170,160 150,175 98,168 92,180 85,192 72,196 63,190 66,172 76,155 70,140 60,120 52,95",
    "rocket": "113,76 108,90 107,110 108,170 108,244 124,244 123,170 123,110 121,88 117,78",
    "temple": "60,18 67,18 68,32 80,48 100,62 130,70 133,78 128,85 126,97 137,103 136,112 "
    "130,120 133,140 150,152 148,158 137,165 140,180 155,195 160,205 150,215 130,225 "
    "115,232 68,232 64,215 40,200 0,200 0,78 20,65 40,55 55,38",
    "flower": "107,51 130,55 150,65 165,82 180,105 189,133 183,165 170,190 150,207 120,215 "
    "90,213 65,203 45,188 33,165 24,140 30,112 40,85 60,68 85,55",
}

Masked = tuple[
    UInt8[Tensor, "n s s 3"], Int[Tensor, " n"], Bool[Tensor, "n s s"], list[str]
]


# ----------------------------------------------------------------------- one photograph


def open_photograph(file: Path, behind: str = "white") -> Any:
    """A photograph as an RGB Pillow image, rotated upright by its EXIF tag.

    Args:
        file: in any format that Pillow reads.
        behind: the colour that replaces transparency.

    Raises:
        DataError: it is damaged, too large, or not a photograph.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            return to_rgb(ImageOps.exif_transpose(image), behind)
    except Exception as error:  # a damaged file may fail in any way
        raise DataError(
            f"{file} cannot be read as a photograph ({error}): move it away, or replace it "
            "with a complete one of ordinary size"
        ) from error


def to_rgb(image: Any, behind: str) -> Any:
    """A Pillow image of any mode as 8-bit RGB."""
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"its grey levels {grey.min()} to {grey.max()} exceed 16 bits")
        return Image.fromarray(np.rint(grey / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of unknown range")
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, behind)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert("RGB")


def shrink_photograph(image: Any, size: int) -> Any:
    """The whole photograph at `size` x `size` pixels, bicubic, antialiased."""
    from PIL import Image

    return image.resize((size, size), Image.Resampling.BICUBIC)


def shrink_mask(mask: Any, size: int) -> np.ndarray:
    """bool (S, S): True where the object covers more than half of a pixel."""
    from PIL import Image

    covered = mask.convert("L").point(lambda grey: 255 if grey > 127 else 0)
    return np.asarray(covered.resize((size, size), Image.Resampling.BOX)) > 127


def resized_by() -> np.ndarray:
    """The library that resized, for the prepared file: its versions round differently."""
    import PIL

    return np.array(f"Pillow {PIL.__version__}, bicubic")


def resize_all(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, H, W, 3), each resized by `shrink_photograph` to `size` pixels per side."""
    from PIL import Image

    small = (shrink_photograph(Image.fromarray(image), size) for image in images)
    return np.stack([np.asarray(image) for image in small])


def progress(items: Sequence[Item], label: str) -> Iterable[Item]:
    """`items`, with a progress bar."""
    with warnings.catch_warnings():  # without ipywidgets, a notebook shows a text bar
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    return tqdm(items, desc=label, unit="image", mininterval=1)


# -------------------------------------------------------------- folders of photographs


def class_folders(folder: Path, skip: Sequence[str] = ()) -> list[str]:
    """The names of a folder's class folders, without hidden ones and __MACOSX."""
    names = (inner.name for inner in folder.iterdir() if inner.is_dir())
    return sorted(n for n in names if n[0] != "." and n not in ("__MACOSX", *skip))


def photographs_in(folder: Path) -> list[Path]:
    """The photographs of a folder, sorted by name; other files and folders are ignored."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and file.suffix.lower() in SUFFIXES and file.name[0] != "."
    )


def read_class_folders(folder: Path, skip: Sequence[str] = ()) -> Arrays:
    """A folder with one folder per class: x_all, y_all and classes, sorted by name.

    Args:
        folder: the folder of the class folders.
        skip: folders that are not classes.

    Raises:
        DataError: the folder is empty, or a file is not a photograph.
    """
    classes = class_folders(folder, skip)
    files = [(file, c) for c in classes for file in photographs_in(folder / c)]
    return to_arrays(folder, files, classes)


def read_named_files(folder: Path) -> Arrays:
    """Files CLASS_NUMBER.jpg in one folder: x_all, y_all and classes."""
    files = [(file, file.stem.rpartition("_")[0]) for file in photographs_in(folder)]
    classes = sorted({c for _, c in files})
    return to_arrays(folder, sorted(files, key=lambda f: (f[1], f[0])), classes)


def to_arrays(folder: Path, files: list[tuple[Path, str]], classes: list[str]) -> Arrays:
    if not files:
        raise DataError(f"{folder} has no photographs in it: unpack the set there again")
    images = [
        np.asarray(shrink_photograph(open_photograph(file), SIZE))
        for file, _ in progress(files, folder.name)
    ]
    return {
        "x_all": np.stack(images),
        "y_all": np.array([classes.index(c) for _, c in files], dtype=np.int64),
        "classes": np.array(classes),
        "resized_by": resized_by(),
    }


# ------------------------------------------------------------- photographs with masks


def read_coseg(folder: Path, size: int) -> Masked:
    """CLASS/images/NAME.jpg with CLASS/masks/NAME.png: images, labels, masks, classes.

    Raises:
        DataError: the folder is empty, or a photograph has no mask.
    """
    classes = [c for c in class_folders(folder) if (folder / c / "images").is_dir()]
    pairs = []
    for label, name in enumerate(classes):
        for photograph in photographs_in(folder / name / "images"):
            pairs.append((photograph, mask_of(photograph), label))
    if not pairs:
        raise DataError(
            f"{folder} has no photographs CLASS/images/*.jpg with masks CLASS/masks/*.png "
            "in it: unpack the set there again"
        )
    return read_pairs(pairs, classes, size, folder.name)


def mask_of(photograph: Path) -> Path:
    """The mask of CLASS/images/NAME.jpg, CLASS/masks/NAME.png.

    Raises:
        DataError: it does not exist.
    """
    mask = photograph.parents[1] / "masks" / f"{photograph.stem}.png"
    if not mask.is_file():
        raise DataError(f"{photograph} has no mask at {mask}: put one there")
    return mask


def read_object_discovery(folder: Path, size: int) -> Masked:
    """CLASS100/NAME.jpg with CLASS100/GroundTruth/NAME.png, of three classes.

    Some photographs are distractors without such an object: their mask is empty. A
    missing mask counts as empty too.

    Raises:
        DataError: a class or all of its masks are missing.
    """
    missing = [
        inner
        for name in DISCOVERED
        for inner in (f"{name}100", f"{name}100/GroundTruth")
        if not (folder / inner).is_dir()
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


def read_pairs(
    pairs: Sequence[tuple[Path, Path | None, int]],
    classes: list[str],
    size: int,
    label: str,
) -> Masked:
    """Photographs, their masks (empty where the file is None) and their labels."""
    images, masks = [], []
    for file, mask_file, _ in progress(pairs, label):
        photograph = open_photograph(file)
        images.append(np.asarray(shrink_photograph(photograph, size)))
        if mask_file is None:
            masks.append(np.zeros((size, size), bool))
            continue
        mask = open_photograph(mask_file, behind="black")  # transparent: no object
        if mask.size != photograph.size:
            raise DataError(
                f"{mask_file} is {mask.width}x{mask.height} pixels, but its photograph is "
                f"{photograph.width}x{photograph.height}: a mask must have the size of "
                "its photograph"
            )
        masks.append(shrink_mask(mask, size))
    return (
        torch.from_numpy(np.stack(images)),
        torch.tensor([label for _, _, label in pairs]),
        torch.from_numpy(np.stack(masks)),
        classes,
    )


def count_masked(folder: Path) -> int:
    """How many photographs such a folder has."""
    inner = [folder / name for name in class_folders(folder)]
    inner = [f / "images" if (f / "images").is_dir() else f for f in inner]
    return sum(len(photographs_in(f)) for f in inner)


# ------------------------------------------------------------- photographs to look at


def load_photographs(size: int = 32) -> tuple[list[str], UInt8[Tensor, "n s s 3"]]:
    """Six photographs that come with scikit-image and scikit-learn.

    Returns:
        Their names, and the photographs cropped to squares of `size` pixels per side.

    Raises:
        ValueError: size is below 1.
    """
    from skimage import data
    from sklearn.datasets import load_sample_images

    if size < 1:
        raise ValueError(f"size {size}: give at least 1 pixel a side")
    temple, flower = load_sample_images().images
    crops = {  # name: photograph, top, left, side of the square
        "cat": (data.chelsea(), 0, 75, 300),
        "astronaut": (data.astronaut(), 0, 60, 400),
        "coffee": (data.coffee(), 0, 100, 400),
        "rocket": (data.rocket(), 0, 130, 427),
        "temple": (temple, 0, 100, 427),
        "flower": (flower, 0, 130, 427),
    }
    return list(crops), torch.stack([crop(*c, size) for c in crops.values()])


def photograph_masks(size: int = 32) -> Bool[Tensor, "n s s"]:
    """Masks of the objects of `load_photographs`, outlined by hand for this book.

    Raises:
        ValueError: size is below 1.
    """
    from PIL import Image, ImageDraw

    if size < 1:
        raise ValueError(f"size {size}: give at least 1 pixel a side")
    masks = []
    for outline in OUTLINES.values():
        corners = [tuple(map(int, corner.split(","))) for corner in outline.split()]
        mask = Image.new("L", (OUTLINED, OUTLINED))
        ImageDraw.Draw(mask).polygon(corners, fill=255)
        masks.append(shrink_mask(mask, size))
    return torch.from_numpy(np.stack(masks))


def crop(photograph: np.ndarray, top: int, left: int, side: int, size: int) -> Tensor:
    """A square of a photograph (H, W, 3), resized to uint8 (S, S, 3) with S = `size`."""
    square = torch.from_numpy(photograph[top : top + side, left : left + side].copy())
    small = resize(square.permute(2, 0, 1)[None].float(), size)
    return small[0].permute(1, 2, 0).round().to(torch.uint8)
