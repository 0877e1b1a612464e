"""Other domains: features of a trained network, and a linear classifier on them (§5.3).

The network is not trained further. Its features, the input of its final linear layer, are
classified by a linear support vector machine with C = 1, in 5-fold cross-validation. STL
is the exception: it is classified by the CIFAR-10 network itself.
"""

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import scipy
import torch
from pydantic import Field, RootModel
from torch import Tensor
from tqdm.auto import tqdm

from lpa_core.data import Dataset
from lpa_core.networks import AttentionOutput
from lpa_core.shapes import Float, Int, UInt8
from lpa_core.tasks.base import Metrics, Seed, Settings, Task, register
from lpa_core.training import Trained

__all__ = [
    "SOLVERS",
    "SYNONYMS",
    "TASK",
    "CrossDomain",
    "Direct",
    "LinearMetrics",
    "OwnMetrics",
    "TransferMetrics",
    "TransferSettings",
    "cross_domain_accuracy",
    "direct_accuracy",
    "extract_features",
    "fit_liblinear",
    "fit_svm",
    "match_classes",
]

SOLVERS = ("liblinear", "lbfgs")
SYNONYMS = {"car": "automobile"}  # STL's name: CIFAR-10's; the others are the same
TOLERANCE = 1e-7  # L-BFGS stops when the objective's relative decrease is smaller
MOST_STEPS = 2000


def extract_features(
    trained: Trained,
    images: UInt8[Tensor, "n h w 3"],
    batch_size: int = 250,
    progress: bool = True,
) -> Float[Tensor, "n f"]:
    """The input of the network's final linear layer, for each image, on the CPU.

    Images of another size are resized to the network's image size.

    Raises:
        ValueError: there are no images, or batch_size is below 1.
    """
    seen = attend_all(trained, images, batch_size, progress, "features")
    return torch.cat([part.features.float().cpu() for part in seen])


def attend_all(
    trained: Trained, images: Tensor, batch_size: int, progress: bool, what: str
) -> Iterator[AttentionOutput]:
    """The network's output for each batch of images."""
    if not len(images):
        raise ValueError(f"there are no images to compute {what} of")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: give at least 1")
    device = next(trained.preprocess.buffers()).device
    parts = images.split(batch_size)
    for part in tqdm(parts, desc=what, unit="batch", disable=not progress):
        yield trained.attend(part.to(device))


@dataclass(frozen=True)
class CrossDomain:
    """Accuracy of a linear classifier on features, in per cent.

    Attributes:
        accuracy: mean over the folds.
        std: standard deviation over the folds (n - 1). The folds share most of their
            training images, so it does not measure how training runs differ.
        folds: accuracy on each fold.
        images, features, classes: how many there were.
        C, standardise, solver, seed: the settings.
    """

    accuracy: float
    std: float
    folds: tuple[float, ...]
    images: int
    features: int
    classes: int
    C: float
    standardise: bool
    solver: str
    seed: int


def cross_domain_accuracy(
    features: Tensor,
    labels: Tensor,
    folds: int = 5,
    C: float = 1.0,
    standardise: bool = False,
    solver: str = SOLVERS[0],
    seed: int = 0,
    progress: bool = True,
) -> CrossDomain:
    """Linear support vector machine on features, cross-validated (Table 3).

    One class against the rest with the squared hinge loss, as in scikit-learn's LinearSVC.
    The folds are stratified: each has the class proportions of the whole set.

    Args:
        features: (N, F), finite.
        labels: whole numbers (N,), each at least `folds` times.
        folds: 2 or more.
        C: weight of the loss against that of the squared weights; above 0.
        standardise: scale each feature to mean 0 and standard deviation 1 over the fold's
            training images. The paper does not say. Off by default: features after
            BatchNorm and ReLU have one scale already. Standardising enlarges them, which
            weakens the regularisation by C = 1: it fits slower and scores lower.
        solver: "liblinear" (scikit-learn's LinearSVC) or "lbfgs" (`fit_svm`). They minimise
            the same objective. The first is faster on sets like Caltech-101, the second on
            hundreds of classes (results/solvers.jsonl).
        seed: of the division into folds.

    Raises:
        ValueError: an invalid argument.
    """
    from sklearn.model_selection import StratifiedKFold  # takes two seconds

    x, y, names = checked_problem(features, labels, folds)
    check_settings(C, solver)
    division = StratifiedKFold(folds, shuffle=True, random_state=seed)
    found = []
    pairs = division.split(np.zeros(len(y)), y.numpy())
    for train, test in tqdm(pairs, total=folds, desc="folds", disable=not progress):
        seen, held_out = x[train], x[test]
        if standardise:
            mean, std = seen.mean(dim=0), seen.std(dim=0, correction=0)
            std = torch.where(std > 0, std, 1.0)  # a constant feature becomes 0
            seen, held_out = (seen - mean) / std, (held_out - mean) / std
        fit = fit_svm if solver == "lbfgs" else fit_liblinear
        weights, bias = fit(seen, y[train], C)
        right = (held_out @ weights + bias).argmax(dim=1) == y[test]
        found.append(100 * right.double().mean().item())
    return CrossDomain(
        accuracy=float(np.mean(found)),
        std=float(np.std(found, ddof=1)),
        folds=tuple(found),
        images=len(y),
        features=x.shape[1],
        classes=len(names),
        C=C,
        standardise=standardise,
        solver=solver,
        seed=seed,
    )


