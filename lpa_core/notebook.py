"""The start of every chapter: check its parameters, print its profile, set seeds.

A chapter's `parameters` cell annotates each parameter; `begin(globals())` checks that the
values from papermill have these types and are allowed.
"""

import ast
import random
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)

from lpa_core.data import check_dataset
from lpa_core.networks import check_network
from lpa_core.plots import set_style
from lpa_core.provenance import device_name, versions
from lpa_core.training import Profile, RunSpec, choose_device, explain

__all__ = ["PROFILES", "ParameterError", "Settings", "begin", "glue"]


class ParameterError(ValueError):
    """A parameter of a chapter does not exist or has an invalid value."""


# Constraints on parameters beyond their types, by name.
CHECKS: dict[str, Any] = {
    "profile": Profile,
    "network": Annotated[str, AfterValidator(check_network)],
    "dataset": Annotated[str, AfterValidator(check_dataset)],
    "seed": Annotated[int, Field(ge=0, lt=2**31)],
    "width": Annotated[float, Field(gt=0, le=8)],
    "epochs": Annotated[int, Field(ge=1)],
    "images": Annotated[int, Field(ge=1, le=100)],
}

# The profile, one word, selects what a chapter trains, if it trains.
PROFILES: dict[str, dict[str, Any]] = {
    "smoke": dict(
        dataset="embedded", width=0.125, recipe="fast", epochs=3, train_images=4096
    ),
    "laptop": dict(dataset="cifar10", width=0.25, recipe="fast"),
    "gpu": dict(dataset="cifar10", width=1.0, recipe="fast"),
    "paper": dict(dataset="cifar10", width=1.0, recipe="paper"),
}


@dataclass(frozen=True)
class Settings:
    """The settings of a chapter.

    Attributes:
        parameters: their checked values, by name.
        profile: "smoke", "laptop", "gpu" or "paper".
        device: the device to compute on.
    """

    parameters: dict[str, Any]
    profile: Profile
    device: torch.device

    @property
    def dataset(self) -> str:
        """The training set of the profile's networks: "embedded" or "cifar10"."""
        return PROFILES[self.profile]["dataset"]

    def spec(self, **overrides) -> RunSpec:
        """The profile's run, with some fields changed."""
        return RunSpec(**(PROFILES[self.profile] | overrides))


def begin(namespace: dict[str, Any]) -> Settings:
    """Check a chapter's parameters, seed everything, choose the device, and print both.

    Args:
        namespace: `globals()` of the notebook. Its parameters are the names that are
            annotated at the first call; later ones are the reader's own.

    Raises:
        ParameterError: a parameter is unknown, has the wrong type or an invalid value; the
            message says what it got and what is allowed.
    """
    annotations = remembered(namespace)
    check_names(namespace, annotations)
    fields: dict[str, Any] = {
        name: (CHECKS.get(name, kind), ...) for name, kind in annotations.items()
    }
    model = create_model(
        "Parameters", __config__=ConfigDict(strict=True, extra="forbid"), **fields
    )
    try:
        checked = model(**{name: namespace[name] for name in annotations})
    except ValidationError as error:
        raise ParameterError(explain(error)) from None
    parameters = checked.model_dump()
    seed = parameters.get("seed", 0)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries may still draw from it
    torch.manual_seed(seed)
    set_style()
    settings = Settings(
        parameters, parameters.get("profile", "smoke"), choose_device("auto")
    )
    listed = ", ".join(f"{name} = {value!r}" for name, value in parameters.items())
    print(f"{listed}\ncomputing on {settings.device}, {torch.get_num_threads()} threads")
    if settings.device.type == "cuda" and settings.profile in ("smoke", "laptop"):
        print('there is a GPU: profile = "gpu" trains at full width, minutes a network')
    # The book's status page reads this line.
    listed = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"{device_name(settings.device)}, {listed}")
    return settings


def remembered(namespace: dict[str, Any]) -> dict[str, Any]:
    """The parameters' annotations, remembered from the first call."""
    kept = namespace.setdefault("_parameters_of_chapter", annotated(namespace))
    return {name: kind for name, kind in kept.items() if name in namespace}


def annotated(namespace: dict[str, Any]) -> dict[str, Any]:
    """Annotations of a notebook's or a module's own names.

    From Python 3.14 on (PEP 649), there is a function `__annotate__` instead of
    `__annotations__`. Notebooks compile statements one by one, so it only knows the last
    one there. Therefore the cells' text is parsed.
    """
    if found := namespace.get("__annotations__"):
        return dict(found)
    annotations: dict[str, Any] = {}
    for cell in namespace.get("In", []):
        try:
            statements = ast.parse(cell).body
        except SyntaxError:  # IPython's own commands, such as %pip
            continue
        for node in statements:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                kind = ast.unparse(node.annotation)
                annotations[node.target.id] = eval(kind, namespace)
    annotate = namespace.get("__annotate__")
    return annotations or (annotate(1) if annotate else {})  # 1: as values


def check_names(namespace: dict[str, Any], annotations: dict[str, Any]) -> None:
    """Reject unknown parameters, about which papermill only warns."""
    for cell in namespace.get("In", []):
        if not cell.startswith("# Parameters\n"):
            continue
        for node in ast.parse(cell).body:
            names = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
            for name in names:
                if name not in annotations:
                    raise ParameterError(
                        f"unknown parameter {name!r}: this chapter has "
                        f"{', '.join(annotations)}"
                    )


def glue(name: str, value: Any) -> None:
    """Pass a computed number to the page's text; without the book's builder, print it."""
    try:
        from myst_nb import glue as hand_over
    except ImportError:
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
        return
    hand_over(name, value, display=False)
