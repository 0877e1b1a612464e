"""How a network is trained: the paper's recipe, and one that fits an afternoon.

A recipe fixes everything but the network, the data and the seed. The learning rate is a
pure function of the step, so that a run can be taken up anywhere.
"""

import math
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lpa_core.data import PREPROCESSES
from lpa_core.networks import Initialisation
from lpa_core.provenance import explain

__all__ = [
    "RECIPES",
    "Recipe",
    "build_recipe",
    "lr_factor",
    "overridden",
    "read_recipe",
]


class Recipe(BaseModel):
    """One way of training.

    Attributes:
        epochs: passes over the training set.
        batch_size: images a step; the last, incomplete batch is dropped.
        lr: the highest learning rate.
        schedule: "steps" multiplies it as `milestones` say, (epochs done, factor), and
            divides it by 1 + `lr_decay` a step; "one-cycle" rises linearly over the first
            `warmup` of the run and falls linearly to zero.
        momentum, nesterov, weight_decay: of stochastic gradient descent.
        dampening: share of each gradient but the first that does not enter the momentum;
            None is 0. Torch7's `optim.sgd` takes the momentum for it where none is given.
        reset_momentum: forget the momentum at each milestone.
        muon_lr, muon_momentum, muon_weight_decay: of Muon on the convolutions'
            weights; None leaves them to gradient descent as well.
        label_smoothing: share of the target spread evenly over the classes.
        flip, crop: augmentation, see `TrainLoader`; sets whose mirror images are not of
            their class (digits) are not flipped.
        flip_half: flip exactly half of each batch, drawn anew each time.
        flip_digits: flip those sets too, as the authors' scripts do.
        preprocess: normalisation, see `lpa_core.data.preprocess`.
        dropout: None for the paper's rates, else the rate before the classifier alone.
        sizes: image sizes as shares of the full size, one for each equal part of the run;
            early epochs on smaller images cost less.
        start: the data set on which the weights that it starts from were trained; None
            starts from scratch, unless a run names weights itself.
        initialisation: how networks begin, see `lpa_core.networks.initialise`; None is
            "pytorch".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    epochs: int
    batch_size: int
    lr: float
    schedule: Literal["steps", "one-cycle"]
    milestones: tuple[tuple[int, float], ...] = ()
    lr_decay: float = 0.0
    warmup: float = 0.25
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    muon_lr: float | None = None
    muon_momentum: float = 0.9
    muon_weight_decay: float = 0.0
    label_smoothing: float = 0.0
    flip: bool = True
    crop: int = 0
    preprocess: str
    dropout: float | None = None
    sizes: tuple[float, ...] = (1.0,)
    start: str | None = None
    dampening: float | None = None
    reset_momentum: bool = False
    flip_half: bool = False
    flip_digits: bool = False
    initialisation: Initialisation | None = None

    def content(self) -> dict[str, Any]:
        """All that it fixes, as JSON values, without what is off."""
        return stated(self.model_dump(mode="json"))

    def image_size(self, epoch: int, epochs: int, full: int) -> int:
        """Pixels a side that epoch number `epoch` (0, 1, …) of `epochs` trains on."""
        return round(full * self.sizes[epoch * len(self.sizes) // epochs])


def stated(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields without those that are off: None, False or empty.

    So an identity stays what it is when an option is added whose default is off.
    """
    return {k: v for k, v in fields.items() if v is not None and v is not False and v != []}


