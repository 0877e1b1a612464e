"""Which solver for the linear support vector machine of Table 3, and what it costs.

    python benchmarks/cross_domain.py [--solvers] [--whole] [--large]

Without a choice, all three:

* `--solvers`: one fold over Caltech-101's features, by every candidate: seconds, accuracy,
  and the objective reached, without and with standardised features;
* `--whole`: the whole of Caltech-101 as a reader runs it: features, then five folds;
* `--large`: Caltech-256's size, 29,780 x 1,280 random features of 256 classes, five folds
  (`--folds 1` measures one), with the peak of memory. What one fold took is kept in
  results/solvers.jsonl.

Where Caltech-101 is not there, random features of its size take its place, and it says so.
"""

import argparse
import json
import resource
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from made_on import made_on
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeClassifier, SGDClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from torch import Tensor
from tqdm.auto import tqdm

from lpa_core.data import DataError, load
from lpa_core.provenance import append_line, device_name
from lpa_core.tasks.transfer import (
    cross_domain_accuracy,
    extract_features,
    fit_liblinear,
    fit_svm,
)
from lpa_core.training import load_trained

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights/vgg-att2-concat-pc_cifar10_w0.25.safetensors"
CALTECH101 = (8677, 256, 101)  # images, features at quarter width, classes
CALTECH256 = (29780, 1280, 256)


def random_problem(count: int, features: int, classes: int) -> tuple[Tensor, Tensor]:
    """Features like those behind a BatchNorm and a ReLU, of classes that overlap."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    means = 0.15 * torch.randn(classes, features, generator=random)
    noise = torch.randn(count, features, generator=random)
    return (means[labels] + noise).clamp_min_(0), labels


def caltech101(batch_size: int) -> tuple[Tensor, Tensor, str]:
    """Its features and labels, and where they are from."""
    try:
        data = load("caltech101", "all")
    except (DataError, ValueError) as error:
        print(f"random features in place of Caltech-101's: {error}")
        return *random_problem(*CALTECH101), "random"
    start = time.perf_counter()
    features = extract_features(load_trained(WEIGHTS), data.images, batch_size)
    seconds = time.perf_counter() - start
    return features, data.labels, f"{WEIGHTS.stem}, extracted in {seconds:.0f} s"


def ours(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return fit_svm(x, y)


def library(model):
    """A scikit-learn classifier as a function from features to weights and biases."""

    def fit(x, y):
        model.fit(x.numpy(), y.numpy())
        return torch.from_numpy(model.coef_.T), torch.from_numpy(model.intercept_)

    return fit


def candidates(count: int) -> dict:
    """Name -> fit. The last two minimise something else, and are here for their speed."""
    return {
        "all classes at once, L-BFGS": ours,
        "LinearSVC, primal": library(LinearSVC(dual=False)),
        "LinearSVC, dual": library(LinearSVC(dual=True, random_state=0)),
        "SGDClassifier, squared hinge": library(
            SGDClassifier(
                loss="squared_hinge", alpha=1 / (2 * count), average=True, random_state=0
            )
        ),
        "RidgeClassifier": library(RidgeClassifier(alpha=0.5)),
    }


def objective(weights: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> float:
    """LinearSVC's at C = 1, summed over the classes; see `fit_svm`."""
    sign = 2 * torch.nn.functional.one_hot(y, len(bias)).double() - 1
    short = (1 - sign * (x.double() @ weights.double() + bias)).clamp_min(0)
    return float(
        0.5 * (weights.double().square().sum() + bias.double().square().sum())
        + short.square().sum()
    )


def compare(features: Tensor, labels: Tensor, classes: int) -> None:
    """One fold by each candidate, over the first classes, as they are and standardised."""
    chosen = labels < classes
    x, y = features[chosen], labels[chosen]
    division = StratifiedKFold(5, shuffle=True, random_state=0)
    train, test = next(division.split(np.zeros(len(y)), y.numpy()))
    mean, std = x[train].mean(dim=0), x[train].std(dim=0, correction=0).clamp_min(1e-6)
    print(f"\none fold: {len(train)} images x {x.shape[1]}, {classes} classes")
    for how, data in (("as they are", x), ("standardised", (x - mean) / std)):
        for name, fit in tqdm(candidates(len(train)).items(), desc=how, leave=False):
            row = measure(fit, data, y, train, test)
            tqdm.write(f"{how:<14}{name:<32}{line(row)}")


def measure(fit, x: Tensor, y: Tensor, train, test) -> dict:
    """Seconds, accuracy, objective, and whether the solver went on to its end."""
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


def cross_validate(features: Tensor, labels: Tensor, solver: str = "lbfgs") -> None:
    start, used = time.perf_counter(), time.process_time()
    found = cross_domain_accuracy(features, labels, solver=solver)
    print(
        f"{solver}: {found.images} x {found.features}, {found.classes} classes, 5 folds: "
        f"{found.accuracy:.2f} ± {found.std:.2f} % in {time.perf_counter() - start:.1f} s "
        f"({time.process_time() - used:.1f} s of CPU)"
    )


def large(folds: int) -> None:
    """Caltech-256's size by both solvers: all five folds, or the fit of one."""
    features, labels = random_problem(*CALTECH256)
    print(f"\nCaltech-256's size, random features ({peak():.2f} GB before)")
    for solver, fit in (("liblinear", fit_liblinear), ("lbfgs", fit_svm)):
        if folds == 5:
            cross_validate(features, labels, solver)
        else:
            division = StratifiedKFold(5, shuffle=True, random_state=0)
            train, test = next(division.split(np.zeros(len(labels)), labels.numpy()))
            row = measure(fit, features, labels, train, test)
            print(f"{solver}, one fold:", line(row))
            keep(solver, row | {"peak_gigabytes": peak()})
        print(f"peak memory by then {peak():.2f} GB")


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


def peak() -> float:
    """The most memory this process has held, in GB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for part in ("solvers", "whole", "large"):
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--classes", type=int, default=101, help="of --solvers")
    parser.add_argument("--folds", type=int, default=5, choices=[1, 5], help="of --large")
    parser.add_argument("--batch-size", type=int, default=100)
    chosen = parser.parse_args()
    everything = not (chosen.solvers or chosen.whole or chosen.large)
    print(
        f"{device_name(torch.device('cpu'))}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )
    if chosen.large or everything:  # first, so that the peak of memory is its own
        large(chosen.folds)
    if chosen.solvers or chosen.whole or everything:
        start = time.perf_counter()
        features, labels, source = caltech101(chosen.batch_size)
        print(f"\nCaltech-101's features: {source}")
        if chosen.whole or everything:
            cross_validate(features, labels)
            print(f"features included: {time.perf_counter() - start:.0f} s")
            cross_validate(features, labels, "liblinear")
        if chosen.solvers or everything:
            compare(features, labels, chosen.classes)


if __name__ == "__main__":
    main()
