"""Where a trained network looks in your own photographs, as a figure.

figure = show(["cat.jpg", Image.open("dog.png"), array], "weights/….safetensors")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from lpa_core.data.photographs import open_photograph, photographs_in, to_rgb
from lpa_core.maps import resize_maps
from lpa_core.shapes import UInt8
from lpa_core.training import Trained, load_trained

__all__ = ["find_photographs", "read_photograph", "show"]

SIDE = 224  # pixels per side at which photographs are drawn
MOST = 12  # photographs in a figure
BEST = 3  # classes named for each


def show(
    photographs: Any, trained: Trained | str | Path, names: Sequence[str] = ()
) -> Figure:
    """One row per photograph: the photograph, each level's map over it, the top classes.

    Attention is drawn as a density: uniform attention is 1 everywhere. All maps share one
    scale, so that they can be compared.

    Args:
        photographs: one or a sequence of what `read_photograph` takes, or a batch
            (N, H, W, 3); each is cropped to its middle square.
        trained: a trained network, or the file of its weights.
        names: one for each; the file's name by default.

    Raises:
        ValueError, DataError: there are none, or one is not a photograph.
        WeightsError: the weights are missing, altered or of another network.
    """
    if is_one(photographs):
        photographs = [photographs]
    if not len(photographs):
        raise ValueError("no photographs to show: give at least one")
    if not isinstance(trained, Trained):
        trained = load_trained(trained)
    size = trained.network.image_size
    squares = [middle_square(read_photograph(one)) for one in photographs]
    seen = trained.attend(torch.stack([resized(square, size) for square in squares]))
    probabilities = seen.logits.float().softmax(dim=1)
    density = {
        layer: resize_maps(m.float(), SIDE) * SIDE**2 for layer, m in seen.maps.items()
    }
    titles = list(names) or [title_of(one, n) for n, one in enumerate(photographs)]
    pictures = [resized(square, SIDE).numpy() for square in squares]
    return draw(pictures, titles, density, probabilities, trained.classes)


def draw(
    pictures: list[np.ndarray],
    titles: list[str],
    density: dict[str, Tensor],
    probabilities: Tensor,
    classes: list[str],
) -> Figure:
    """The figure of `show`."""
    columns = 2 + len(density)
    figure, axes = plt.subplots(
        len(pictures),
        columns,
        figsize=(2 * columns + 1.3, 2 * len(pictures) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    top = max([1.0, *(m.max().item() for m in density.values())])
    scale = PowerNorm(0.5, vmin=0, vmax=top)  # on a linear scale to 9, 1 would be dark
    heat = None
    for row, picture in enumerate(pictures):
        axes[row, 0].imshow(picture)
        axes[row, 0].set_ylabel(titles[row], fontsize=9)
        for column, (layer, maps) in enumerate(density.items(), start=1):
            axis = axes[row, column]
            axis.imshow(picture)
            heat = axis.imshow(maps[row], cmap="inferno", norm=scale, alpha=0.6)
            if row == 0:
                axis.set_title(layer.replace("layer", "layer "), fontsize=10)
        for axis in axes[row, :-1]:
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
        best = probabilities[row].topk(min(BEST, len(classes)))
        bars = axes[row, -1]
        bars.barh([classes[i] for i in best.indices], 100 * best.values)
        bars.set(xlim=(0, 100))
        bars.invert_yaxis()
        bars.tick_params(labelsize=8, labelbottom=row == len(pictures) - 1)
        bars.set_box_aspect(0.8)
    axes[-1, -1].set_xlabel("probability, %", fontsize=9)
    if heat is not None:
        bar = figure.colorbar(heat, ax=axes[:, 1:-1].ravel().tolist(), shrink=0.7)
        bar.set_label("attention (1: even)", fontsize=9)
    return figure


def is_one(photographs: Any) -> bool:
    """Whether it is one photograph rather than several."""
    if isinstance(photographs, np.ndarray | Tensor):
        return photographs.ndim < 4
    return not isinstance(photographs, Sequence) or isinstance(photographs, str)


def title_of(photograph: Any, number: int) -> str:
    named = isinstance(photograph, str | Path)
    return Path(photograph).name if named else f"image {number + 1}"


def find_photographs(paths: Sequence[Path]) -> list[Path]:
    """The given files, and the photographs in given folders, at most `MOST`.

    Raises:
        ValueError: a path does not exist, a folder has no photographs, or there are more.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is no photograph or folder {path}")
        inside = photographs_in(path) if path.is_dir() else [path]
        if not inside:
            raise ValueError(f"the folder {path} has no photographs in it")
        found += inside
    if len(found) > MOST:
        raise ValueError(
            f"{len(found)} photographs are too many for a figure: give at most {MOST}"
        )
    return found


# ------------------------------------------------------------- photographs of any kind


def read_photograph(photograph: Any) -> UInt8[Tensor, "h w 3"]:
    """A photograph of any size and kind as uint8 (H, W, 3), upright.

    Args:
        photograph: a file's path; a Pillow image; or an array or tensor, grey (H, W),
            (H, W, 1) or (1, H, W), or with three or four channels, first or last, of whole
            numbers from 0 to 255 or floats from 0 to 1. Transparent pixels get a white
            background.

    Raises:
        DataError: a file is damaged or not a photograph.
        ValueError: it is none of these.
    """
    if isinstance(photograph, str | Path):
        return as_tensor(open_photograph(Path(photograph)))
    if type(photograph).__module__.startswith("PIL."):
        from PIL import ImageOps

        return as_tensor(to_rgb(ImageOps.exif_transpose(photograph), "white"))
    if isinstance(photograph, Tensor):
        photograph = photograph.detach().cpu().numpy()
    if not isinstance(photograph, np.ndarray):
        raise ValueError(
            f"a photograph must be a file's path, a Pillow image, an array or a tensor; "
            f"got {type(photograph).__name__}"
        )
    return as_tensor(of_array(photograph))


def of_array(array: np.ndarray) -> Any:
    """An array as an RGB Pillow image."""
    from PIL import Image

    shape, kind = array.shape, array.dtype
    if array.ndim == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    colours = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not colours or not array.size:
        raise ValueError(
            f"an array of shape {shape} is not a photograph: give one as (H, W), (H, W, 3) "
            "or (3, H, W)"
        )
    low, high = array.min(), array.max()
    if kind.kind == "f":
        if not (low >= 0 and high <= 1):  # also true for nan
            raise ValueError(
                f"a photograph of floats must be in [0, 1]; this one runs from {low:g} to "
                f"{high:g}: divide the original by 255, without normalisation"
            )
        array = np.rint(255 * array)
    elif kind.kind == "b" or kind.kind not in "iu" or low < 0 or high > 255:
        raise ValueError(
            f"a photograph of whole numbers must be in 0 to 255; this one is {kind} and "
            f"runs from {low} to {high}"
        )
    return to_rgb(Image.fromarray(array.astype(np.uint8)), "white")


def as_tensor(image: Any) -> UInt8[Tensor, "h w 3"]:
    return torch.from_numpy(np.array(image))


def middle_square(image: UInt8[Tensor, "h w 3"]) -> UInt8[Tensor, "s s 3"]:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def resized(image: UInt8[Tensor, "s s 3"], size: int) -> UInt8[Tensor, "t t 3"]:
    """A square, resized like the photographs of data sets."""
    from PIL import Image

    square = Image.fromarray(image.numpy())
    return as_tensor(square.resize((size, size), Image.Resampling.BICUBIC))
