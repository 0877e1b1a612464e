"""What to train: a `RunSpec` contains everything that determines a run's result.

The result also depends on the training code. `TRAINING_VERSION` stands for it: developers
raise this number when results are meant to change, and tests/test_golden.py fails if
results change but the number does not.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from lpa_core.data import check_dataset, own_label
from lpa_core.networks import (
    Attachment,
    Initialisation,
    check_backbone,
    check_network,
    check_options,
)
from lpa_core.provenance import explain, identify
from lpa_core.training.recipes import (
    Recipe,
    build_recipe,
    changed_fields,
    overridden,
    stated,
)

__all__ = [
    "TRAINING_CHANGES",
    "TRAINING_VERSION",
    "Profile",
    "RunSpec",
    "TrainingChange",
    "explain",
    "run_identity",
    "training_version",
]

Profile = Literal["smoke", "laptop", "gpu", "paper"]


@dataclass(frozen=True)
class TrainingChange:
    """A change after which the same run gives another result.

    Attributes:
        version: its number, one higher than that of the previous change.
        what: one sentence, which is also in CHANGELOG.md.
        runs: patterns of the affected runs, "network recipe dataset": "rn*" is every
            residual network, "* paper*" every network with one of the paper's recipes.
        networks: patterns of networks that now compute something else: older weights
            would load without an error, but be meaningless.
    """

    version: int
    what: str
    runs: tuple[str, ...] = ("*",)
    networks: tuple[str, ...] = ()


# To change results on purpose, add an entry here. Records of the runs that it names are
# then outdated; all others stay valid.
TRAINING_CHANGES = (
    TrainingChange(
        1, "The first version: all records of before, which were compared bit for bit."
    ),
    TrainingChange(
        2,
        "vgg-gap has the attention networks' trunk, residual blocks stride in their first "
        "1x1 convolution, the paper's recipes follow the authors' scripts (dampening, "
        "beginning, milestones, flips, normalisation), and at 80x80 pixels the lowest of "
        "three levels attends at 32x32 positions.",
        runs=("vgg-gap *", "rn*", "* paper*", "vgg-att3-* * cub*", "vgg-mean3 * cub*"),
        networks=("vgg-gap", "rn*"),
    ),
)
TRAINING_VERSION = TRAINING_CHANGES[-1].version


def known_network(name: str, info: Any) -> str:
    return (check_backbone if info.data.get("attach") else check_network)(name)


def known_recipe(name: str) -> str:
    return build_recipe(name).name


class RunSpec(BaseModel):
    """A run, to be given to `run`.

    Attributes:
        network: one of `list_networks()`; with `attach` the name of a backbone.
        dataset: one of `list_datasets()`, or the path of your own.
        recipe: one of `RECIPES`: "fast", or the paper's for these data and networks.
        width: factor on every channel count.
        seed: of initialisation, order and augmentation.
        epochs: None for the recipe's.
        train_images: None for all; otherwise this many, drawn evenly from the classes.
        precision: "auto" takes the shortest type that the hardware supports: bfloat16, or
            float16 on a GPU that only emulates bfloat16, else float32.
        initial: weights of the same network to start from, except for the classifier; None
            starts from scratch.
        add_log_probabilities, average_gradients: options of the authors' scripts, see
            `build_network`.
        initialisation: "pytorch" or "scripts" (see `initialise`); None takes the recipe's.
        query_std: initial standard deviation of u, instead of the initialisation's.
        image_size: pixels per side, for data sets that come at any size; None for the
            default.
        attach: adds attention to the backbone named in `network` (`build_attached`).
        overrides: recipe fields with other values for this run; those that are the
            recipe's own are dropped, and `epochs` becomes the field of that name.

    Raises:
        pydantic.ValidationError: a field is unknown, of the wrong type or out of range;
            it is a ValueError, and `explain` turns it into one sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    attach: Attachment | None = None  # first, because `network` is validated with it
    network: Annotated[str, AfterValidator(known_network)] = "vgg-att2-concat-pc"
    dataset: Annotated[str, AfterValidator(check_dataset)] = "embedded"
    recipe: Annotated[str, AfterValidator(known_recipe)] = "fast"
    width: Annotated[float, Field(gt=0, le=8)] = 0.25
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    epochs: Annotated[int, Field(ge=1)] | None = None
    train_images: Annotated[int, Field(ge=1)] | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    initial: str | None = None
    add_log_probabilities: bool = False
    average_gradients: bool = False
    initialisation: Initialisation | None = None
    query_std: Annotated[float, Field(gt=0, le=10)] | None = None

    image_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    overrides: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def at_full_width(cls, fields: Any) -> Any:
        """A backbone has only one width."""
        if not isinstance(fields, dict) or not fields.get("attach"):
            return fields
        return {"width": 1.0} | fields

    @model_validator(mode="after")
    def worded_alike(self) -> "RunSpec":
        """The same training in other words is the same run, with the same name."""
        if self.overrides is None:
            return self
        recipe = build_recipe(self.recipe)
        changes = changed_fields(recipe, overridden(recipe, self.overrides))
        epochs = changes.pop("epochs", None)
        object.__setattr__(self, "epochs", self.epochs or epochs)
        object.__setattr__(self, "overrides", changes or None)
        return self

    @model_validator(mode="after")
    def usable(self) -> "RunSpec":
        if self.attach:
            check_backbone(self.network)  # which may be the default
        if self.attach and self.width != 1:
            raise ValueError(
                f"width {self.width:g} applies to the paper's networks: a backbone has one "
                "width, so leave it out"
            )
        check_options(
            self.network, self.add_log_probabilities, self.average_gradients, self.query_std
        )
        if self.initialisation == (self.chosen_recipe().initialisation or "pytorch"):
            # Stating the recipe's own initialisation does not make another run.
            object.__setattr__(self, "initialisation", None)
        start = self.chosen_recipe().start
        if start and self.initial is None:
            raise ValueError(
                f"the recipe {self.recipe} starts from weights of {self.network} trained "
                f"on {start}: name their file as `initial` (--initial)"
            )
        return self

    def chosen_recipe(self) -> Recipe:
        recipe = build_recipe(self.recipe)
        return overridden(recipe, self.overrides) if self.overrides else recipe

    def recipe_label(self) -> str:
        """The recipe's name, with its overrides."""
        others = (f"{name}={value}" for name, value in (self.overrides or {}).items())
        return ", ".join([self.recipe, *others])

    def network_label(self) -> str:
        """The network's name; for a backbone, with its attended layers."""
        return "+".join([self.network, *(self.attach.layers if self.attach else [])])

    def chosen_epochs(self) -> int:
        return self.epochs or self.chosen_recipe().epochs

    def epoch_size(self, epoch: int, full: int) -> int:
        """Pixels per side in epoch `epoch` (0, 1, …), if the full size is `full` pixels."""
        return self.chosen_recipe().image_size(epoch, self.chosen_epochs(), full)

    def chosen_initialisation(self) -> Initialisation:
        return self.initialisation or self.chosen_recipe().initialisation or "pytorch"

    def beginning(self) -> str:
        """An initialisation that differs from the recipe's: "scripts", "scripts-u0.2", …"""
        query = "" if self.query_std is None else f"u{self.query_std:g}"
        return "-".join(word for word in (self.initialisation, query) if word)

    def besides(self) -> list[str]:
        """In words, how it differs from its recipe, apart from the initialisation."""
        found = {
            f"{self.train_images} images": self.train_images is not None,
            "other weights to start from": self.initial is not None,
            "added log-probabilities": self.add_log_probabilities,
            "averaged gradients": self.average_gradients,
        }
        return [words for words, done in found.items() if done]

    def trained(self, epochs: int | None = None) -> str:
        """How it is trained, as in measurements of its weights: "fast, 10 epochs", …

        Args:
            epochs: how many were trained; None for the number in the spec.
        """
        count = f"{epochs or self.chosen_epochs()} epochs"
        return ", ".join([self.recipe_label(), count, *self.besides()])

    def label(self) -> str:
        """A readable name; `identity` is the one for programs."""
        dataset = own_label(self.dataset)
        parts = [self.network_label(), dataset, f"w{self.width:g}", self.recipe]
        parts += overrides_label(self.overrides or {})
        epochs = self.chosen_epochs()
        parts += [f"e{epochs}"] if epochs != self.chosen_recipe().epochs else []
        parts += [self.beginning()] if self.beginning() else []
        return "_".join([*parts, f"s{self.seed}"])

    def identity(self, fingerprints: dict[str, str]) -> str:
        """What the result depends on, as 16 hexadecimal digits: see `run_identity`.

        Args:
            fingerprints: of the data's splits, and of the weights it starts from.
        """
        recipe = self.chosen_recipe().content()
        return run_identity(self, recipe, fingerprints, training_version(self))