def fit_svm(
    features: Float[Tensor, "n f"], labels: Int[Tensor, " n"], C: float = 1.0
) -> tuple[Float[Tensor, "f k"], Float[Tensor, " k"]]:
    """Linear support vector machines, each class against the rest, all at once.

    The objective for each class k is that of LinearSVC, with y = 1 on its images and -1 on
    the others. As there, the bias b is regularised like a weight::

        1/2 (|w_k|^2 + b_k^2) + C sum_i max(0, 1 - y_ik (<w_k, x_i> + b_k))^2

    The classes are independent. Minimising the sum of their objectives makes each step two
    products of large matrices; one class at a time would read all features repeatedly.
    SciPy's L-BFGS minimises it in float64, preconditioned: in the coordinates v, the
    objective has the same curvature in every direction if every image is inside its margin.

    Args:
        features: (N, F), finite.
        labels: 0 to K - 1, each at least once.

    Returns:
        Weights (F, K) and biases (K,), in the features' type.
    """
    x = torch.cat([features.double(), features.new_ones(len(features), 1).double()], 1)
    classes = int(labels.max()) + 1
    y = 2 * torch.nn.functional.one_hot(labels, classes).double() - 1
    curvature = torch.eye(x.shape[1]).to(x) + 2 * C * x.T @ x
    lower = torch.linalg.cholesky(curvature)
    eye = torch.eye(len(lower)).to(x)
    transform = torch.linalg.solve_triangular(lower, eye, upper=False).T  # w = transform v
    x_v = x @ transform
    norm = transform.T @ transform  # |w|^2 = <v, norm v>

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        v = torch.from_numpy(flat).to(x).view(-1, classes)
        short = (1 - y * (x_v @ v)).clamp_min_(0)  # how far inside the margin
        norm_v = norm @ v
        value = 0.5 * (v * norm_v).sum() + C * short.square().sum()
        slope = norm_v - 2 * C * x_v.T @ (y * short)
        return value.item(), slope.flatten().cpu().numpy()

    found = scipy.optimize.minimize(
        objective,
        np.zeros(x.shape[1] * classes),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": TOLERANCE, "gtol": 0, "maxiter": MOST_STEPS, "maxfun": math.inf},
    )
    if found.nit >= MOST_STEPS:
        from sklearn.exceptions import ConvergenceWarning

        warnings.warn(
            f"the support vector machine did not converge in {MOST_STEPS} steps: "
            "standardise the features, or give a smaller C",
            ConvergenceWarning,
            stacklevel=2,
        )
    w = transform @ torch.from_numpy(found.x).to(x).view(-1, classes)
    return w[:-1].to(features), w[-1].to(features)


