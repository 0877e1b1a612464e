"""Adversarial images: how small a change alters a network's prediction (section 5.2).

The strength eps counts levels of an 8-bit image: eps = 1 changes each value by at most
1/255 of the image's range, independent of the network's normalisation. The gradient is
propagated through the normalisation and any resizing back to the image itself.

FGSM takes one step along the sign of the gradient; PGD, the stronger check, takes several.
"""

import math
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from tqdm.auto import tqdm

from lpa_core.data import Dataset
from lpa_core.maps.arrays import resize
from lpa_core.networks import AttentionOutput
from lpa_core.networks.hooks import evaluating
from lpa_core.shapes import Float
from lpa_core.tasks.base import Metrics, Settings, Task, check_classes, register
from lpa_core.training import Trained

__all__ = [
    "ATTACKS",
    "EPSILONS",
    "TASK",
    "AttackMetrics",
    "AttackReport",
    "AttackSettings",
    "Strength",
    "attend_unit",
    "evaluate_attack",
    "fgsm",
    "fooling_rate",
    "loss_gradient",
    "map_shift",
    "pgd",
    "unit_images",
]

ATTACKS = ("fgsm", "pgd")
EPSILONS = (1, 2, 4, 8, 16)  # the paper's, in units of 1/255


def unit_images(images: Tensor) -> Float[Tensor, "b 3 h w"]:
    """Images as floats (B, 3, H, W) in [0, 1].

    Args:
        images: uint8 (B, H, W, 3), or floats (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: they are neither, or there are none.
    """
    whole = images.dim() == 4 and len(images) > 0
    if whole and images.dtype == torch.uint8 and images.shape[3] == 3:
        return images.permute(0, 3, 1, 2).float().div_(255)
    if not (whole and images.is_floating_point() and images.shape[1] == 3):
        raise ValueError(
            "images must be uint8 (B, H, W, 3), or float (B, 3, H, W) in [0, 1], with at "
            f"least one image; got {images.dtype} {tuple(images.shape)}"
        )
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):  # true for nan as well
        raise ValueError(
            f"float images must lie in [0, 1]; these run from {low:g} to {high:g} (divide "
            "the original images by 255, without normalisation)"
        )
    return images.detach().float()


def attend_unit(trained: Trained, x: Float[Tensor, "b 3 h w"]) -> AttentionOutput:
    """`attend` for float images in [0, 1], with gradients if autograd is enabled.

    Without gradients it gives the same as `trained.attend` on the uint8 images.
    """
    size = trained.network.image_size
    if x.shape[-1] != size:
        x = resize(x, size, size)
    x = trained.preprocess(x).contiguous(memory_format=torch.channels_last)
    return trained.network.attend(x)


