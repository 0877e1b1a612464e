"""Classification: a network's predictions and its error rate (section 5.1)."""

import torch
from torch import Tensor

from lpa_core.data import Dataset
from lpa_core.shapes import Float, Int, UInt8
from lpa_core.tasks.base import check_classes
from lpa_core.training import Trained

__all__ = ["predict", "probabilities", "top1_error"]


def probabilities(
    trained: Trained, images: UInt8[Tensor, "n h w 3"], batch_size: int = 250
) -> Float[Tensor, "n k"]:
    """Class probabilities of uint8 images, one batch at a time."""
    parts = [trained.attend(part).logits for part in images.split(batch_size)]
    return torch.cat(parts).float().softmax(dim=1)


def predict(trained: Trained, images: UInt8[Tensor, "n h w 3"]) -> Int[Tensor, " n"]:
    """The class with the highest probability, for each image."""
    return probabilities(trained, images).argmax(dim=1)


def top1_error(trained: Trained, data: Dataset) -> float:
    """Share of images whose predicted class differs from their label, in per cent.

    Raises:
        ValueError: the network was trained for other classes.
    """
    check_classes(trained, data)
    return 100 * (predict(trained, data.images) != data.labels).double().mean().item()
