"""What is to be trained: a `RunSpec` says everything that determines a run's result."""

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from lpa_core.data import check_dataset
from lpa_core.networks import check_network, check_options
from lpa_core.training.recipes import Recipe, build_recipe

__all__ = ["Profile", "RunSpec", "code_hash", "explain"]

Profile = Literal["smoke", "laptop", "paper"]


def known_recipe(name: str) -> str:
    return build_recipe(name).name


class RunSpec(BaseModel):
    """A run, to be given to `run`.

    Attributes:
        network: one of `list_networks()`.
        dataset: one of `list_datasets()`.
        recipe: one of `RECIPES`: "fast", or the paper's for these data and networks.
        width: factor on every channel count.
        seed: of initialisation, order and augmentation.
        epochs: None for the recipe's.
        train_images: None for all; else so many, drawn evenly from the classes.
        precision: "auto" takes bfloat16 autocast where the processor has it in hardware.
        initial: weights of the same network to start from, all but the classifier; None
            starts from scratch.
        add_log_probabilities, average_gradients: options of the authors' scripts, see
            `build_network`.

    Raises:
        pydantic.ValidationError: a field that does not exist, of the wrong type or out
            of range; it is a ValueError, and `explain` makes one sentence of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    network: Annotated[str, AfterValidator(check_network)] = "vgg-att2-concat-pc"
    dataset: Annotated[str, AfterValidator(check_dataset)] = "embedded"
    recipe: Annotated[str, AfterValidator(known_recipe)] = "fast"
    width: Annotated[float, Field(gt=0, le=8)] = 0.25
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    epochs: Annotated[int, Field(ge=1)] | None = None
    train_images: Annotated[int, Field(ge=1)] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    initial: str | None = None
    add_log_probabilities: bool = False
    average_gradients: bool = False

    @model_validator(mode="after")
    def usable(self) -> "RunSpec":
        check_options(self.network, self.add_log_probabilities, self.average_gradients)
        start = self.chosen_recipe().start
        if start and self.initial is None:
            raise ValueError(
                f"the recipe {self.recipe} starts from weights of {self.network} trained "
                f"on {start}: name their file as `initial` (--initial)"
            )
        return self

    def chosen_recipe(self) -> Recipe:
        return build_recipe(self.recipe)

    def chosen_epochs(self) -> int:
        return self.epochs or self.chosen_recipe().epochs

    def label(self) -> str:
        """A name for people; `identity` is the one for machines."""
        parts = [self.network, self.dataset, f"w{self.width:g}", self.recipe]
        return "_".join([*parts, f"s{self.seed}"])

    def identity(self, data: dict[str, str]) -> str:
        """What the result depends on, as 16 hexadecimal digits.

        Args:
            data: fingerprints of the splits, and of the weights it starts from.
        """
        facts = {
            # Weights are the same wherever their file lies.
            "spec": self.model_dump(mode="json", exclude={"initial"}),
            "recipe": self.chosen_recipe().model_dump(mode="json"),
            "data": data,
            "code": code_hash(),
        }
        text = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def code_hash(package: Path = Path(__file__).parents[1]) -> str:
    """A hash of the code that trains: comments, docstrings and layout do not count."""
    files = [package / "attention.py"]
    for folder in ("data", "networks", "training"):
        files += sorted((package / folder).rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and is_docstring(body[0]):
                del body[0]
        digest.update(f"{file.relative_to(package)}\n{ast.dump(tree)}\n".encode())
    return digest.hexdigest()[:16]


def is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def explain(error: ValidationError) -> str:
    """One line of a pydantic error: each field, what it got and what is allowed."""
    parts = []
    for fault in error.errors():
        name = ".".join(map(str, fault["loc"]))
        wanted = fault["msg"].removeprefix("Value error, ")
        # Without a name it is about several fields together, which the message names.
        parts.append(f"{name}: {wanted} (got {fault['input']!r})" if name else wanted)
    return "; ".join(parts)