def overrides_label(overrides: dict[str, Any]) -> list[str]:
    """Overrides in a run's name, as file names allow; of many or long ones, their hash."""
    values = {k: re.sub(r"[^\w.]+", "-", f"{v}").strip("-") for k, v in overrides.items()}
    words = [f"{name}={value}" for name, value in values.items()]
    return words if sum(map(len, words)) <= 60 else [f"own-{identify(overrides)[:8]}"]


def training_version(spec: RunSpec) -> int:
    """The number of the newest change that affects a run."""
    named = f"{spec.network} {spec.recipe} {spec.dataset}"
    return max(
        change.version
        for change in TRAINING_CHANGES
        if any(fnmatchcase(named, pattern) for pattern in change.runs)
    )


def network_version(network: str) -> int:
    """The number of the newest change to what a network computes; 1 if there is none."""
    return max(
        (
            change.version
            for change in TRAINING_CHANGES
            if any(fnmatchcase(network, pattern) for pattern in change.networks)
        ),
        default=1,
    )


def run_identity(
    spec: RunSpec, recipe: dict[str, Any], fingerprints: dict[str, str], version: int
) -> str:
    """The identity of a run: a hash of the spec, the recipe, the data and the version.

    Args:
        spec: its `initial` is ignored, because the path of the weights does not matter.
        recipe: a recipe's `content`.
        fingerprints: of the data's splits, and of the weights it starts from.
        version: `training_version` of the training code.

    Returns:
        16 hexadecimal digits.
    """
    fields = spec.model_dump(mode="json", exclude={"initial"})
    # The images identify your own set, not the path of its folder.
    fields["dataset"] = own_label(spec.dataset)
    return identify(
        {
            "spec": stated(fields),
            "recipe": stated(recipe),
            "data": fingerprints,
            "training_version": version,
        }
    )
