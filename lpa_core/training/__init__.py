"""Training: what to run, how, and what came out."""

from lpa_core.provenance import RecordError, choose_device
from lpa_core.training.checkpoint import (
    Trained,
    WeightsError,
    export_weights,
    load_trained,
    start_from,
)
from lpa_core.training.config import (
    TRAINING_CHANGES,
    TRAINING_VERSION,
    Profile,
    RunSpec,
    explain,
    training_version,
)
from lpa_core.training.evaluation import evaluate
from lpa_core.training.export import ExportError, export_onnx
from lpa_core.training.loop import run
from lpa_core.training.precision import autocast, choose_precision
from lpa_core.training.recipes import (
    RECIPES,
    Recipe,
    build_recipe,
    lr_factor,
    read_recipe,
)
from lpa_core.training.record import Epoch, Record, append_record
from lpa_core.training.several import Outcome, run_several

__all__ = [
    "RECIPES",
    "TRAINING_CHANGES",
    "TRAINING_VERSION",
    "Epoch",
    "ExportError",
    "Outcome",
    "Profile",
    "Recipe",
    "Record",
    "RecordError",
    "RunSpec",
    "Trained",
    "WeightsError",
    "append_record",
    "autocast",
    "build_recipe",
    "choose_device",
    "choose_precision",
    "evaluate",
    "explain",
    "export_onnx",
    "export_weights",
    "load_trained",
    "lr_factor",
    "read_recipe",
    "run",
    "run_several",
    "start_from",
    "training_version",
]
