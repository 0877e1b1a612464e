"""Training: what to run, how, and what came out."""

from lpa_core.training.fit import autocast, choose_device, choose_precision, evaluate, run
from lpa_core.training.recipes import RECIPES, Recipe, build_recipe, rate_share
from lpa_core.training.record import Record, RecordError, append_record
from lpa_core.training.spec import Profile, RunSpec, code_hash, explain
from lpa_core.training.weights import (
    Trained,
    WeightsError,
    export_weights,
    load_trained,
    start_from,
)

__all__ = [
    "RECIPES",
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
    "code_hash",
    "evaluate",
    "explain",
    "export_weights",
    "load_trained",
    "rate_share",
    "run",
    "start_from",
]