def loss_gradient(
    trained: Trained, images: Tensor, labels: Tensor
) -> tuple[AttentionOutput, Float[Tensor, "b 3 h w"]]:
    """The network's output, and the gradient of its loss with respect to the images.

    The losses of the images are summed, so that an image's gradient does not depend on
    its batch; dropout and batch statistics are off.

    Args:
        images: as `unit_images` takes them.
        labels: the true classes, whole numbers (B,).

    Raises:
        ValueError: invalid images or labels, or a gradient that is not finite.
    """
    x = unit_images(images)
    check_labels(trained, labels, len(x))
    with evaluating(trained.network, trained.preprocess), torch.enable_grad():
        x = x.requires_grad_()
        seen = attend_unit(trained, x)
        loss = F.cross_entropy(seen.logits.float(), labels.long(), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    broken = ~gradient.isfinite().flatten(1).all(dim=1)
    if broken.any():
        raise ValueError(
            f"the loss has no finite gradient at {int(broken.sum())} of {len(x)} images, "
            f"first at number {int(broken.int().argmax())}: the network or its "
            "normalisation is not differentiable there"
        )
    return detached(seen), gradient


def fgsm(
    trained: Trained, images: Tensor, labels: Tensor, eps: float
) -> Float[Tensor, "b 3 h w"]:
    """The fast gradient sign method (Goodfellow et al. 2015, section 4)::

        x' = clip(x + eps / 255 * sign(grad_x loss), 0, 1)

    Args:
        images: uint8 (B, H, W, 3) or float (B, 3, H, W) in [0, 1], of any size that the
            network takes.
        labels: the true classes, whole numbers (B,).
        eps: the largest change of a value, in units of 1/255 of the image's range: 0 (no
            change) or from 1 to 255; 8 means 8/255.

    Returns:
        The attacked images, float (B, 3, H, W) in [0, 1]. For uint8 images and an integer
        eps they lie on the levels of 8-bit images again.

    Raises:
        ValueError: invalid images, labels or eps.
    """
    eps = checked_eps(eps)
    _, gradient = loss_gradient(trained, images, labels)
    return take_step(unit_images(images), gradient, eps)


def pgd(
    trained: Trained,
    images: Tensor,
    labels: Tensor,
    eps: float,
    steps: int = 10,
    step: float | None = None,
    seed: int = 0,
) -> Float[Tensor, "b 3 h w"]:
    """Projected gradient descent (Madry et al. 2018), from a random point within eps.

    Each step adds `step` along the sign of the gradient; values outside the ball of radius
    eps around the image are projected back to it::

        x <- clip(clip(x + step * sign(grad_x loss), 0, 1), x_0 - eps, x_0 + eps)

    Args:
        images, labels, eps: as in `fgsm`.
        steps: the number of steps.
        step: the length of one, in units of 1/255; by default 2.5 * eps / steps, so that
            it can reach every point within eps and turn back.
        seed: of the random start.

    Raises:
        ValueError: invalid images, labels, eps, steps or step.
    """
    eps, step = checked_eps(eps), checked_step(eps, steps, step)
    x = unit_images(images)
    check_labels(trained, labels, len(x))
    low, high = x - eps / 255, x + eps / 255
    # NumPy's legacy generator: the book's measurements used it.
    draws = np.random.RandomState(seed).uniform(-eps / 255, eps / 255, x.shape)
    moved = (x + torch.from_numpy(draws).to(x)).clamp(0, 1)
    for _ in range(steps):
        _, gradient = loss_gradient(trained, moved, labels)
        moved = take_step(moved, gradient, step).clamp(low, high)
    return moved


def fooling_rate(clean_predictions: Tensor, adversarial_predictions: Tensor) -> float:
    """Share of images whose predicted class changes under attack, in per cent.

    As in figure 6, it also counts images that were wrong before, and ignores the true
    classes.

    Args:
        clean_predictions, adversarial_predictions: classes (N,), in the same order.

    Raises:
        ValueError: they differ in length, or there are none.
    """
    clean = torch.as_tensor(clean_predictions)
    adversarial = torch.as_tensor(adversarial_predictions)
    if clean.dim() != 1 or clean.shape != adversarial.shape or not len(clean):
        raise ValueError(
            "give one predicted class for each image before and after the attack, of at "
            f"least one image; got {tuple(clean.shape)} and {tuple(adversarial.shape)}"
        )
    return 100 * (clean != adversarial).double().mean().item()


def map_shift(
    before: dict[str, Tensor], after: dict[str, Tensor]
) -> dict[str, Float[Tensor, " b"]]:
    """How far each attention map moved: total variation distance, per layer (B,).

    Half the sum of the absolute differences: the share of the attention that is now
    elsewhere, from 0 (nothing moved) to 1 (no position in common). Maps that do not sum to
    one, such as those of a sigmoid, are normalised.

    Raises:
        ValueError: the maps belong to different layers.
    """
    if before.keys() != after.keys():
        raise ValueError(
            f"maps of {', '.join(before) or 'no layer'} before, but of "
            f"{', '.join(after) or 'no layer'} after: give maps of one network"
        )
    return {
        name: 0.5 * (shares(before[name]) - shares(after[name])).abs().sum(dim=1)
        for name in before
    }


@dataclass(frozen=True)
class Strength:
    """The effect of an attack of one strength on a whole set.

    Attributes:
        eps: in units of 1/255.
        fooling_rate: share of images whose predicted class changes, in per cent.
        error: top-1 error on the attacked images, in per cent.
        map_shift: how far the maps moved on average (`map_shift`), per layer; empty for
            a network without attention.
    """

    eps: float
    fooling_rate: float
    error: float
    map_shift: dict[str, float]


@dataclass(frozen=True)
class AttackReport:
    """An attack on a whole set at several strengths.

    Attributes:
        attack: its name.
        images: how many there were.
        clean_error: top-1 error before the attack, in per cent.
        zero_gradient: share of the images' values where the gradient of the loss is
            exactly zero, in per cent. Gradient attacks cannot use those values: if there
            are many, a low fooling rate is a sign of gradient masking, not of robustness.
        strengths: one entry per eps.
    """

    attack: str
    images: int
    clean_error: float
    zero_gradient: float
    strengths: list[Strength]


def evaluate_attack(
    trained: Trained,
    data: Dataset,
    epsilons: tuple[float, ...] = EPSILONS,
    attack: str = "fgsm",
    steps: int = 10,
    batch_size: int = 100,
    progress: bool = True,
) -> AttackReport:
    """Fooling rate, error and shift of the maps over a whole set (figure 6).

    The attack uses the true labels, as in Goodfellow et al. 2015, and each eps starts from
    the original images. FGSM needs only one gradient for all eps.

    Args:
        epsilons: from 1 to 255, in units of 1/255.
        attack: "fgsm" or "pgd".
        steps: of pgd; fgsm has one.
        batch_size: images at a time. FGSM's result does not depend on it; PGD draws
            its random starts batch by batch.
        progress: show a progress bar.

    Raises:
        ValueError: an invalid argument, or data with other classes.
    """
    strengths = checked_epsilons(epsilons)
    if attack not in ATTACKS:
        raise ValueError(f"unknown attack {attack!r}: choose one of {', '.join(ATTACKS)}")
    check_data(trained, data, batch_size)
    device = next(trained.preprocess.buffers()).device
    parts = []
    starts = range(0, len(data), batch_size)
    with evaluating(trained.network, trained.preprocess):
        for start in tqdm(starts, desc=attack, unit="batch", disable=not progress):
            part = slice(start, start + batch_size)
            images, labels = data.images[part].to(device), data.labels[part].to(device)
            parts.append(attack_batch(trained, images, labels, strengths, attack, steps))
    return summary(attack, parts, data.labels)


@dataclass(frozen=True)
class BatchUnderAttack:
    """One batch: predicted classes before and, per eps, after; shifts per eps and layer."""

    zeros: Tensor
    clean: Tensor
    attacked: dict[float, Tensor]
    shifts: dict[float, dict[str, Tensor]]


def attack_batch(
    trained: Trained,
    images: Tensor,
    labels: Tensor,
    epsilons: list[float],
    attack: str,
    steps: int,
) -> BatchUnderAttack:
    """Attack one batch at each eps."""
    x = unit_images(images)
    before, gradient = loss_gradient(trained, x, labels)
    predicted, shifts = {}, {}
    for eps in epsilons:
        if attack == "fgsm":
            moved = take_step(x, gradient, eps)
        else:
            moved = pgd(trained, x, labels, eps, steps)
        with torch.no_grad():
            after = attend_unit(trained, moved)
        predicted[eps] = after.logits.argmax(dim=1).cpu()
        moves = map_shift(before.maps, after.maps)
        shifts[eps] = {name: shift.cpu() for name, shift in moves.items()}
    zeros = (gradient == 0).flatten(1).double().mean(dim=1).cpu()
    return BatchUnderAttack(zeros, before.logits.argmax(dim=1).cpu(), predicted, shifts)


def summary(attack: str, parts: list[BatchUnderAttack], labels: Tensor) -> AttackReport:
    """Combine all batches into one report."""
    labels = labels.cpu()
    clean = torch.cat([part.clean for part in parts])
    strengths = []
    for eps in parts[0].attacked:
        attacked = torch.cat([part.attacked[eps] for part in parts])
        shift = {
            name: torch.cat([part.shifts[eps][name] for part in parts]).mean().item()
            for name in parts[0].shifts[eps]
        }
        strengths.append(
            Strength(eps, fooling_rate(clean, attacked), error(attacked, labels), shift)
        )
    zero = 100 * torch.cat([part.zeros for part in parts]).mean().item()
    return AttackReport(attack, len(labels), error(clean, labels), zero, strengths)


def error(predictions: Tensor, labels: Tensor) -> float:
    return 100 * (predictions != labels).double().mean().item()


def take_step(x: Tensor, gradient: Tensor, eps: float) -> Float[Tensor, "b 3 h w"]:
    """One step of eps along the gradient's sign, kept within [0, 1]."""
    return (x + eps / 255 * gradient.sign()).clamp(0, 1)


def shares(maps: Float[Tensor, "b h w"]) -> Float[Tensor, "b n"]:
    flat = maps.flatten(1)
    return flat / flat.sum(dim=1, keepdim=True).clamp_min(1e-30)


def detached(seen: AttentionOutput) -> AttentionOutput:
    """The output detached from the autograd graph, whose memory is then freed."""
    parts: dict[str, Any] = {
        name: {layer: t.detach() for layer, t in value.items()}
        if isinstance(value, dict)
        else value.detach()
        for name, value in vars(seen).items()
    }
    return AttentionOutput(**parts)


def checked_eps(eps: Any) -> float:
    """`eps` itself, if it is a valid strength."""
    number = isinstance(eps, Real) and not isinstance(eps, bool)
    if not number or not math.isfinite(eps) or not 0 <= float(eps) <= 255:
        raise ValueError(
            f"eps {eps!r}: give a number from 0 to 255, the largest change of a value in "
            "units of 1/255 of the image's range"
        )
    if 0 < float(eps) < 1:
        raise ValueError(
            f"eps {float(eps):g} is less than one level of an 8-bit image, so it has no "
            "effect there: eps counts levels of 1/255, so give 8 for 8/255 (1 to 255)"
        )
    return float(eps)


def checked_epsilons(epsilons: tuple[float, ...]) -> list[float]:
    """The strengths to evaluate, each once; 0 is not allowed, as it changes nothing."""
    each = list(dict.fromkeys(checked_eps(eps) for eps in epsilons))
    if not each or 0 in each:
        raise ValueError(
            f"epsilons {tuple(epsilons)!r}: give at least one, each from 1 to 255"
        )
    return each


def checked_step(eps: float, steps: int, step: float | None) -> float:
    """The length of one of pgd's steps, in units of 1/255."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps {steps!r}: give a whole number, at least 1")
    if step is None:
        return 2.5 * eps / steps
    if not 0 < step <= 255:
        raise ValueError(f"step {step!r}: give a number above 0 and up to 255")
    return step


def check_labels(trained: Trained, labels: object, count: int) -> None:
    """Check that there is one known class for each image."""
    if not isinstance(labels, Tensor):
        raise ValueError(
            f"the attack needs the true class of each image: give {count} whole numbers "
            f"in a tensor, got {type(labels).__name__}"
        )
    whole = not (labels.is_floating_point() or labels.dtype == torch.bool)
    if not whole or labels.shape != (count,):
        raise ValueError(
            f"labels must be {count} whole numbers, one for each image; got "
            f"{labels.dtype} {tuple(labels.shape)}"
        )
    known = len(trained.classes)
    if labels.min() < 0 or labels.max() >= known:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but the network "
            f"knows {known} classes, 0 to {known - 1}"
        )


def check_data(trained: Trained, data: Dataset, batch_size: int) -> None:
    """Check that there are images, of the classes that the network was trained for."""
    if not len(data):
        raise ValueError("there are no images to attack")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: give at least 1")
    check_classes(trained, data)


# ------------------------------------------------------------------------------ the task


class AttackSettings(Settings):
    """Attributes: as the arguments of `evaluate_attack`."""

    attack: Annotated[Literal["fgsm", "pgd"], Field(description="fgsm or pgd")] = "fgsm"
    epsilons: Annotated[
        list[Annotated[float, Field(ge=1, le=255)]],
        Field(min_length=1, description="largest changes of a pixel value, in 1/255"),
    ] = Field(default=[float(eps) for eps in EPSILONS])
    steps: Annotated[int, Field(ge=1, le=1000, description="of pgd")] = 10

    def recorded(self) -> dict[str, Any]:
        """For fgsm, without `steps`, which is always one."""
        return self.model_dump(exclude={"steps"} if self.attack == "fgsm" else set())


class StrengthMetrics(Metrics):
    """Attributes: as in `Strength`."""

    fooling_rate: float
    error: float
    map_shift: dict[str, float]


class AttackMetrics(Metrics):
    """Attributes: as in `AttackReport`; the keys of `eps` are the strengths, "1", "2", …"""

    clean_error: float
    zero_gradient: float
    eps: dict[str, StrengthMetrics]


def measure_attack(
    trained: Trained, data: Dataset, settings: AttackSettings, progress: bool
) -> AttackMetrics:
    report = evaluate_attack(
        trained,
        data,
        tuple(settings.epsilons),
        settings.attack,
        settings.steps,
        progress=progress,
    )
    return AttackMetrics(
        clean_error=report.clean_error,
        zero_gradient=report.zero_gradient,
        eps={f"{s.eps:g}": StrengthMetrics(**without_eps(s)) for s in report.strengths},
    )


def without_eps(strength: Strength) -> dict[str, Any]:
    return {name: value for name, value in asdict(strength).items() if name != "eps"}


def say(metrics: AttackMetrics, settings: AttackSettings) -> str:
    rates = ", ".join(f"{s.fooling_rate:.1f} at {eps}" for eps, s in metrics.eps.items())
    return f"fooling rate in % {rates}/255"


TASK = register(
    Task(
        name="attack",
        summary="measure fooling rates, as in figure 6",
        dataset="cifar10",
        options=AttackSettings,
        settings=AttackSettings,
        metrics=AttackMetrics,
        run=measure_attack,
        say=say,
    )
)
