"""Records: one JSON line a finished run, with everything needed to believe its numbers."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lpa_core.provenance import Git, append_line
from lpa_core.training.config import Profile, RunSpec, run_identity

__all__ = ["STATED_ERRORS", "Epoch", "Record", "append_record", "seconds_to"]

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
        device, threads, precision: what computed it.
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
