"""What a data set is, once it is loaded, and how two of them are told apart."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lpa_core.shapes import Bool, Int, UInt8

__all__ = ["DataError", "Dataset", "data_folder", "duplicates", "fingerprint"]


class DataError(RuntimeError):
    """A data set is missing, incomplete or not what it says it is."""


@dataclass(frozen=True)
class Dataset:
    """Images and labels of one split.

    Attributes:
        images: uint8 (N, H, W, 3).
        labels: int64 (N,).
        classes: the classes' names, in the order of their labels.
        masks: bool (N, H, W), True on the object, or None where there are none.
        fingerprint: sha256 over images and labels, whatever their order.
        mirrors: whether an image's mirror image is still one of its class.
    """

    images: UInt8[Tensor, "n h w 3"]
    labels: Int[Tensor, " n"]
    classes: list[str]
    masks: Bool[Tensor, "n h w"] | None
    fingerprint: str
    mirrors: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Int[Tensor, " k"]) -> "Dataset":
        """The images at some positions, in that order, as a set of their own.

        Raises:
            IndexError: there is no such position.
        """
        images, labels = self.images[index], self.labels[index]
        return replace(
            self,
            images=images,
            labels=labels,
            masks=None if self.masks is None else self.masks[index],
            fingerprint=fingerprint(images, labels),
        )


def data_folder(root: str | Path | None = None) -> Path:
    """`root`, else $LPA_DATA, else ~/.cache/lpa."""
    return Path(root or os.environ.get("LPA_DATA") or "~/.cache/lpa").expanduser()


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
    """The pairs of equal pictures: row i, j says images[i] and others[j] are the same.

    Pictures count as equal where every pixel is; labels are not looked at. One that
    stands several times in `others` has a pair with each of them.
    """
    places: dict[bytes, list[int]] = {}
    for j, image in enumerate(others.contiguous().numpy()):
        places.setdefault(image.tobytes(), []).append(j)
    pairs = [
        (i, j)
        for i, image in enumerate(images.contiguous().numpy())
        for j in places.get(image.tobytes(), [])
    ]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
