"""The support vector machine against scikit-learn's, its folds, and STL's classes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from lpa_core.data import Dataset, build_preprocess
from lpa_core.networks import AttentionOutput, Network, build_network
from lpa_core.tasks import transfer
from lpa_core.tasks.transfer import (
    cross_domain_accuracy,
    direct_accuracy,
    extract_features,
    fit_svm,
    match_classes,
)
from lpa_core.training import Trained

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse"]
CIFAR10 += ["ship", "truck"]
STL10 = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey"]
STL10 += ["ship", "truck"]


def problem(count=240, features=12, classes=6, spread=1.2, seed=0):
    """Features that overlap between classes, as those of other domains do."""
    random = np.random.default_rng(seed)
    labels = np.sort(np.arange(count) % classes)
    means = random.normal(size=(classes, features))
    x = np.maximum(0, means[labels] + spread * random.normal(size=(count, features)))
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels)


# ----------------------------------------------------------------- support vector machine


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("classes", [2, 6])
def test_weights_are_those_of_linear_svc(C, classes):
    x, y = problem(classes=classes)
    svm = LinearSVC(C=C, dual=False, tol=1e-10, max_iter=100_000).fit(x.double(), y)
    weights, bias = fit_svm(x.double(), y, C)
    if classes == 2:
        weights, bias = weights[:, 1:], bias[1:]
    scale = np.abs(svm.coef_).max()
    np.testing.assert_allclose(weights.T, svm.coef_, atol=5e-3 * scale)
    np.testing.assert_allclose(bias, svm.intercept_, atol=5e-3 * scale)


def objective(weights, bias, x, y, C):
    """Written out class by class, image by image."""
    total = 0
    for k in range(len(bias)):
        total += 0.5 * (float(weights[:, k] @ weights[:, k]) + float(bias[k]) ** 2)
        for image, label in zip(x, y.tolist(), strict=True):
            sign = 1 if label == k else -1
            short = max(0, 1 - sign * float(image @ weights[:, k] + bias[k]))
            total += C * short**2
    return total


def test_the_minimum_is_one_and_as_low_as_linear_svcs():
    x, y = problem(count=60)
    x = x.double()
    weights, bias = fit_svm(x, y, 1.0)
    lowest = objective(weights, bias, x, y, 1.0)
    svm = LinearSVC(dual=False, tol=1e-10, max_iter=100_000).fit(x, y)
    theirs = torch.from_numpy(svm.coef_.T), torch.from_numpy(svm.intercept_)
    assert lowest == pytest.approx(objective(*theirs, x, y, 1.0), rel=1e-5)
    for seed in range(3):
        move = 0.05 * torch.randn(
            weights.shape, generator=torch.Generator().manual_seed(seed)
        )
        assert objective(weights + move, bias, x, y, 1.0) > lowest


def test_features_on_very_different_scales_are_fitted_too():
    x, y = problem(count=120)
    x = x.double() * torch.logspace(-3, 3, x.shape[1])
    svm = LinearSVC(dual=False, tol=1e-10, max_iter=100_000).fit(x, y)
    theirs = torch.from_numpy(svm.coef_.T), torch.from_numpy(svm.intercept_)
    ours = fit_svm(x, y)
    assert objective(*ours, x, y, 1.0) <= (1 + 1e-5) * objective(*theirs, x, y, 1.0)


def test_more_features_than_images():
    x, y = problem(count=30, features=100)
    weights, bias = fit_svm(x, y)
    assert ((x @ weights + bias).argmax(dim=1) == y).all()


def test_a_fit_that_is_cut_short_says_so(monkeypatch):
    monkeypatch.setattr(transfer, "MOST_STEPS", 2)
    with pytest.warns(ConvergenceWarning, match="not converge in 2 steps"):
        fit_svm(*problem())


# ------------------------------------------------------------------------- cross-validation


@pytest.mark.parametrize("standardise", [False, True])
def test_accuracy_is_that_of_scikit_learn_fold_by_fold(standardise):
    x, y = problem(count=300)
    found = cross_domain_accuracy(x, y, standardise=standardise, progress=False)
    wanted = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(x, y):
        seen, rest = x[train].numpy(), x[test].numpy()
        if standardise:
            mean, std = seen.mean(axis=0), seen.std(axis=0)
            seen, rest = (seen - mean) / std, (rest - mean) / std
        svm = LinearSVC(dual=False).fit(seen, y[train])
        wanted.append(100 * svm.score(rest, y[test]))
    np.testing.assert_allclose(found.folds, wanted, atol=1.7)  # an image is 1.67 points
    assert found.accuracy == pytest.approx(np.mean(wanted), abs=1)
    assert found.accuracy == pytest.approx(np.mean(found.folds))
    assert found.std == pytest.approx(np.std(found.folds, ddof=1))
    assert (found.images, found.features, found.classes) == (300, 12, 6)
    assert 40 < found.accuracy < 95


@pytest.mark.parametrize("classes", [2, 6])
def test_both_solvers_agree(classes):
    x, y = problem(count=300, classes=classes)
    one, other = (
        cross_domain_accuracy(x, y, solver=solver, progress=False)
        for solver in ("liblinear", "lbfgs")
    )
    assert one.accuracy == pytest.approx(other.accuracy, abs=1)
    assert (one.solver, other.solver) == ("liblinear", "lbfgs")


def test_each_fold_has_every_class_in_its_proportion(monkeypatch):
    seen = []

    def record(x, y, C):
        seen.append(torch.bincount(y))
        return torch.zeros(x.shape[1], 3), torch.tensor([0.0, 0, 1])

    monkeypatch.setattr(transfer, "fit_liblinear", record)
    y = torch.tensor([0] * 10 + [1] * 25 + [2] * 65)
    found = cross_domain_accuracy(torch.randn(100, 2), y, progress=False)
    assert [counts.tolist() for counts in seen] == [[8, 20, 52]] * 5
    assert found.folds == (65.0,) * 5 and found.std == 0


def test_the_folds_depend_on_the_seed_alone():
    x, y = problem()
    first = cross_domain_accuracy(x, y, progress=False)
    assert cross_domain_accuracy(x, y, progress=False) == first
    assert cross_domain_accuracy(x, y, seed=1, progress=False).folds != first.folds


def test_the_held_out_part_plays_no_part_in_standardising():
    """One held-out image far away must not change how the others are seen."""
    x, y = problem(count=60, classes=2)
    plain = cross_domain_accuracy(x, y, standardise=True, progress=False)
    scaled = cross_domain_accuracy(1000 * x + 7, y, standardise=True, progress=False)
    assert plain.folds == scaled.folds
    constant = torch.cat([x, torch.full((60, 1), 3.0)], dim=1)
    assert (
        cross_domain_accuracy(constant, y, standardise=True, progress=False).folds
        == plain.folds
    )


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(4)), st.integers(-5, 100))
def test_labels_may_be_any_whole_numbers(order, start):
    x, y = problem(count=80, features=4, classes=4)
    plain = cross_domain_accuracy(x, y, folds=2, progress=False)
    renamed = torch.tensor(order)[y] * 3 + start
    found = cross_domain_accuracy(x, renamed, folds=2, progress=False)
    assert found.classes == 4
    # Other names may divide the images otherwise, but the problem is as hard as before.
    assert found.accuracy == pytest.approx(plain.accuracy, abs=15)


def test_separable_classes_are_told_apart_and_noise_is_not():
    x, y = problem(spread=0.01)
    assert cross_domain_accuracy(x, y, progress=False).accuracy == 100
    noise = torch.randn(240, 12, generator=torch.Generator().manual_seed(0))
    assert cross_domain_accuracy(noise, y, progress=False).accuracy < 30


# --------------------------------------------------------------------------------- features


class Named(Network):
    """Its answer is in the image: the first value, divided by 10, is the class."""

    image_size = 32

    def attend(self, images, query=None):
        label = (images[:, 0, 0, 0] * 25.5).round().long()
        logits = torch.nn.functional.one_hot(label, 10).float()
        return AttentionOutput(logits, images.mean(dim=(2, 3)), logits)


def knowing(network=None):
    preprocess = build_preprocess("mean-std")  # unfitted: mean 0, deviation 1
    return Trained((network or Named()).eval(), preprocess.eval(), CIFAR10, {})


def answering(answers):
    """Images to which `Named` gives these answers."""
    labels = [CIFAR10.index(a) for a in answers]
    images = torch.zeros(len(labels), 32, 32, 3, dtype=torch.uint8)
    images[:, 0, 0, 0] = 10 * torch.tensor(labels).byte()
    return images


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_features_are_those_of_each_image_in_order(batch_size):
    network = build_network("vgg-att2-concat-pc", num_classes=10, width=1 / 16)
    images = torch.randint(0, 256, (10, 40, 40, 3)).byte()
    found = extract_features(knowing(network), images, batch_size, progress=False)
    assert found.shape == (10, 64) and not found.requires_grad
    for i in range(10):
        alone = knowing(network).attend(images[[i]]).features
        torch.testing.assert_close(found[[i]], alone, atol=1e-5, rtol=1e-4)


def test_the_classifier_on_the_features_gives_the_logits():
    network = build_network("vgg-att2-concat-pc", num_classes=10, width=1 / 16)
    images = torch.randint(0, 256, (5, 32, 32, 3)).byte()
    features = extract_features(knowing(network), images, progress=False)
    logits = knowing(network).attend(images).logits
    found = network.head.classifiers["concat"](features)
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-4)


# -------------------------------------------------------------------------------------- stl


def test_stl_and_cifar10_share_nine_classes():
    matched = match_classes(STL10, CIFAR10)
    assert matched == [0, 2, 1, 3, 4, 5, 7, -1, 8, 9]
    assert [STL10[i] for i in range(10) if matched[i] < 0] == ["monkey"]


def test_direct_accuracy_by_hand():
    truth = ["car", "car", "bird", "monkey", "monkey", "ship", "deer", "dog"]
    said = ["automobile", "truck", "bird", "frog", "dog", "ship", "frog", "dog"]
    labels = torch.tensor([STL10.index(name) for name in truth])
    data = Dataset(answering(said), labels, STL10, None, "")
    found = direct_accuracy(knowing(), data, batch_size=3, progress=False)
    assert found.with_missing == pytest.approx(100 * 4 / 8)
    assert found.without_missing == pytest.approx(100 * 4 / 6)
    assert found.missing == ("monkey",) and found.unused == ("frog",)
    assert (found.images, found.left_out) == (8, 2)


def test_the_same_classes_leave_nothing_out():
    data = Dataset(answering(CIFAR10), torch.arange(10), CIFAR10, None, "")
    found = direct_accuracy(knowing(), data, progress=False)
    assert found.with_missing == found.without_missing == 100
    assert found.missing == found.unused == ()


def test_classes_that_are_not_shared_at_all_are_refused():
    data = Dataset(answering(["cat"]), torch.tensor([0]), ["monkey"], None, "")
    with pytest.raises(ValueError, match="no image has a class that this network knows"):
        direct_accuracy(knowing(), data, progress=False)


def test_two_classes_cannot_be_one():
    with pytest.raises(ValueError, match="of the set matches automobile"):
        match_classes(["car", "automobile"], CIFAR10)


# -------------------------------------------------------------------------------- bad input


def test_a_class_with_fewer_images_than_folds_is_named():
    x, y = problem(count=60, classes=3)
    y[y == 1] = 0
    y[20] = 7
    with pytest.raises(ValueError, match="class 7 has 1 images, fewer than the 5 folds"):
        cross_domain_accuracy(x, y, progress=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(value):
    x, y = problem()
    x[7, 3] = value
    with pytest.raises(ValueError, match="of 1 of 240 images are not finite.*number 7"):
        cross_domain_accuracy(x, y, progress=False)


X, Y = problem(count=60)


@pytest.mark.parametrize(
    "features, labels, said",
    [
        (X, Y[:-1], r"got torch.float32 \(60, 12\) and labels torch.int64 \(59,\)"),
        (X, Y.float(), r"labels torch.float32 \(60,\)"),
        (X, Y[:, None], r"labels torch.int64 \(60, 1\)"),
        (X[:, 0], Y, r"got torch.float32 \(60,\)"),
        (X.long(), Y, r"got torch.int64 \(60, 12\)"),
        (X, 0 * Y, "1 classes: there is nothing to tell apart"),
        (X[:0], Y[:0], "0 classes: there is nothing to tell apart"),
    ],
)
def test_what_is_no_problem_is_refused(features, labels, said):
    with pytest.raises(ValueError, match=said):
        cross_domain_accuracy(features, labels, progress=False)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"folds": 1}, "folds 1: give at least 2"),
        ({"folds": 0}, "folds 0: give at least 2"),
        ({"C": 0}, "C 0: give a number above 0"),
        ({"C": -1.0}, "C -1.0: give"),
        ({"C": float("nan")}, "C nan: give"),
        ({"solver": "svc"}, "unknown solver 'svc': choose one of liblinear, lbfgs"),
    ],
)
def test_settings_out_of_range_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        cross_domain_accuracy(X, Y, progress=False, **change)


@pytest.mark.parametrize(
    "count, batch_size, said",
    [(0, 10, "no images to compute features of"), (3, 0, "batch_size 0: give at least 1")],
)
def test_features_of_nothing_are_refused(count, batch_size, said):
    images = torch.zeros(count, 32, 32, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=said):
        extract_features(knowing(), images, batch_size, progress=False)
