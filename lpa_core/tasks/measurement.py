"""Measurements: one JSON line for each task that a network was put to.

A record says how a network was trained; a measurement what it was then seen to do: under
attack, in another domain, cutting out objects, under another's query, level by level.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeAliasType

from lpa_core import provenance
from lpa_core.provenance import Git, append_line

__all__ = [
    "DataFacts",
    "Measurement",
    "WeightsFacts",
    "append_measurement",
    "identify",
]

Number = int | Annotated[float, Field(allow_inf_nan=False)]
if TYPE_CHECKING:  # how deep they go is the task's to know: no checker can tell
    Numbers = dict[str, Any]
else:
    Numbers = TypeAliasType("Numbers", dict[str, Number | "Numbers"])
Setting = str | bool | int | float | None | list[float]


class WeightsFacts(BaseModel):
    """The weights that were measured, and where they are from.

    Attributes:
        sha256: of the file.
        dataset, width: what the network was trained on, and its width.
        run: identity of the run that trained it, its record's `id`; None if unknown.
        trained: that run's recipe, its epochs, and what it did besides; None in lines of
            before, for which `read_measurements` looks it up in the run's record.
        beginning: how that run began, where it is not as its recipe has it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    dataset: str
    width: float
    run: str | None = None
    trained: str | None = None
    beginning: str | None = None


class DataFacts(BaseModel):
    """The images that were measured on.

    Attributes:
        name, split: as `lpa_core.data.load` takes them.
        size: pixels a side.
        images: how many; fewer than the split has, where only some were asked for.
        fingerprint: sha256 over those images and their labels.
        masks: sha256 over their masks, where the task looks at them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    split: str
    size: int
    images: int
    fingerprint: str
    masks: str | None = None


class Measurement(BaseModel):
    """One network, or one method that is none, at one task on one set of images.

    Attributes:
        task: what was done.
        settings: all that the result depends on besides weights, data and code.
        network: its name; None for a method that needs none.
        weights: None for such a method.
        data: the images.
        metrics: what came out: numbers, by name, as deep as the task needs.
        device, threads: what computed it.
        versions, git: of the libraries and of this repository.
        task_version: of the task: a person raises it when numbers are meant to change.
        code: a hash of the task's code, in lines from before tasks had a version.
        formerly: the name that the network had then, where that name means another now.
        started: UTC, ISO 8601. seconds: wall time of the task, without loading the data.
        peak_memory_bytes: of the process up to then on a CPU, of the tensors on a GPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    settings: dict[str, Setting]
    network: str | None
    weights: WeightsFacts | None
    data: DataFacts
    metrics: Numbers
    device: str
    threads: int
    versions: dict[str, str]
    git: Git
    task_version: Annotated[int, Field(ge=1)] = 1
    code: str | None = None
    formerly: str | None = None
    started: datetime
    seconds: float
    peak_memory_bytes: int

    @property
    def identity(self) -> str:
        """What the result depends on, as 16 hexadecimal digits."""
        return identify(
            self.task, self.settings, self.weights, self.data, self.task_version
        )


def identify(
    task: str,
    settings: dict,
    weights: WeightsFacts | None,
    data: DataFacts,
    version: int,
) -> str:
    """The identity of a measurement, see `provenance.identify`.

    Args:
        version: of the task.
    """
    facts = {
        "task": task,
        "settings": settings,
        "weights": weights.sha256 if weights else None,
        "data": [data.fingerprint, data.masks],
        "version": version,
    }
    return provenance.identify(facts)


def append_measurement(measurement: Measurement, path: str | Path) -> None:
    """Add one line, whole or not at all, while other processes may do the same.

    Raises:
        RecordError: the file cannot be written; it is then as it was.
    """
    append_line(json.dumps(measurement.model_dump(mode="json")), Path(path))
