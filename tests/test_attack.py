"""Attacks against gradients worked out by hand, loops over images, and properties."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lpa_core.data import Dataset, build_preprocess
from lpa_core.networks import AttentionOutput, Network, build_network
from lpa_core.tasks.attack import (
    attend_unit,
    evaluate_attack,
    fgsm,
    fooling_rate,
    loss_gradient,
    map_shift,
    pgd,
    unit_images,
)
from lpa_core.tasks.attack import check_labels as check_labels_of
from lpa_core.tasks.classify import predict
from lpa_core.training import Trained

quick = settings(max_examples=20, deadline=None)
CLASSES = ["red", "green", "blue", "grey"]
SIZE = 8


class Linear(Network):
    """Logits linear in the image; while training, dropout and batch statistics as well."""

    image_size = SIZE

    def __init__(self, classes=4, scale=1.0):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(3 * SIZE * SIZE, classes)
        with torch.no_grad():
            self.last.weight.mul_(scale)

    def attend(self, images, query=None):
        features = self.drop(self.norm(images).flatten(1))
        return AttentionOutput(self.last(features), features, features)


class Attending(Network):
    """One level of attention by a convolution, its descriptor classified."""

    image_size = SIZE

    def __init__(self):
        super().__init__()
        self.local = nn.Conv2d(3, 6, 3, padding=1)
        self.score = nn.Conv2d(6, 1, 1)
        self.last = nn.Linear(6, 4)
        with torch.no_grad():
            self.score.weight.mul_(8)
            self.last.weight.mul_(8)

    def attend(self, images, query=None):
        local = self.local(images).tanh()
        scores = self.score(local)
        maps = scores.flatten(1).softmax(dim=1).view(scores[:, 0].shape)
        descriptor = (local * maps[:, None]).sum(dim=(2, 3))
        logits = self.last(descriptor)
        return AttentionOutput(logits, descriptor, descriptor, {"layer1": maps})


def photos(count=6, size=SIZE, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), generator=random).byte()


def some_labels(count=6, classes=4, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, classes, (count,), generator=random)


def trained(network=None, preprocess="mean-std", classes=CLASSES):
    fitted = build_preprocess(preprocess).fit(photos(50, seed=9) // 4 + 90)
    return Trained((network or Linear()).eval(), fitted.eval(), list(classes), {})


def some_data(count=23):
    return Dataset(photos(count), some_labels(count), CLASSES, None, "")


# -------------------------------------------------------------- against other computations


def gradient_by_hand(t, images, labels):
    """Of a linear network under mean-std: W^T (p - e_y) / deviation, in NumPy."""
    x = images.numpy().transpose(0, 3, 1, 2) / 255
    mean = t.preprocess.mean.numpy().astype(float)[:, None, None]
    std = t.preprocess.std.numpy().astype(float)[:, None, None]
    norm = 1 / np.sqrt(1 + t.network.norm.eps)  # its running mean is 0, variance 1
    weight = t.network.last.weight.detach().numpy().astype(float)
    bias = t.network.last.bias.detach().numpy().astype(float)
    gradients = []
    for image, label in zip(x, labels.tolist(), strict=True):
        logits = weight @ ((image - mean) / std * norm).ravel() + bias
        p = np.exp(logits - logits.max())
        p /= p.sum()
        p[label] -= 1
        gradients.append((weight.T @ p).reshape(3, SIZE, SIZE) * norm / std)
    return np.stack(gradients)


def test_the_gradient_is_the_one_worked_out_by_hand():
    t, images, labels = trained(), photos(), some_labels()
    seen, gradient = loss_gradient(t, images, labels)
    np.testing.assert_allclose(
        gradient.numpy(), gradient_by_hand(t, images, labels), rtol=1e-4, atol=1e-6
    )
    assert not (gradient.requires_grad or seen.logits.requires_grad)
    torch.testing.assert_close(seen.logits, t.attend(images).logits)


@pytest.mark.parametrize("eps", [1, 8, 1.5, 255])
def test_fgsm_by_hand(eps):
    t, images, labels = trained(), photos(), some_labels()
    x = images.numpy().transpose(0, 3, 1, 2) / 255
    wanted = np.clip(x + eps / 255 * np.sign(gradient_by_hand(t, images, labels)), 0, 1)
    found = fgsm(t, images, labels, eps)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


def gradient_by_differences(t, images, labels, h=1e-5):
    """Central differences of the loss in float64, one value of the image at a time."""
    network, preprocess = copy.deepcopy(t.network).double(), t.preprocess
    preprocess = copy.deepcopy(preprocess).double()
    gradients = []
    for image, label in zip(images, labels, strict=True):
        x = image.permute(2, 0, 1).double() / 255
        moves = h * torch.eye(x.numel(), dtype=torch.float64).view(-1, *x.shape)
        with torch.no_grad():
            up, down = (
                F.cross_entropy(
                    network.attend(preprocess(x + sign * moves)).logits,
                    label.expand(len(moves)),
                    reduction="none",
                )
                for sign in (1, -1)
            )
        gradients.append(((up - down) / (2 * h)).view(x.shape))
    return torch.stack(gradients)


@pytest.mark.parametrize("preprocess", ["mean-std", "yuv"])
@pytest.mark.parametrize("network", [Linear, Attending])
def test_the_gradient_goes_through_the_normalisation(preprocess, network):
    # jaxtyping's Float takes float64 as well, so that the same code gives the differences.
    t, images, labels = trained(network(), preprocess), photos(3), some_labels(3)
    _, gradient = loss_gradient(t, images, labels)
    wanted = gradient_by_differences(t, images, labels).float()
    torch.testing.assert_close(gradient, wanted, rtol=1e-2, atol=1e-3 * wanted.std().item())


@pytest.mark.parametrize("preprocess", ["mean-std", "yuv"])
@pytest.mark.parametrize("eps", [1, 4])
def test_eps_counts_levels_of_the_image_whatever_the_normalisation(preprocess, eps):
    images = photos() // 2 + 60  # far from black and white, so that nothing is clipped
    found = fgsm(trained(preprocess=preprocess), images, some_labels(), eps)
    levels = 255 * found.permute(0, 2, 3, 1) - images
    assert (levels.abs() - eps).abs().max() < 1e-3
    assert (levels > 0).any() and (levels < 0).any()


@pytest.mark.parametrize("preprocess", ["mean-std", "yuv"])
@pytest.mark.parametrize("name", ["vgg", "vgg-att2-concat-pc", "vgg-att2-indep-dp"])
def test_floats_are_seen_as_the_uint8_images_are(name, preprocess):
    """Also where they are resized."""
    network = build_network(name, num_classes=4, width=1 / 32)
    t, images = trained(network, preprocess), photos(2, size=48)
    found, wanted = attend_unit(t, unit_images(images)), t.attend(images)
    torch.testing.assert_close(found.logits, wanted.logits)
    assert found.maps.keys() == wanted.maps.keys()
    for layer in wanted.maps:
        torch.testing.assert_close(found.maps[layer], wanted.maps[layer])
    attacked = fgsm(t, images, some_labels(2), 2)
    assert attacked.shape == (2, 3, 48, 48)


# ---------------------------------------------------------------------------- properties


@quick
@given(
    st.integers(0, 1000),
    st.just(0.0) | st.floats(1, 255),
    st.sampled_from(["mean-std", "yuv"]),
    st.booleans(),
)
def test_attacked_images_stay_within_eps_and_within_the_image(seed, eps, name, floats):
    images = photos(2, seed=seed)
    given_images = unit_images(images) if floats else images
    found = fgsm(trained(preprocess=name), given_images, some_labels(2, seed=seed), eps)
    assert found.min() >= 0 and found.max() <= 1
    assert (found - unit_images(images)).abs().max() <= eps / 255 + 1e-6


def test_eps_of_zero_changes_nothing_nor_does_an_attack_write_into_its_images():
    t, x = trained(), unit_images(photos())
    before = x.clone()
    assert torch.equal(fgsm(t, x, some_labels(), 0), before)
    fgsm(t, x, some_labels(), 8)
    assert torch.equal(x, before) and not x.requires_grad


def test_an_image_is_attacked_as_if_it_were_alone():
    t, images, labels = trained(Attending()), photos(), some_labels()
    alone = [fgsm(t, images[[i]], labels[[i]], 3) for i in range(len(images))]
    torch.testing.assert_close(fgsm(t, images, labels, 3), torch.cat(alone))


def test_attacks_evaluate_a_network_left_in_training_mode():
    t, images, labels = trained(), photos(), some_labels()
    wanted = fgsm(t, images, labels, 3)
    t.network.train()
    t.network.drop.eval()  # modes that differ must come back as they were
    statistics = t.network.norm.running_mean.clone()
    torch.testing.assert_close(fgsm(t, images, labels, 3), wanted)
    report = evaluate_attack(t, some_data(), (3,), progress=False)
    assert t.network.norm.training and not t.network.drop.training
    assert torch.equal(t.network.norm.running_mean, statistics)
    t.network.eval()
    assert report == evaluate_attack(t, some_data(), (3,), progress=False)


def test_attacks_leave_no_gradients_on_the_weights():
    t = trained(Attending())
    with torch.no_grad():  # nor does it matter where they are called
        fgsm(t, photos(), some_labels(), 3)
    assert all(p.grad is None for p in t.network.parameters())


def test_fgsm_raises_the_loss():
    t, images, labels = trained(Attending()), photos(40), some_labels(40)
    clean = F.cross_entropy(t.attend(images).logits, labels)
    attacked = attend_unit(t, fgsm(t, images, labels, 1)).logits.detach()
    assert F.cross_entropy(attacked, labels) > clean


# ------------------------------------------------------------------------------- measures


def test_fooling_rate_by_hand():
    clean, attacked = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([0, 2, 2, 3, 0])
    assert fooling_rate(clean, attacked) == pytest.approx(40)
    assert fooling_rate(clean, clean) == 0


@pytest.mark.parametrize("clean, attacked", [(3, 4), (0, 0), (1, 5)])
def test_fooling_rate_needs_pairs(clean, attacked):
    with pytest.raises(
        ValueError, match=rf"at least one image; got \({clean},\) and \({attacked},\)"
    ):
        fooling_rate(torch.zeros(clean).long(), torch.zeros(attacked).long())


def test_map_shift_by_hand():
    before = {"a": torch.tensor([[[0.5, 0.5], [0, 0]], [[1.0, 0], [0, 0]]])}
    after = {"a": torch.tensor([[[0.5, 0.2], [0.3, 0]], [[0, 0], [0, 1.0]]])}
    torch.testing.assert_close(map_shift(before, after)["a"], torch.tensor([0.3, 1.0]))
    thrice = {"a": 3 * after["a"]}  # as a sigmoid's maps, which need not sum to one
    torch.testing.assert_close(map_shift(before, thrice)["a"], torch.tensor([0.3, 1.0]))
    nothing = {"a": torch.zeros(2, 2, 2)}  # a sigmoid may close everywhere
    torch.testing.assert_close(map_shift(before, nothing)["a"], torch.tensor([0.5, 0.5]))
    assert map_shift({}, {}) == {}
    with pytest.raises(ValueError, match="maps of a before, but of no layer after"):
        map_shift(before, {})


@pytest.mark.parametrize("preprocess", ["mean-std", "yuv"])
@pytest.mark.parametrize("batch_size", [1, 10, 100])
def test_a_set_is_evaluated_as_by_a_loop_over_its_images(preprocess, batch_size):
    t, data, epsilons = trained(Attending(), preprocess), some_data(), (2, 16)
    report = evaluate_attack(t, data, epsilons, batch_size=batch_size, progress=False)
    clean = predict(t, data.images)
    assert report.images == 23
    wrong = sum(a != b for a, b in zip(clean.tolist(), data.labels.tolist(), strict=True))
    assert report.clean_error == pytest.approx(100 * wrong / 23)
    assert [s.eps for s in report.strengths] == [2, 16]
    for strength in report.strengths:
        fooled = errors = shift = 0
        for i in range(23):
            attacked = fgsm(t, data.images[[i]], data.labels[[i]], strength.eps)
            seen, before = attend_unit(t, attacked), t.attend(data.images[[i]])
            fooled += seen.logits.argmax().item() != clean[i].item()
            errors += seen.logits.argmax().item() != data.labels[i].item()
            shift += (seen.maps["layer1"] - before.maps["layer1"]).abs().sum().item() / 2
        assert strength.fooling_rate == pytest.approx(100 * fooled / 23)
        assert strength.error == pytest.approx(100 * errors / 23)
        assert strength.map_shift == {"layer1": pytest.approx(shift / 23, rel=1e-3)}
    assert 0 < report.strengths[0].fooling_rate < report.strengths[1].fooling_rate


def test_a_network_without_attention_has_no_shift():
    report = evaluate_attack(trained(), some_data(), progress=False)
    assert [s.eps for s in report.strengths] == [1, 2, 4, 8, 16]
    assert all(s.map_shift == {} for s in report.strengths)


def test_values_without_a_gradient_are_counted():
    t = trained()
    with torch.no_grad():
        t.network.last.weight.view(4, 3, SIZE, SIZE)[:, 1] = 0  # green plays no part
    report = evaluate_attack(t, some_data(), (1,), progress=False)
    assert report.zero_gradient == pytest.approx(100 / 3)


def test_a_saturated_network_is_not_fooled_and_says_why():
    """So sure that its loss is exactly zero in float32: nothing to climb."""
    t, data = trained(Linear(scale=1e4)), some_data()
    data = Dataset(data.images, predict(t, data.images), CLASSES, None, "")
    report = evaluate_attack(t, data, (1,), progress=False)
    assert report.zero_gradient == 100
    assert report.strengths[0].fooling_rate == 0


# ------------------------------------------------------------------------------------ pgd


@pytest.mark.parametrize("steps, step", [(1, None), (7, None), (4, 5.0)])
def test_pgd_by_hand(steps, step):
    """Madry et al. 2018, eq. 1: a loop in NumPy, a random start, projected at each step."""
    t, images, labels, eps = trained(), photos(), some_labels(), 3
    images[0, :4] = 255  # there the random start is cut off
    origin = images.numpy().transpose(0, 3, 1, 2) / 255
    random = np.random.RandomState(5)
    x = np.clip(origin + random.uniform(-eps / 255, eps / 255, origin.shape), 0, 1)
    length = (2.5 * eps / steps if step is None else step) / 255
    for _ in range(steps):
        pixels = torch.from_numpy(255 * x.transpose(0, 2, 3, 1))
        x = x + length * np.sign(gradient_by_hand(t, pixels, labels))
        x = np.clip(x, np.maximum(origin - eps / 255, 0), np.minimum(origin + eps / 255, 1))
    found = pgd(t, images, labels, eps, steps, step, seed=5)
    np.testing.assert_allclose(found.numpy(), x, atol=1e-6)


def test_pgd_reaches_the_corner_that_is_best_against_two_linear_classes():
    """Of two classes the loss has one direction: the best attack is fgsm's, exactly."""
    t = trained(Linear(classes=2), classes=CLASSES[:2])
    images, labels = photos(), some_labels(classes=2)
    found = pgd(t, images, labels, 4)
    torch.testing.assert_close(found, fgsm(t, images, labels, 4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("preprocess", ["mean-std", "yuv"])
def test_pgd_stays_within_eps_and_is_at_least_as_strong(preprocess):
    t, images, labels = trained(Attending(), preprocess), photos(20), some_labels(20)
    x, state = unit_images(images), np.random.get_state()[1].copy()  # noqa: NPY002
    found = pgd(t, images, labels, 8, steps=20, seed=3)
    assert found.min() >= 0 and found.max() <= 1
    assert (found - x).abs().max() <= 8 / 255 + 1e-7
    loss = F.cross_entropy(attend_unit(t, found).logits.detach(), labels)
    simple = fgsm(t, images, labels, 8)
    assert loss >= F.cross_entropy(attend_unit(t, simple).logits.detach(), labels)
    assert torch.equal(pgd(t, images, labels, 8, steps=20, seed=3), found)
    assert not torch.equal(pgd(t, images, labels, 8, steps=20, seed=4), found)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert torch.equal(pgd(t, images, labels, 0), x)


def test_pgd_over_a_set():
    t, data = trained(Attending()), some_data()
    weak = evaluate_attack(t, data, (4,), progress=False)
    strong = evaluate_attack(t, data, (4,), attack="pgd", progress=False)
    assert strong.attack == "pgd"
    assert strong.clean_error == weak.clean_error
    assert strong.strengths[0].error >= weak.strengths[0].error


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("attack", [fgsm, pgd])
@pytest.mark.parametrize("eps", [-1, 256, float("nan"), float("inf"), True])
def test_a_strength_out_of_range_is_refused(attack, eps):
    with pytest.raises(ValueError, match=rf"eps {eps}: give a number from 0 to 255"):
        attack(trained(), photos(), some_labels(), eps)


@pytest.mark.parametrize("epsilons", [(), (0,), (1, 0)])
def test_an_evaluation_needs_strengths_above_zero(epsilons):
    with pytest.raises(ValueError, match="give at least one, each from 1 to 255"):
        evaluate_attack(trained(), some_data(), epsilons, progress=False)


@pytest.mark.parametrize(
    "images, said",
    [
        (photos()[..., :1], r"got torch.uint8 \(6, 8, 8, 1\)"),  # grey
        (photos()[..., [0, 1, 2, 0]], r"got torch.uint8 \(6, 8, 8, 4\)"),  # alpha
        (photos()[0], r"got torch.uint8 \(8, 8, 3\)"),
        (photos()[:0], r"got torch.uint8 \(0, 8, 8, 3\)"),
        (photos().long(), r"got torch.int64 \(6, 8, 8, 3\)"),
        (photos().float(), r"got torch.float32 \(6, 8, 8, 3\)"),
        (photos().permute(0, 3, 1, 2).float(), r"run from 0 to 255 \(divide the original"),
        (torch.full((6, 3, 8, 8), -0.5), "run from -0.5 to -0.5"),
        (torch.full((6, 3, 8, 8), torch.nan), "run from nan to nan"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(images, said):
    with pytest.raises(ValueError, match=said):
        fgsm(trained(), images, some_labels(), 1)


@pytest.mark.parametrize(
    "labels, said",
    [
        (some_labels(5), r"labels must be 6 whole numbers.*got torch.int64 \(5,\)"),
        (some_labels()[:, None], r"got torch.int64 \(6, 1\)"),
        (some_labels().float(), r"got torch.float32 \(6,\)"),
        (torch.full((6,), 4), "labels run from 4 to 4, but the network knows 4 classes"),
        (torch.full((6,), -1), "labels run from -1 to -1"),
    ],
)
@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_labels_that_are_not_the_images_are_refused(attack, labels, said):
    with pytest.raises(ValueError, match=said):
        attack(trained(), photos(), labels, 1)


def test_no_labels_are_refused():
    with pytest.raises(ValueError, match="needs the true class.*got NoneType"):
        check_labels_of(trained(), None, 6)


def test_a_gradient_that_is_not_finite_is_not_hidden():
    class Broken(Linear):
        def attend(self, images, query=None):
            seen = super().attend(images)
            rows = list(seen.logits)
            rows[2] = rows[2] + 0 * (images[2] - images[2]).sum().sqrt()  # back: 0 * inf
            seen.logits = torch.stack(rows)
            return seen

    with pytest.raises(ValueError, match="at 1 of 6 images, first at number 2"):
        fgsm(trained(Broken()), photos(), some_labels(), 1)


@pytest.mark.parametrize("level", [0, 255])
def test_flat_images_have_a_gradient_under_yuv(level):
    images = torch.full((6, SIZE, SIZE, 3), level, dtype=torch.uint8)
    found = fgsm(trained(preprocess="yuv"), images, some_labels(), 1)
    assert found.isfinite().all()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"attack": "bim"}, "unknown attack 'bim': choose one of fgsm, pgd"),
        ({"batch_size": 0}, "batch_size 0: give at least 1"),
        ({"attack": "pgd", "steps": 0}, "steps 0: give a whole number, at least 1"),
    ],
)
def test_an_evaluation_that_cannot_run_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        evaluate_attack(trained(), some_data(), progress=False, **change)


def test_data_of_other_classes_is_refused():
    other = Dataset(photos(), some_labels(), CLASSES[::-1], None, "")
    with pytest.raises(ValueError, match=r"knows 4 classes \(red, green, blue, …\)"):
        evaluate_attack(trained(), other, progress=False)
