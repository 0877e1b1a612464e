"""Batches made on the device. Images stay there as uint8; each batch is cropped, flipped
and normalised when it is needed, with a separate crop and flip for every image.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lpa_core.data.preprocess import Preprocess, resize
from lpa_core.shapes import Float, Int, UInt8

__all__ = ["Draws", "EvalLoader", "TrainLoader"]


def check_uint8(images: Tensor) -> None:
    """Check for uint8: the range of floating-point images is ambiguous."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[3] != 3:
        raise ValueError(
            f"images must be uint8 (B, H, W, 3); got {images.dtype} {tuple(images.shape)} "
            "(floats in [0, 1]: (255 * x).round().to(torch.uint8); files, arrays and "
            "Pillow images of any kind: lpa_core.show.read_photograph)"
        )


def to_network_input(
    images: UInt8[Tensor, "b h w 3"], preprocess: Preprocess, size: int | None = None
) -> Float[Tensor, "b 3 s s"]:
    """uint8 images to normalised network input, channels last in memory."""
    check_uint8(images)
    x = images.permute(0, 3, 1, 2).float().div_(255)
    if size is not None:
        x = resize(x, size)
    return preprocess(x).contiguous(memory_format=torch.channels_last)


class EvalLoader:
    """All images in order, normalised but not augmented.

    Each of several processes takes every `every`-th batch, starting with batch `first`.
    """

    __test__ = False  # tells pytest that this is not a test class

    def __init__(
        self,
        images: UInt8[Tensor, "n h w 3"],
        labels: Int[Tensor, " n"],
        preprocess: Preprocess,
        batch_size: int = 250,
        first: int = 0,
        every: int = 1,
    ):
        self.images, self.labels = images, labels
        self.preprocess, self.batch_size = preprocess, batch_size
        self.starts = range(0, len(labels), batch_size)[first::every]

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in self.starts:
            batch = slice(start, start + self.batch_size)
            yield to_network_input(self.images[batch], self.preprocess), self.labels[batch]


class Draws(NamedTuple):
    """The random numbers for one epoch of n images."""

    order: Int[Tensor, " n"]
    """Indices of the images, in the order in which they are shown."""
    shifts: Int[Tensor, "n 2"]
    """Rows and columns of image number i's crop."""
    flips: Tensor
    """Whether image number i is mirrored."""


class TrainLoader:
    """Shuffled and augmented batches, epoch by epoch; an incomplete last one is dropped.

    Args:
        images, labels: the training set, on the device.
        preprocess: normalisation, already fitted.
        batch_size: at most the number of images.
        flip: mirror left-right. Each image is mirrored at random in the first epoch and in
            every second one after it, and the opposite way in the epochs between, so that
            two epochs show every image both ways.
        flip_half: mirror exactly half of each batch instead, at random for each batch.
        crop: shift by up to this many pixels; the border is filled by reflection.
        batch_slice: which images of each batch to make; each of several processes takes
            its own slice of the same batches.

    The order, flips and crops of an epoch depend only on the seed and the epoch's number,
    so that a run can resume at any epoch.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "n h w 3"],
        labels: Int[Tensor, " n"],
        preprocess: Preprocess,
        batch_size: int,
        flip: bool = True,
        crop: int = 0,
        batch_slice: slice = slice(None),
        flip_half: bool = False,
    ):
        if batch_size > len(labels):
            raise ValueError(
                f"batch_size {batch_size} exceeds the {len(labels)} images: give a smaller "
                "one (--batch-size, or overrides={'batch_size': …})"
            )
        self.size = images.shape[1]
        self.labels, self.preprocess = labels, preprocess
        self.batch_size, self.flip, self.crop = batch_size, flip, crop
        self.flip_half = flip_half
        self.batch_slice = batch_slice
        self.batch_share = len(range(batch_size)[batch_slice]) / batch_size
        self.positions = torch.arange(batch_size, device=labels.device)[batch_slice]
        self.pixels = torch.arange(self.size, device=labels.device)
        self.padded = images
        if crop:
            rows = reflected(images.shape[1], crop, images.device)
            columns = reflected(images.shape[2], crop, images.device)
            self.padded = images[:, rows][:, :, columns]

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def epoch(
        self, number: int, seed: int, size: int | None = None
    ) -> Iterator[tuple[Float[Tensor, "b 3 s s"], Int[Tensor, " b"]]]:
        """The batches of epoch `number` (0, 1, …), resized to `size` if it is given."""
        draws = self.draws(number, seed)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield self.batch(draws, self.positions + start, size)

    def draws(self, number: int, seed: int) -> Draws:
        """All random numbers for epoch `number` (0, 1, …), on the device."""
        count, device = len(self.labels), self.labels.device
        first = torch.Generator().manual_seed(seed)
        flips = torch.rand(count, generator=first) < 0.5
        if number % 2:
            flips = ~flips
        now = torch.Generator().manual_seed(seed * 1_000_003 + number + 1)
        order = torch.randperm(count, generator=now)
        shifts = torch.randint(0, 2 * self.crop + 1, (count, 2), generator=now)
        if self.flip_half:
            for batch in order.split(self.batch_size):
                places = torch.randperm(len(batch), generator=now)
                flips[batch] = places < len(batch) // 2
        flips = flips & self.flip
        return Draws(order.to(device), shifts.to(device), flips.to(device))

    def batch(
        self, draws: Draws, positions: Int[Tensor, " b"], size: int | None = None
    ) -> tuple[Float[Tensor, "b 3 s s"], Int[Tensor, " b"]]:
        """The images at these positions of an epoch's order, by tensor operations only."""
        index = draws.order[positions]
        rows = draws.shifts[index, :1] + self.pixels
        columns = draws.shifts[index, 1:] + torch.where(
            draws.flips[index, None], self.pixels.flip(0), self.pixels
        )
        images = self.padded[index[:, None, None], rows[:, :, None], columns[:, None]]
        return to_network_input(images, self.preprocess, size), self.labels[index]


def reflected(size: int, pad: int, device) -> Int[Tensor, " s"]:
    """Indices that extend `size` pixels by `pad` on both sides, mirrored at the border."""
    index = torch.arange(-pad, size + pad, device=device).abs()
    return (size - 1) - ((size - 1) - index).abs()
