"""How a network is trained: the paper's recipe, and one that fits an afternoon.

A recipe fixes everything but the network, the data and the seed. The learning rate is a
pure function of the step, so that a run can be taken up anywhere.
"""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["RECIPES", "Recipe", "build_recipe", "rate_share"]


class Recipe(BaseModel):
    """One way of training.

    Attributes:
        epochs: passes over the training set.
        batch_size: images a step; the last, incomplete batch is dropped.
        rate: the highest learning rate.
        schedule: "steps" multiplies the rate as `changes` say, (epochs done, factor), and
            divides it by 1 + `decay` a step; "one-cycle" rises linearly over the first
            `warmup` of the run and falls linearly to zero.
        momentum, nesterov, weight_decay: of stochastic gradient descent.
        filter_rate, filter_momentum, filter_weight_decay: of Muon on the convolutions'
            weights; None leaves them to gradient descent as well.
        label_smoothing: share of the target spread evenly over the classes.
        flip, crop: augmentation, see `TrainLoader`; sets whose mirror images are not of
            their class (digits) are not flipped.
        preprocess: normalisation, see `lpa_core.data.preprocess`.
        dropout: None for the paper's rates, else the rate before the classifier alone.
        sizes: image sizes as shares of the full size, one for each equal part of the run;
            early epochs on smaller images cost less.
        start: the data set on which the weights that it starts from were trained; None
            starts from scratch, unless a run names weights itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    epochs: int
    batch_size: int
    rate: float
    schedule: Literal["steps", "one-cycle"]
    changes: tuple[tuple[int, float], ...] = ()
    decay: float = 0.0
    warmup: float = 0.25
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    filter_rate: float | None = None
    filter_momentum: float = 0.9
    filter_weight_decay: float = 0.0
    label_smoothing: float = 0.0
    flip: bool = True
    crop: int = 0
    preprocess: str
    dropout: float | None = None
    sizes: tuple[float, ...] = (1.0,)
    start: str | None = None

    def content(self) -> dict[str, Any]:
        """All that it fixes, as JSON values, without what is off."""
        return stated(self.model_dump(mode="json"))

    def image_size(self, epoch: int, epochs: int, full: int) -> int:
        """Pixels a side that epoch number `epoch` (0, 1, …) of `epochs` trains on."""
        part = epoch * len(self.sizes) // epochs
        return round(full * self.sizes[part])


def stated(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields without those that are off: None, False or empty.

    So an identity stays what it is when an option is added whose default is off.
    """
    return {k: v for k, v in fields.items() if v is not None and v is not False and v != []}


HALVED = tuple((epoch, 0.5) for epoch in range(25, 300, 25))

RECIPES = {
    recipe.name: recipe
    for recipe in (
        # Jetley et al. 2018, A.3, for VGG on CIFAR; the flip and YUV are the authors'
        # scripts'.
        Recipe(
            name="paper",
            epochs=300,
            batch_size=128,
            rate=1.0,
            schedule="steps",
            changes=HALVED,
            decay=1e-7,
            preprocess="yuv",
        ),
        Recipe(
            name="paper-svhn",
            epochs=300,
            batch_size=128,
            rate=0.1,
            schedule="steps",
            changes=HALVED,
            decay=1e-7,
            flip=False,
            preprocess="scale",
        ),
        # The rate doubles twice to warm up; the epochs are the authors' scripts'.
        Recipe(
            name="paper-cub",
            epochs=320,
            batch_size=128,
            rate=0.1,
            schedule="steps",
            changes=(
                (30, 2.0),
                (60, 2.0),
                *((epoch, 0.5) for epoch in range(90, 320, 30)),
            ),
            decay=1e-7,
            preprocess="scale",
            start="cifar100",
        ),
        # Residual networks on CIFAR; Nesterov, flip and crop are the authors' scripts'.
        Recipe(
            name="paper-rn",
            epochs=200,
            batch_size=64,
            rate=0.1,
            schedule="steps",
            changes=((60, 0.2), (120, 0.2), (160, 0.2)),
            nesterov=True,
            crop=4,
            preprocess="zca",
        ),
        # Ten epochs, for a laptop; the chapter on training says what each choice does.
        Recipe(
            name="fast",
            epochs=10,
            batch_size=128,
            rate=0.1,
            schedule="one-cycle",
            nesterov=True,
            label_smoothing=0.1,
            crop=4,
            preprocess="mean-std",
            dropout=0.2,
            sizes=(0.625, 0.625, 0.75, 0.875, 1.0),
            filter_rate=0.02,
        ),
    )
}


def build_recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def rate_share(recipe: Recipe, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The share of the recipe's rates that step number `step` (0, 1, …) takes."""
    if recipe.schedule == "steps":
        done = step // steps_per_epoch
        factors = [factor for epoch, factor in recipe.changes if epoch <= done]
        return math.prod(factors) / (1 + recipe.decay * step)
    steps = steps_per_epoch * epochs
    peak = recipe.warmup * steps
    # Measured in the middle of the step, so that neither end is exactly zero.
    now = step + 0.5
    return min(now / peak, (steps - now) / (steps - peak))