def fit_liblinear(
    features: Float[Tensor, "n f"], labels: Int[Tensor, " n"], C: float = 1.0
) -> tuple[Float[Tensor, "f k"], Float[Tensor, " k"]]:
    """The same with scikit-learn's LinearSVC, one class after the other."""
    from sklearn.svm import LinearSVC

    # The type stubs do not allow a bool.
    svm = LinearSVC(C=C, dual=False).fit(  # pyright: ignore[reportArgumentType]
        features.cpu().numpy(), labels.cpu().numpy()
    )
    weights, bias = torch.from_numpy(svm.coef_.T), torch.from_numpy(svm.intercept_)
    if len(bias) == 1:  # for two classes it fits only the second
        weights, bias = weights * torch.tensor([-1, 1]), bias * torch.tensor([-1, 1])
    return weights.to(features), bias.to(features)


@dataclass(frozen=True)
class Direct:
    """A network's own classifier on a set that shares only some of its classes.

    Attributes:
        with_missing: accuracy over all images, in per cent; images of a class that the
            network does not know are always wrong.
        without_missing: accuracy over only the images of shared classes.
        missing: the set's classes that the network does not know.
        unused: the network's classes that the set lacks. Predicting one of them is wrong.
        images: how many there are; `left_out` of them belong to missing classes.
    """

    with_missing: float
    without_missing: float
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    images: int
    left_out: int


def direct_accuracy(
    trained: Trained,
    data: Dataset,
    batch_size: int = 250,
    progress: bool = True,
) -> Direct:
    """Accuracy of the network's own classifier on another set's images (STL, Table 3).

    Args:
        data: its classes are matched with the network's by name, or by `SYNONYMS`.

    Raises:
        ValueError: there are no images, or none of a class that the network knows.
    """
    matched = match_classes(data.classes, trained.classes)
    wanted = torch.tensor(matched)[data.labels.cpu()]
    known = wanted >= 0
    if not known.any():
        raise ValueError(
            f"no image has a class that this network knows: it knows "
            f"{', '.join(trained.classes)}; the data has {', '.join(data.classes)}"
        )
    seen = attend_all(trained, data.images, batch_size, progress, "predictions")
    predicted = torch.cat([part.logits.argmax(dim=1).cpu() for part in seen])
    right = (predicted == wanted).double()
    return Direct(
        with_missing=100 * right.mean().item(),
        without_missing=100 * right[known].mean().item(),
        missing=tuple(n for n, i in zip(data.classes, matched, strict=True) if i < 0),
        unused=tuple(n for i, n in enumerate(trained.classes) if i not in matched),
        images=len(right),
        left_out=int((~known).sum()),
    )


def match_classes(names: list[str], known: list[str]) -> list[int]:
    """The network's label for each class of a set, or -1 if it has none.

    Raises:
        ValueError: two classes of the set match one of the network's.
    """
    labels = {name: label for label, name in enumerate(known)}
    matched = [labels.get(n, labels.get(SYNONYMS.get(n, n), -1)) for n in names]
    shared = [label for label in matched if label >= 0]
    twice = {known[label] for label in shared if shared.count(label) > 1}
    if twice:
        raise ValueError(
            f"more than one class of the set matches {', '.join(sorted(twice))}: "
            "check the synonyms"
        )
    return matched


