"""Records: one JSON line a finished run, with everything needed to believe its numbers."""

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
    git_state,
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
    """One epoch of a run; test figures only where the test set was evaluated."""

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
    """How far a run is: what a checkpoint holds beside network and optimiser."""

    epoch: int = Field(default=0, ge=0)
    seconds: float = 0.0
    sessions: int = 1
    started: datetime = Field(default_factory=now)
    history: list[Epoch] = []
    computed_by: list[str] = []

    def note(self, device: torch.device, precision: str) -> None:
        """What computes from here on, if it did not before."""
        now_by = f"{device_name(device)}, {precision}"
        if now_by not in self.computed_by:
            self.computed_by.append(now_by)


class Record(BaseModel):
    """A finished run.

    Attributes:
        id: its name: the run's `identity`. Records of before version 1 keep the name that
            they had.
        spec: what was asked for.
        profile: the size it belongs to.
        epochs: how many were trained.
        fingerprints: of the data's splits.
        metrics: test_error and train_error in per cent, test_loss and train_loss.
        history: epoch by epoch.
        parameters: how many the network has.
        images_per_second: training images a second, data and augmentation included.
        peak_memory_bytes: of the process on a CPU, of the tensors on a GPU; of the first
            one, of several processes.
        device, threads, precision: what computed it; of a run that was taken up on another
            device or in another precision, the last, and `computed_by` names each.
        processes: how many shared each batch; in the session that ended the run.
        compiled: whether torch.compile made the training step, in that session.
        started: UTC, ISO 8601. seconds: wall time, interruptions left out.
        sessions: how often it was taken up, 1 for a run without interruption.
        weights_sha256: of the final weights.
        training_version: of the code that trained it, see `TRAINING_CHANGES`.
        recipe: the recipe's content; None in old records, which name it alone.
        code: a hash of the code that trained it, in old records only.
        seconds_to_errors: `seconds_to` of those `STATED_ERRORS` that were reached, by
            the error.
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
    precision: Literal["float32", "bfloat16"]
    versions: dict[str, str]
    git: Git
    started: datetime
    seconds: float
    sessions: int
    weights_sha256: str
    # What older records do not say.
    processes: int = 1
    compiled: bool = False
    seconds_to_errors: dict[str, float] = {}
    training_version: int = 1
    recipe: dict[str, Any] | None = None
    code: str | None = None
    computed_by: list[str] = []

    @property
    def identity(self) -> str:
        """The identity of the run, from what the record says, see `run_identity`."""
        recipe = self.recipe
        if recipe is None:
            recipe = self.spec.chosen_recipe().content()
        return run_identity(self.spec, recipe, self.fingerprints, self.training_version)

    def seconds_to(self, error: float) -> float | None:
        """Seconds of training until the test error was `error` per cent or less.

        They end with the first epoch after which that was seen: to the resolution at
        which the test set was evaluated, whose own time does not count.

        Returns:
            None if it never was.
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
    weights_sha256: str,
) -> Record:
    """The record of a run that is finished, with what this machine is and runs."""
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
        git=git_state(),
        started=progress.started,
        seconds=progress.seconds,
        sessions=progress.sessions,
        weights_sha256=weights_sha256,
        processes=processes,
        compiled=compiled,
        seconds_to_errors={k: s for k, s in reached.items() if s is not None},
        training_version=training_version(spec),
        recipe=spec.chosen_recipe().content(),
        computed_by=progress.computed_by if len(progress.computed_by) > 1 else [],
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
        RecordError: the file cannot be written; it is then as it was.
    """
    append_line(json.dumps(record.model_dump(mode="json")), path)
