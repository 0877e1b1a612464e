"""How a network is trained: the paper's recipes, and one that takes an afternoon.

A recipe fixes everything except the network, the data and the seed. The learning rate is a
pure function of the step, so that a run can resume anywhere.
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
    "changed_fields",
    "lr_factor",
    "overridden",
    "read_recipe",
]


class Recipe(BaseModel):
    """One way to train a network.

    Attributes:
        epochs: passes over the training set.
        batch_size: images per step; an incomplete last batch is dropped.
        lr: the highest learning rate.
        schedule: "steps" multiplies it at the `milestones`, (epochs done, factor), and
            divides it by 1 + `lr_decay` per step; "one-cycle" rises linearly over the first
            fraction `warmup` of the run and then falls linearly to zero.
        momentum, nesterov, weight_decay: of stochastic gradient descent.
        dampening: fraction of each gradient but the first that does not enter the momentum;
            None is 0. Torch7's `optim.sgd` uses the momentum as its default dampening.
        reset_momentum: reset the momentum at each milestone.
        muon_lr, muon_momentum, muon_weight_decay: of Muon on the convolutions' weights;
            without a `muon_lr`, SGD trains them too.
        label_smoothing: fraction of the target spread evenly over the classes.
        flip, crop: augmentation, see `TrainLoader`; sets whose images change their class
            when mirrored (digits) are not flipped.
        flip_half: flip exactly half of each batch, at random each time.
        flip_digits: flip those sets too, as the authors' scripts do.
        preprocess: normalisation, see `lpa_core.data.preprocess`.
        dropout: None for the paper's rates, else the rate only before the classifier.
        sizes: image sizes as fractions of the full size, one for each equal part of the
            run; early epochs on smaller images cost less.
        start: the data set that the initial weights were trained on; None starts from
            scratch, unless a run names weights itself.
        initialisation: see `lpa_core.networks.initialise`; None is "pytorch".
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
        """All its settings as JSON values, without those that are off."""
        return stated(self.model_dump(mode="json"))

    def image_size(self, epoch: int, epochs: int, full: int) -> int:
        """Pixels per side in epoch `epoch` (0, 1, …) of `epochs`."""
        return round(full * self.sizes[epoch * len(self.sizes) // epochs])


def stated(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields without those that are off: None, False or empty.

    This way identities do not change when a new option is off by default.
    """
    return {k: v for k, v in fields.items() if v is not None and v is not False and v != []}


# Jetley et al. 2018, A.3, for VGG on CIFAR. What the text does not say follows the authors'
# scripts: the dampening (a rate of 1 acts like 0.1), the initialisation, the flips, YUV,
# and that rates change at the start of epochs 25, 50, …, that is, after 24, 49, … epochs.
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
# The scripts flip digits too. The text does not say so, and a mirrored digit is no digit.
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
        # The rate doubles twice to warm up; the epochs follow the authors' scripts.
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
        # Residual networks on CIFAR. Nesterov without dampening, momentum resets, flip and
        # crop follow the authors' scripts.
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
        # Ten epochs, for a laptop; the chapter on training explains each choice.
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
        ValueError: unknown name.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def overridden(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """A recipe with new values for some of its fields.

    Raises:
        ValueError: a field does not exist or cannot have this value.
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


def changed_fields(recipe: Recipe, other: Recipe) -> dict[str, Any]:
    """The settings in which `other` differs, as JSON values, sorted by name."""
    own, new = recipe.model_dump(mode="json"), other.model_dump(mode="json")
    return {name: new[name] for name in sorted(new) if new[name] != own[name]}


# The lowest and highest values that your own recipe may set.
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
    """A recipe file: the name of the recipe that it is `based_on`, and its overrides.

    It is YAML with one `field: value` per line. `based_on: NAME` names the recipe to start
    from; the default is "fast".

    Raises:
        ValueError: the file cannot be read or has another format.
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
    """The factor on the recipe's learning rates in step number `step` (0, 1, …)."""
    if recipe.schedule == "steps":
        done = step // steps_per_epoch
        factors = [factor for epoch, factor in recipe.milestones if epoch <= done]
        return math.prod(factors) / (1 + recipe.lr_decay * step)
    steps = steps_per_epoch * epochs
    peak = recipe.warmup * steps
    # Evaluated in the middle of the step, so that neither end is exactly zero.
    now = step + 0.5
    return min(now / peak, (steps - now) / (steps - peak))