def checked_problem(
    features: Tensor, labels: Tensor, folds: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels renumbered from 0 without gaps, and the original labels."""
    x, y = torch.as_tensor(features).detach(), torch.as_tensor(labels).detach().cpu()
    whole = not (y.is_floating_point() or y.dtype == torch.bool)
    if not x.is_floating_point() or x.dim() != 2 or not whole or y.shape != x.shape[:1]:
        raise ValueError(
            "features must be floats (N, F) with one whole number per row as label; got "
            f"{x.dtype} {tuple(x.shape)} and labels {y.dtype} {tuple(y.shape)}"
        )
    broken = ~x.isfinite().all(dim=1)
    if broken.any():
        raise ValueError(
            f"features of {int(broken.sum())} of {len(x)} images are not finite, first "
            f"those of number {int(broken.int().argmax())}"
        )
    if isinstance(folds, bool) or folds < 2:
        raise ValueError(f"folds {folds!r}: give at least 2")
    names, y, counts = y.unique(return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"{len(names)} classes: there is nothing to tell apart")
    if counts.min() < folds:
        rare = counts.argmin()
        raise ValueError(
            f"class {int(names[rare])} has {int(counts[rare])} images, fewer than the "
            f"{folds} folds: each fold needs one of every class (leave the class out, or "
            "use fewer folds)"
        )
    return x, y, names


def check_settings(C: float, solver: str) -> None:
    if not (0 < C < math.inf):
        raise ValueError(f"C {C!r}: give a number above 0")
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver {solver!r}: choose one of {', '.join(SOLVERS)}")


# ------------------------------------------------------------------------------ the task


class TransferSettings(Settings):
    """The classifier for the new domain.

    Attributes:
        classifier: "own" is the network's classifier, "linear" fits a new one to its
            features; None is "own" for stl10 and "linear" elsewhere, as in the paper.
        folds, C, solver, seed: of the linear one (`cross_domain_accuracy`).
    """

    classifier: Annotated[
        Literal["linear", "own"] | None,
        Field(description="a new linear one, or the network's own; None: own for stl10"),
    ] = None
    folds: Annotated[int, Field(ge=2, le=1000, description="of cross-validation")] = 5
    C: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="weight of the loss")
    ] = 1.0
    solver: Annotated[
        Literal["liblinear", "lbfgs"], Field(description="liblinear or lbfgs")
    ] = "liblinear"
    seed: Annotated[Seed, Field(description="for dividing the images into folds")] = 0

    def recorded(self) -> dict[str, Any]:
        """Without settings that do not apply to the network's own classifier."""
        own = self.classifier == "own"
        return self.model_dump(include={"classifier"} if own else None)

    def cases(
        self, dataset: str, networks: Sequence[Trained]
    ) -> list[tuple[Trained | None, Settings]]:
        usual = "own" if dataset == "stl10" else "linear"
        chosen = self.model_copy(update={"classifier": self.classifier or usual})
        return [(trained, chosen) for trained in networks]


class Seconds(Metrics):
    """The time for the features, and for the folds."""

    features: float
    folds: float


class LinearMetrics(Metrics):
    """A linear classifier on the features; `accuracy` and `std` over the folds, in per
    cent (`CrossDomain`)."""

    accuracy: float
    std: float
    features: int
    classes: int
    seconds: Seconds


class OwnMetrics(Metrics):
    """The network's own classifier, in per cent, and how many images were left out
    (`Direct`)."""

    with_missing: float
    without_missing: float
    left_out: int


class TransferMetrics(RootModel[LinearMetrics | OwnMetrics]):
    """One of the two, by the classifier."""


def measure_transfer(
    trained: Trained, data: Dataset, settings: TransferSettings, progress: bool
) -> TransferMetrics:
    ask = own_metrics if settings.classifier == "own" else linear_metrics
    return TransferMetrics(ask(trained, data, settings, progress))


def own_metrics(
    trained: Trained, data: Dataset, settings: TransferSettings, progress: bool
) -> OwnMetrics:
    direct = direct_accuracy(trained, data, progress=progress)
    return OwnMetrics(
        with_missing=direct.with_missing,
        without_missing=direct.without_missing,
        left_out=direct.left_out,
    )


def linear_metrics(
    trained: Trained, data: Dataset, settings: TransferSettings, progress: bool
) -> LinearMetrics:
    start = time.perf_counter()
    features = extract_features(trained, data.images, progress=progress)
    middle = time.perf_counter()
    result = cross_domain_accuracy(
        features,
        data.labels,
        folds=settings.folds,
        C=settings.C,
        solver=settings.solver,
        seed=settings.seed,
        progress=progress,
    )
    return LinearMetrics(
        accuracy=result.accuracy,
        std=result.std,
        features=result.features,
        classes=result.classes,
        seconds=Seconds(features=middle - start, folds=time.perf_counter() - middle),
    )


def say(metrics: TransferMetrics, settings: TransferSettings) -> str:
    numbers = metrics.root
    if isinstance(numbers, OwnMetrics):
        return f"accuracy {numbers.with_missing:.2f} % of all images"
    return f"accuracy {numbers.accuracy:.2f} ± {numbers.std:.2f} %"


TASK = register(
    Task(
        name="transfer",
        summary="test features on another data set, as in Table 3",
        dataset="caltech101",
        options=TransferSettings,
        settings=TransferSettings,
        metrics=TransferMetrics,
        run=measure_transfer,
        say=say,
    )
)
