"""The grid: which networks a profile trains, on what, how often, and what is measured.

A grid is a readable YAML file; `read_grid` checks it. The book's own grids are beside this
file, one per profile.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from lpa_core.data import check_dataset
from lpa_core.networks import Initialisation, check_network
from lpa_core.tasks import TASKS
from lpa_core.tasks.base import Settings, check_task
from lpa_core.training import Profile, RunSpec, explain

__all__ = ["GRIDS", "Grid", "GridError", "MeasureGroup", "RunGroup", "read_grid"]

GRIDS = Path(__file__).parent

Network = Annotated[str, AfterValidator(check_network)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class GridError(ValueError):
    """A grid does not exist or is invalid."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunGroup(Part):
    """Runs that differ only in network and seed.

    Attributes:
        networks: seeds, by network.
        initial: file of the weights to start from; {network} stands for the network.
        ship: whether the best run of each network goes to the grid's folder of weights.
        measure: whether `measurements` mean these runs, if they name their networks. False
            where another group has the same networks at another width, for other epochs, or
            with other `overrides`.
        The other fields are those of `RunSpec`.
    """

    networks: dict[Network, Seeds]
    dataset: Annotated[str, AfterValidator(check_dataset)]
    recipe: str
    width: float
    epochs: int | None = None
    train_images: int | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    initial: str | None = None
    add_log_probabilities: bool = False
    average_gradients: bool = False
    initialisation: Initialisation | None = None
    query_std: float | None = None
    overrides: dict[str, Any] | None = None
    ship: bool = True
    measure: bool = True

    def specs(self) -> list[RunSpec]:
        """The runs, in the order of the file."""
        shared = self.model_dump(exclude={"networks", "initial", "ship", "measure"})
        return [
            RunSpec(
                network=network,
                seed=seed,
                initial=self.initial and self.initial.format(network=network),
                **shared,
            )
            for network, seeds in self.networks.items()
            for seed in seeds
        ]


class MeasureGroup(Part):
    """One task on one data set, for some of the grid's runs.

    Attributes:
        task: one of `lpa_core.tasks.TASKS`. dataset: the images.
        trained_on: the networks' training set.
        networks: seeds, by network: each of these runs is measured.
        methods: methods without a network, if the task has some.
        images: None for all.
        initialisation, query_std: of these runs, if they differ from the recipe's.
        Further fields are options of the task, such as `pairs`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    task: Annotated[str, AfterValidator(check_task)]
    dataset: Annotated[str, AfterValidator(check_dataset)]
    trained_on: Annotated[str, AfterValidator(check_dataset)]
    networks: dict[Network, Seeds] = {}
    methods: list[str] = []
    images: Annotated[int, Field(ge=1)] | None = None
    initialisation: Initialisation | None = None
    query_std: float | None = None

    @model_validator(mode="after")
    def known_options(self) -> "MeasureGroup":
        try:
            self.options()
        except ValidationError as error:
            raise ValueError(f"{self.task}: {explain(error)}") from error
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The task's options in the grid, without the methods."""
        return self.model_extra or {}

    def options(self) -> Settings:
        """The task's options; those that the grid leaves out have their defaults."""
        methods = {"methods": self.methods} if self.methods else {}
        return TASKS[self.task].options.model_validate(self.settings | methods)

    def run_key(self, network: str, seed: int) -> tuple:
        """`run_key` of the run that it measures."""
        return (network, self.trained_on, seed, self.initialisation, self.query_std)

    def name(self) -> str:
        """A name for its steps: the task, the data set and the options in the grid."""
        stated = self.settings | ({"images": self.images} if self.images else {})
        words = [v for v in stated.values() if isinstance(v, str)]
        numbers = [f"{v}-{k}" for k, v in stated.items() if not isinstance(v, str | list)]
        return "-".join([self.task, *words, self.dataset, *numbers])


def run_key(spec: RunSpec) -> tuple:
    """The properties that identify a run among those of a grid that are measured."""
    return (spec.network, spec.dataset, spec.seed, spec.initialisation, spec.query_std)


class Grid(Part):
    """What a profile needs.

    Attributes:
        profile: the profile of its runs.
        weights: folder that the best run of each network is shipped to.
        runs, measurements: the groups.
    """

    profile: Profile
    weights: str
    runs: list[RunGroup]
    measurements: list[MeasureGroup] = []

    def specs(self) -> list[RunSpec]:
        return [spec for group in self.runs for spec in group.specs()]

    def measurable(self) -> list[RunSpec]:
        """The runs that `measurements` can mean."""
        return [s for group in self.runs if group.measure for s in group.specs()]


def read_grid(source: str | Path) -> Grid:
    """A grid from a file, or the book's own grid for a profile: "smoke", "laptop", "gpu",
    "paper".

    Raises:
        GridError: it does not exist or is invalid; the message names the field.
    """
    path = Path(source)
    if not path.suffix:
        path = GRIDS / f"{source}.yaml"
    known = ", ".join(sorted(p.stem for p in GRIDS.glob("*.yaml")))
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        grid = Grid.model_validate(found)
        specs = grid.specs()
    except OSError as error:
        raise GridError(
            f"no grid {str(source)!r} ({error.strerror}): name a file, or one of {known}"
        ) from error
    except yaml.YAMLError as error:
        raise GridError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise GridError(f"{path}: {explain(error)}") from error
    except KeyError as error:
        raise GridError(
            f"{path}: initial may only contain {{network}}, not {{{error.args[0]}}}"
        ) from error
    check_labels(path, specs)
    check_shipped(path, grid)
    check_measured(path, grid)
    return grid


def check_labels(path: Path, specs: list[RunSpec]) -> None:
    """Check that names are unique: otherwise runs would overwrite each other's results."""
    label, count = Counter(spec.label() for spec in specs).most_common(1)[0]
    if count > 1:
        raise GridError(f"{path}: {count} runs are called {label}; names must be unique")


def check_shipped(path: Path, grid: Grid) -> None:
    """Check that no two groups ship to one file, which is named without their epochs."""
    shipped = Counter(
        f"{network} of {group.dataset} at width {group.width:g}"
        for group in grid.runs
        if grid.weights and group.ship
        for network in group.networks
    )
    for name, count in shipped.items():
        if count > 1:
            raise GridError(
                f"{path}: {count} groups ship {name}: say `ship: false` of the others"
            )


def check_measured(path: Path, grid: Grid) -> None:
    """Check that every network to be measured is trained, and which run of it is meant."""
    trained = Counter(map(run_key, grid.measurable()))
    for group in grid.measurements:
        if not group.networks and not group.methods:
            raise GridError(
                f"{path}: {group.task} on {group.dataset} has neither networks nor methods"
            )
        for network, seeds in group.networks.items():
            for seed in seeds:
                found = trained[group.run_key(network, seed)]
                if found != 1:
                    wrong = (
                        f"and {found} runs are: say `measure: false` of those not meant"
                        if found
                        else "which is not among the runs"
                    )
                    raise GridError(
                        f"{path}: {group.task} on {group.dataset} needs {network} trained "
                        f"on {group.trained_on} with seed {seed}, {wrong}"
                    )
