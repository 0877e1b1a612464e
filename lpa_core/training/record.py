"""Records: one JSON line per finished run, with everything that its numbers depend on."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from lpa_core.provenance import (
    Git,
    append_line,
    device_name,
    now,
    peak_memory,
    versions,
)
from lpa_core.training.config import Profile, RunSpec, run_identity, training_version

__all__ = [
    "STATED_ERRORS",
    "Epoch",
    "Progress",
    "Record",
    "append_record",
    "build_record",
    "seconds_to",
]

# Test errors in per cent: a record says after how many seconds each was reached. The last
# is the one that fast training on CIFAR-10 is commonly timed to.
STATED_ERRORS = (50.0, 20.0, 10.0, 6.0)


class Epoch(BaseModel):
    """One epoch of a run; test metrics only if the test set was evaluated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    image_size: int
    rate: float
    train_loss: float
    train_error: float
    test_loss: float | None = None
    test_error: float | None = None
    seconds: float


class Progress(BaseModel):
    """The progress of a run: the contents of a checkpoint besides network and optimiser."""

    epoch: int = Field(default=0, ge=0)
    seconds: float = 0.0
    sessions: int = 1
    started: datetime = Field(default_factory=now)
    history: list[Epoch] = []
    computed: list[dict[str, str]] = []

    def computed_by(self, device: torch.device, precision: str) -> None:
        """Note the device and precision from here on, if they have changed."""
        here = {"device": device_name(device), "precision": precision}
        if self.computed[-1:] != [here]:
            self.computed.append(here)


class Record(BaseModel):
    """A finished run.

    Attributes:
        id: the run's `identity`. Records older than version 1 keep their earlier names.
        spec: the spec of the run.
        profile: the profile that it belongs to.
        epochs: how many were trained.
        fingerprints: of the data's splits.
        metrics: test_error and train_error in per cent, test_loss and train_loss.
        history: the metrics of each epoch.
        parameters: the number of the network's parameters.
        images_per_second: training images per second, including data and augmentation.
        peak_memory_bytes: of the process on a CPU, of the tensors on a GPU; of the first
            process if there are several.
        device, threads, precision, git: of the session that finished the run.
        computed: device and precision of all sessions in order, without repeats; empty in
            old records.
        processes: how many shared each batch, in the session that finished the run.
        compiled: whether the training step used torch.compile in that session.
        started: UTC, ISO 8601. seconds: wall time without interruptions.
        sessions: how often the run was started; 1 without interruption.
        weights_sha256: of the final weights.
        training_version: of the code that trained it, see `TRAINING_CHANGES`.
        recipe: the recipe's content; None in old records, which only name it.
        code: a hash of the code that trained it, in old records only.
        formerly: the network's name when it was trained, if that name now means another
            network.
        seconds_to_errors: `seconds_to` for each of the `STATED_ERRORS` that was reached,
            by the error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    spec: RunSpec
    profile: Profile
    epochs: int
    fingerprints: dict[str, str]
    metrics: dict[str, float]
    history: list[Epoch]
    parameters: int
    images_per_second: float
    peak_memory_bytes: int
    device: str
    threads: int
    precision: Literal["float32", "bfloat16", "float16"]
    versions: dict[str, str]
    git: Git
    started: datetime
    seconds: float
    sessions: int
    weights_sha256: str
    # Missing in older records.
    processes: int = 1
    compiled: bool = False
    seconds_to_errors: dict[str, float] = {}
    training_version: int = 1
    recipe: dict[str, Any] | None = None
    code: str | None = None
    formerly: str | None = None
    computed: list[dict[str, str]] = []

    @property
    def identity(self) -> str:
        """The identity of the run, computed from the record, see `run_identity`."""
        recipe = self.recipe
        if recipe is None:
            recipe = self.spec.chosen_recipe().content()
        return run_identity(self.spec, recipe, self.fingerprints, self.training_version)

    def seconds_to(self, error: float) -> float | None:
        """Seconds of training until the test error was `error` per cent or less.

        They end with the first epoch whose evaluation showed it, so their resolution is
        that of the evaluations. The time of the evaluations does not count.

        Returns:
            None if it was never reached.
        """
        return seconds_to(self.history, error)


def build_record(
    spec: RunSpec,
    profile: Profile,
    progress: Progress,
    *,
    fingerprints: dict[str, str],
    images_per_epoch: int,
    parameters: int,
    device: torch.device,
    precision: Any,
    processes: int,
    compiled: bool,
    git: Git,
    weights_sha256: str,
) -> Record:
    """The record of a finished run, with the hardware and software of this machine."""
    history = progress.history
    names = ("test_error", "test_loss", "train_error", "train_loss")
    reached = {f"{error:g}": seconds_to(history, error) for error in STATED_ERRORS}
    trained = images_per_epoch * len(history)
    return Record(
        id=spec.identity(fingerprints),
        spec=spec,
        profile=profile,
        epochs=progress.epoch,
        fingerprints=fingerprints,
        metrics={name: getattr(history[-1], name) for name in names},
        history=history,
        parameters=parameters,
        images_per_second=trained / sum(epoch.seconds for epoch in history),
        peak_memory_bytes=peak_memory(device),
        device=device_name(device),
        threads=torch.get_num_threads(),
        precision=precision,
        versions=versions(),
        git=git,
        started=progress.started,
        seconds=progress.seconds,
        sessions=progress.sessions,
        computed=progress.computed,
        weights_sha256=weights_sha256,
        processes=processes,
        compiled=compiled,
        seconds_to_errors={k: s for k, s in reached.items() if s is not None},
        training_version=training_version(spec),
        recipe=spec.chosen_recipe().content(),
    )


def seconds_to(history: list[Epoch], error: float) -> float | None:
    """See `Record.seconds_to`."""
    seconds = 0.0
    for epoch in history:
        seconds += epoch.seconds
        if epoch.test_error is not None and epoch.test_error <= error:
            return seconds
    return None


def append_record(record: Record, path: Path) -> None:
    """Add one record as a line, whole or not at all (`append_line`).

    Raises:
        RecordError: the file cannot be written; it is then unchanged.
    """
    append_line(json.dumps(record.model_dump(mode="json")), path)