# Jetley et al. 2018, A.3, for VGG on CIFAR. What the text does not say is the authors'
# scripts': the dampening, by which a rate of 1 is in effect 0.1, the beginning, the flips,
# YUV, and that rates change at the beginning of epochs 25, 50, …, after 24, 49, … of them.
PAPER = Recipe(
    name="paper",
    epochs=300,
    batch_size=128,
    lr=1.0,
    schedule="steps",
    milestones=tuple((epoch - 1, 0.5) for epoch in range(25, 301, 25)),
    lr_decay=1e-7,
    dampening=0.9,
    flip_half=True,
    preprocess="yuv",
    initialisation="scripts",
)
# The scripts flip digits too; the text does not say so, and a mirrored digit is none.
SVHN = PAPER.model_copy(
    update={"name": "paper-svhn", "lr": 0.1, "preprocess": "scale", "flip_digits": True}
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        PAPER,
        SVHN,
        SVHN.model_copy(
            update={"name": "paper-svhn-unflipped", "flip": False, "flip_half": False}
            | {"flip_digits": False}
        ),
        # The rate doubles twice to warm up; the epochs are the authors' scripts'.
        PAPER.model_copy(
            update={
                "name": "paper-cub",
                "epochs": 320,
                "lr": 0.1,
                "milestones": (
                    (29, 2.0),
                    (59, 2.0),
                    *((epoch - 1, 0.5) for epoch in range(90, 321, 30)),
                ),
                "preprocess": "scale",
                "start": "cifar100",
            }
        ),
        # Residual networks on CIFAR; Nesterov without dampening, the momentum's resets,
        # flip and crop are the authors' scripts'.
        Recipe(
            name="paper-rn",
            epochs=200,
            batch_size=64,
            lr=0.1,
            schedule="steps",
            milestones=((59, 0.2), (119, 0.2), (159, 0.2)),
            nesterov=True,
            reset_momentum=True,
            flip_half=True,
            crop=4,
            preprocess="zca",
            initialisation="scripts",
        ),
        # Ten epochs, for a laptop; the chapter on training says what each choice does.
        Recipe(
            name="fast",
            epochs=10,
            batch_size=128,
            lr=0.1,
            schedule="one-cycle",
            nesterov=True,
            label_smoothing=0.1,
            crop=4,
            preprocess="mean-std",
            dropout=0.2,
            sizes=(0.625, 0.625, 0.75, 0.875, 1.0),
            muon_lr=0.02,
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


def overridden(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """A recipe with other values of some of its fields.

    Raises:
        ValueError: there is no such field, or it cannot have that value.
    """
    allowed = [name for name in Recipe.model_fields if name not in ("name", "start")]
    for name in overrides:
        if name not in allowed:
            raise ValueError(
                f"a recipe has no field {name!r} to set: choose one of {', '.join(allowed)}"
            )
    try:
        made = Recipe.model_validate(recipe.model_dump() | overrides)
    except ValidationError as error:
        raise ValueError(f"recipe {recipe.name}: {explain(error)}") from error
    for name, (low, high) in RANGES.items():
        value = getattr(made, name)
        if value is not None and not low <= value <= high:
            raise ValueError(
                f"recipe {recipe.name}: {name} {value!r}: give {low:g} to {high:g}"
            )
    if not made.sizes or not all(0 < size <= 1 for size in made.sizes):
        raise ValueError(
            f"recipe {recipe.name}: sizes {made.sizes!r}: give shares of the full size, "
            "above 0 and up to 1, such as [1.0]"
        )
    if made.preprocess not in PREPROCESSES:
        raise ValueError(
            f"recipe {recipe.name}: unknown preprocessing {made.preprocess!r}: choose one "
            f"of {', '.join(PREPROCESSES)}"
        )
    return made


# Of what a recipe of one's own may set: the lowest and the highest value.
RANGES = {
    "epochs": (1, 100_000),
    "batch_size": (2, 1_000_000),
    "lr": (1e-12, 1e3),
    "lr_decay": (0, 1),
    "warmup": (1e-6, 1 - 1e-6),
    "momentum": (0, 1 - 1e-9),
    "weight_decay": (0, 1e3),
    "muon_lr": (1e-12, 1e3),
    "muon_momentum": (0, 1 - 1e-9),
    "muon_weight_decay": (0, 1e3),
    "label_smoothing": (0, 1 - 1e-9),
    "crop": (0, 1000),
    "dropout": (0, 1 - 1e-9),
}


def read_recipe(path: str | Path) -> tuple[str, dict[str, Any]]:
    """A recipe file: the name of the recipe that it is `based_on`, and what it overrides.

    It is YAML, one `field: value` a line, with `based_on: fast` where it starts from
    another recipe than "fast".

    Raises:
        ValueError: it cannot be read, or is no such file.
    """
    try:
        fields = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"recipe file {path} cannot be read: {said}") from error
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise ValueError(
            f"recipe file {path}: give one `field: value` a line, such as `lr: 0.05`"
        )
    base = fields.pop("based_on", "fast")
    overridden(build_recipe(base), fields)
    return base, fields


def lr_factor(recipe: Recipe, step: int, steps_per_epoch: int, epochs: int) -> float:
    """What step number `step` (0, 1, …) multiplies the recipe's learning rates by."""
    if recipe.schedule == "steps":
        done = step // steps_per_epoch
        factors = [factor for epoch, factor in recipe.milestones if epoch <= done]
        return math.prod(factors) / (1 + recipe.lr_decay * step)
    steps = steps_per_epoch * epochs
    peak = recipe.warmup * steps
    # Measured in the middle of the step, so that neither end is exactly zero.
    now = step + 0.5
    return min(now / peak, (steps - now) / (steps - peak))
