"""Compares the solvers for the linear support vector machine of Table 3.

    python benchmarks/cross_domain.py

Each solver fits one fold of a problem of Caltech-256's size, 29,780 x 1,280 random features
of 256 classes: seconds, accuracy, the final objective, and the peak memory up to then. Each
result is a line in results/solvers.jsonl, which the chapter on other domains shows.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from made_on import made_on
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from lpa_core.provenance import append_line, peak_memory
from lpa_core.tasks.transfer import fit_liblinear, fit_svm

ROOT = Path(__file__).resolve().parents[1]
CALTECH256 = (29780, 1280, 256)  # images, features, classes


def random_problem(count: int, features: int, classes: int) -> tuple[Tensor, Tensor]:
    """Features like those after BatchNorm and ReLU, with overlapping classes."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    means = 0.15 * torch.randn(classes, features, generator=random)
    noise = torch.randn(count, features, generator=random)
    return (means[labels] + noise).clamp_min_(0), labels


def objective(weights: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> float:
    """LinearSVC's at C = 1, summed over the classes; see `fit_svm`."""
    sign = 2 * torch.nn.functional.one_hot(y, len(bias)).double() - 1
    short = (1 - sign * (x.double() @ weights.double() + bias)).clamp_min(0)
    return float(
        0.5 * (weights.double().square().sum() + bias.double().square().sum())
        + short.square().sum()
    )


def measure(fit, x: Tensor, y: Tensor, train, test) -> dict:
    """Seconds, accuracy, objective, and whether the solver converged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start, used = time.perf_counter(), time.process_time()
        weights, bias = fit(x[train], y[train])
        seconds, cpu = time.perf_counter() - start, time.process_time() - used
    accuracy = ((x[test] @ weights.float() + bias).argmax(dim=1) == y[test]).double().mean()
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "accuracy": 100 * accuracy.item(),
        "objective": objective(weights, bias, x[train], y[train]),
        "converged": not any(issubclass(w.category, ConvergenceWarning) for w in caught),
    }


def line(row: dict) -> str:
    return (
        f"{row['seconds']:8.1f} s {row['cpu_seconds']:8.1f} s of CPU "
        f"{row['accuracy']:7.2f} %{row['objective']:14.2f}"
        f"{'' if row['converged'] else '  not converged'}"
    )


def keep(solver: str, row: dict) -> None:
    """A line in results/solvers.jsonl, which the chapter on other domains shows."""
    images, features, classes = CALTECH256
    facts = {
        "solver": solver,
        "images": images,
        "features": features,
        "classes": classes,
        "folds": 1,
        **row,
        **made_on(torch.device("cpu")),
    }
    append_line(json.dumps(facts), ROOT / "results" / "solvers.jsonl")


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    features, labels = random_problem(*CALTECH256)
    division = StratifiedKFold(5, shuffle=True, random_state=0)
    train, test = next(division.split(np.zeros(len(labels)), labels.numpy()))
    for solver, fit in (("liblinear", fit_liblinear), ("lbfgs", fit_svm)):
        row = measure(fit, features, labels, train, test)
        print(f"{solver}, one fold:", line(row))
        keep(solver, row | {"peak_gigabytes": peak_memory(torch.device("cpu")) / 1e9})


if __name__ == "__main__":
    main()
