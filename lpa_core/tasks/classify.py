"""Classification: which class a network sees, and how often it is wrong (section 5.1)."""

import torch
from torch import Tensor

from lpa_core.data import Dataset
from lpa_core.shapes import Float, Int, UInt8
from lpa_core.training import Trained

__all__ = ["class_errors", "predict", "probabilities", "top1_error"]


def probabilities(
    trained: Trained, images: UInt8[Tensor, "n h w 3"], batch_size: int = 250
) -> Float[Tensor, "n k"]:
    """Class probabilities of uint8 images, a batch at a time."""
    parts = [trained.attend(part).logits for part in images.split(batch_size)]
    return torch.cat(parts).float().softmax(dim=1)


def predict(trained: Trained, images: UInt8[Tensor, "n h w 3"]) -> Int[Tensor, " n"]:
    """The class with the highest probability, for each image."""
    return probabilities(trained, images).argmax(dim=1)


def top1_error(trained: Trained, data: Dataset) -> float:
    """Share of images whose predicted class is not their label, in per cent.

    Raises:
        ValueError: the network was trained for other classes than the data has.
    """
    return 100 * (checked_predictions(trained, data) != data.labels).double().mean().item()


def class_errors(trained: Trained, data: Dataset) -> dict[str, float]:
    """The top-1 error of each class, in per cent; nan for a class without images."""
    wrong = checked_predictions(trained, data) != data.labels
    return {
        name: 100 * wrong[data.labels == label].double().mean().item()
        for label, name in enumerate(data.classes)
    }


def checked_predictions(trained: Trained, data: Dataset) -> Int[Tensor, " n"]:
    if trained.classes != data.classes:
        raise ValueError(
            f"this network knows {len(trained.classes)} classes "
            f"({', '.join(trained.classes[:3])}, …), the data has {len(data.classes)} "
            f"({', '.join(data.classes[:3])}, …): they must be the same"
        )
    return predict(trained, data.images)
