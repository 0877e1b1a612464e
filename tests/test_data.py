"""Data sets: the one made on the spot, prepared files, and what may be wrong there."""

import dataclasses
import errno
import io
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation
from skimage.transform import resize
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from lpa_core.data import (
    DataError,
    data_folder,
    downloads,
    embedded,
    list_datasets,
    load,
    load_photographs,
    photograph_masks,
    sources,
)
from lpa_core.data.embedded import make_embedded
from lpa_core.data.photographs import OUTLINES

LUMA = torch.tensor([0.299, 0.587, 0.114])


# ---------------------------------------------------------------- embedded, as it is


@pytest.mark.parametrize(
    "split, count", [("train", 8000), ("test", 2000), ("shifted", 2000)]
)
def test_embedded_has_the_sizes_it_promises(split, count):
    data = load("embedded", split)
    assert data.images.shape == (count, 32, 32, 3) and data.images.dtype == torch.uint8
    assert data.labels.shape == (count,) and data.labels.dtype == torch.int64
    assert data.masks.shape == (count, 32, 32) and data.masks.dtype == torch.bool
    assert data.classes[0] == "zero" and data.classes[9] == "nine"
    assert data.labels.bincount().tolist() == [count // 10] * 10
    assert len(data) == count


def test_embedded_is_the_same_when_made_again():
    first = make_embedded("test")
    again = make_embedded.__wrapped__("test")
    assert first[0] is not again[0]
    for a, b in zip(first[:3], again[:3], strict=True):
        assert torch.equal(a, b)
    assert load("embedded", "test").fingerprint == sources.fingerprint(*again[:2])


def test_embedded_is_made_once_in_a_process():
    assert make_embedded("test")[0] is make_embedded("test")[0]


def test_embedded_splits_have_fingerprints_of_their_own():
    prints = {load("embedded", s).fingerprint for s in ("train", "test", "shifted")}
    assert len(prints) == 3


@pytest.mark.parametrize("split", ["train", "test", "shifted"])
def test_every_mask_covers_a_part_of_its_image(split):
    share = load("embedded", split).masks.float().mean(dim=(1, 2))
    assert share.min() > 0.03 and share.max() < 0.35


@pytest.mark.parametrize("split", ["train", "test", "shifted"])
def test_the_digit_can_be_told_from_what_surrounds_it(split):
    data = load("embedded", split)
    luma = (data.images.float() / 255) @ LUMA
    masks = data.masks.numpy()
    near = binary_dilation(masks, np.ones((1, 3, 3)))
    ring = torch.from_numpy(binary_dilation(masks, np.ones((1, 5, 5))) & ~near)
    inside = (luma * data.masks).sum((1, 2)) / data.masks.sum((1, 2))
    around = (luma * ring).sum((1, 2)) / ring.sum((1, 2))
    contrast = (inside - around).abs()
    assert contrast.median() > 0.35
    assert contrast.quantile(0.01) > 0.15
    assert contrast.min() > 0.05


def test_masks_have_the_shape_of_their_label():
    # Scikit-learn's originals, as they are, must recognise the masks.
    digits, names = load_digits(return_X_y=True)
    _, labels, masks, _ = make_embedded("train")
    seen = [tight(mask) for mask in masks[:300].numpy()]
    known = [tight(digit.reshape(8, 8) > 7) for digit in digits]
    neighbours = KNeighborsClassifier(3).fit(np.array(known), names)
    assert (neighbours.predict(np.array(seen)) == labels[:300].numpy()).mean() > 0.85


def tight(mask):
    """What is inside the bounding box of a mask, as 12x12 numbers."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return resize(box.astype(float), (12, 12), order=1).ravel()


def test_digits_of_train_and_test_are_different_ones():
    everything, labels = load_digits(return_X_y=True)
    train, train_labels = embedded.originals("train")
    test, _test_labels = embedded.originals("test")
    assert len(train) + len(test) == len(everything)
    assert not {d.tobytes() for d in train} & {d.tobytes() for d in test}
    share = np.bincount(train_labels) / np.bincount(labels)
    assert share.min() > 0.65 and share.max() < 0.68
    shifted, _ = embedded.originals("shifted")
    assert np.array_equal(shifted, test)


def test_shifted_is_test_on_other_textures():
    test, shifted = load("embedded", "test"), load("embedded", "shifted")
    assert torch.equal(test.masks, shifted.masks)
    assert torch.equal(test.labels, shifted.labels)
    same = (test.images == shifted.images).all(-1).float().mean(dim=(1, 2))
    assert same.max() < 0.5


# --------------------------------------------------- embedded, of other ingredients


def few(monkeypatch, split, count=200):
    """A split of `count` images, made afresh from what has been replaced."""
    monkeypatch.setitem(embedded.COUNTS, split, count)
    return make_embedded.__wrapped__(split)


def on_grey(monkeypatch):
    grey = np.full((300, 300, 3), 128, np.uint8)
    monkeypatch.setattr(embedded, "photograph", lambda name: grey)


def backgrounds(images, masks):
    """The commonest colour outside the masks, float (N, 1, 1, 3)."""
    outside = images.float().masked_fill(masks[..., None], torch.nan)
    return outside.flatten(1, 2).nanmedian(dim=1).values[:, None, None]


def test_each_split_draws_its_own_digits(monkeypatch):
    # The training digits become full squares and the others dots: which of them was
    # drawn shows in the area of the masks.
    digits, labels = load_digits(return_X_y=True)
    digits[:] = 0
    digits.reshape(-1, 8, 8)[:, 3:5, 3:5] = 16
    for c in range(10):
        of_class = np.flatnonzero(labels == c)
        digits[of_class[: len(of_class) * 2 // 3]] = 16
    changed = (digits, labels)
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda **_: changed)
    for split in ("train", "test", "shifted"):
        area = few(monkeypatch, split)[2].sum(dim=(1, 2))
        assert (area > 150).all() if split == "train" else (area < 60).all(), split


def test_train_and_test_show_different_parts_of_the_photographs(monkeypatch):
    photo = np.zeros((300, 300, 3), np.uint8)
    photo[:200, :, 0] = photo[200:, :, 2] = 200  # red above, blue below
    monkeypatch.setattr(embedded, "photograph", lambda name: photo)
    monkeypatch.setattr(embedded, "FRAGMENTS", 0)
    for split, other in (("train", 2), ("test", 0)):
        images, _, masks, _ = few(monkeypatch, split)
        away = ~binary_dilation(masks.numpy(), np.ones((1, 7, 7)))
        seen = images.numpy()[away]
        assert len(seen) > 10_000
        assert seen[:, other].max() == 0 < seen[:, 2 - other].min(), split


def test_shifted_shows_photographs_that_train_and_test_do_not(monkeypatch):
    asked = {}
    for split in ("train", "test", "shifted"):
        names = asked[split] = set()

        def note(name, names=names):
            names.add(name)
            return np.full((300, 300, 3), 128, np.uint8)

        monkeypatch.setattr(embedded, "photograph", note)
        few(monkeypatch, split)
    assert asked["train"] == asked["test"] and len(asked["train"]) >= 3
    assert asked["shifted"] and not asked["shifted"] & asked["train"]


def test_masks_are_true_exactly_where_the_digit_covers_half_a_pixel(monkeypatch):
    on_grey(monkeypatch)
    monkeypatch.setattr(embedded, "FRAGMENTS", 0)
    images, _, masks, _ = few(monkeypatch, "train")
    change = (images.float() - backgrounds(images, masks)).abs().sum(-1)
    half = change.flatten(1).amax(1)[:, None, None] / 2
    unclear = (change - half).abs() < 4  # rounded to whole numbers, three times
    assert torch.equal((change > half)[~unclear], masks[~unclear])
    assert unclear.float().mean() < 0.02


def test_fragments_lie_on_the_background_clear_of_the_digit(monkeypatch):
    on_grey(monkeypatch)
    images, _, masks, _ = few(monkeypatch, "train")
    change = (images.float() - backgrounds(images, masks)).abs().amax(-1) > 3
    digit = binary_dilation(masks.numpy(), np.ones((1, 3, 3)))
    gap = binary_dilation(masks.numpy(), np.ones((1, 5, 5))) & ~digit
    fragments = change.numpy() & ~digit
    assert (fragments.sum(axis=(1, 2)) > 20).mean() > 0.95
    assert fragments[gap].mean() < 0.05
    monkeypatch.setattr(embedded, "FRAGMENTS", 0)
    images, _, masks, _ = few(monkeypatch, "train")
    change = (images.float() - backgrounds(images, masks)).abs().amax(-1) > 3
    near = binary_dilation(masks.numpy(), np.ones((1, 5, 5)))
    assert not (change.numpy() & ~near).any()


# ------------------------------------------------------------------ names and places


def test_there_are_the_sets_the_book_names():
    assert {"embedded", "cifar10"} <= set(list_datasets())


def test_an_unknown_set_is_told_which_there_are():
    with pytest.raises(ValueError, match=r"unknown .*'cifar1'.*embedded, cifar10"):
        load("cifar1")


@pytest.mark.parametrize("name", ["embedded", "cifar10"])
def test_an_unknown_split_is_told_which_there_are(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} has no split 'val'.*train, test"):
        load(name, "val", root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_maker_of_embedded_refuses_unknown_splits_too():
    with pytest.raises(ValueError, match=r"no split 'val'.*train, test, shifted"):
        make_embedded("val")


def test_the_folder_is_root_else_the_environment_else_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LPA_DATA", str(tmp_path / "there"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder(tmp_path / "here") == tmp_path / "here"
    assert data_folder() == tmp_path / "there"
    monkeypatch.setenv("LPA_DATA", "")
    assert data_folder() == tmp_path / ".cache" / "lpa"


# -------------------------------------------------------------- sets that are not there


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to connect fails at once, and is noted."""
    attempts = []

    def refuse(*args, **kwargs):
        attempts.append(args)
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


def assert_says_what_where_and_how(message, root):
    for part in (
        "cifar10 is not at",
        str(root / "cifar10.npz"),
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "x_train, y_train, x_test, y_test, classes",
        "$LPA_DATA",
        "'embedded'",
    ):
        assert part in message


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_set_that_cannot_be_fetched_gets_one_clear_error(monkeypatch, tmp_path):
    def fail(folder):
        raise OSError("the host is gone")

    replace(monkeypatch, prepare=fail)
    with pytest.raises(DataError, match=r"OSError: the host is gone") as caught:
        load("cifar10", root=tmp_path)
    assert_says_what_where_and_how(str(caught.value), tmp_path)
    assert files(tmp_path) == []


def test_a_set_nothing_can_fetch_gets_the_same_error(monkeypatch, tmp_path):
    replace(monkeypatch, prepare=None)
    with pytest.raises(DataError) as caught:
        load("cifar10", root=tmp_path)
    assert_says_what_where_and_how(str(caught.value), tmp_path)
    assert files(tmp_path) == []


def test_torchvision_without_a_network_gets_the_same_error(no_network, tmp_path):
    pytest.importorskip("torchvision")
    with pytest.raises(DataError, match=r"URLError.*no network in this test") as caught:
        load("cifar10", root=tmp_path / "new")
    assert no_network  # it did try
    assert_says_what_where_and_how(str(caught.value), tmp_path / "new")
    assert files(tmp_path) == []


def test_a_write_that_fails_leaves_nothing_behind(monkeypatch, tmp_path):
    def half(file, **arrays):
        file.write(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    replace(monkeypatch, prepare=lambda folder: small())
    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(OSError, match=f"No space left on device.*{tmp_path}/cifar10.npz"):
        load("cifar10", root=tmp_path)
    assert files(tmp_path) == []


def test_a_set_is_prepared_once_and_then_read(monkeypatch, tmp_path):
    calls = []

    def fetch(folder):
        calls.append(folder)
        return small()

    replace(monkeypatch, prepare=fetch)
    for split in ("train", "test", "train"):
        load("cifar10", split, root=tmp_path)
    assert [folder.parent for folder in calls] == [tmp_path]
    assert [path.name for path in files(tmp_path)] == ["cifar10.npz"]


def test_a_download_is_put_in_the_order_of_its_classes(monkeypatch, tmp_path):
    class Downloaded:
        classes = ("cat", "dog")
        targets = (1, 0, 1, 0)
        data = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)

        def __init__(self, folder, train, download):
            assert download

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Downloaded)
    arrays = downloads.from_torchvision("CIFAR10", tmp_path, download=True)
    assert arrays["y_train"].tolist() == [0, 0, 1, 1]
    assert arrays["x_train"][:, 0, 0, 0].tolist() == [1, 3, 0, 2]


# ------------------------------------------------------------------- prepared files


def small(**changes):
    """The arrays of a small prepared file."""
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (12, 4, 4, 3), dtype=np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8),
        "y_test": np.arange(6) % 3,
        "classes": np.array(["cat", "dog", "owl"]),
    }
    arrays |= changes
    return {key: value for key, value in arrays.items() if value is not None}


def prints(arrays):
    tensors = {key: torch.from_numpy(arrays[key]) for key in arrays if key != "classes"}
    return {
        split: sources.fingerprint(tensors[f"x_{split}"], tensors[f"y_{split}"])
        for split in ("train", "test")
    }


def replace(monkeypatch, **changes):
    """cifar10 becomes the small set, with its fingerprints, and `changes`."""
    changes = {"fingerprints": prints(small()), "class_count": 3} | changes
    source = dataclasses.replace(sources.SOURCES["cifar10"], **changes)
    monkeypatch.setitem(sources.SOURCES, "cifar10", source)


@pytest.fixture
def placed(monkeypatch, tmp_path):
    """Write a prepared file with some arrays changed, and forbid any download."""
    replace(monkeypatch, prepare=None)

    def place(**changes):
        np.savez(tmp_path / "cifar10.npz", **small(**changes))
        return tmp_path

    return place


def test_a_prepared_file_is_read_as_it_is(placed, monkeypatch):
    root = placed(y_train=(np.arange(12) % 3).astype(np.uint8))
    arrays = small()
    for split in ("train", "test"):
        data = load("cifar10", split, root=root)
        assert np.array_equal(data.images.numpy(), arrays[f"x_{split}"])
        assert data.labels.dtype == torch.int64
        assert np.array_equal(data.labels.numpy(), arrays[f"y_{split}"])
        assert data.classes == ["cat", "dog", "owl"] and data.masks is None
        assert data.fingerprint == prints(arrays)[split]
    monkeypatch.setenv("LPA_DATA", str(root))
    assert len(load("cifar10")) == 12


def test_an_altered_pixel_is_found(placed):
    pixels = small()["x_train"]
    pixels[5, 1, 2, 0] ^= 1
    root = placed(x_train=pixels)
    words = "not cifar10 as published.*train split"
    with pytest.raises(DataError, match=words) as caught:
        load("cifar10", root=root)
    assert prints(small())["train"] in str(caught.value)  # what was expected
    assert prints(small(x_train=pixels))["train"] in str(caught.value)  # and found
    assert "Replace it with the published one" in str(caught.value)
    load("cifar10", "test", root=root)  # the other split is whole


def test_coarser_labels_are_counted(placed):
    root = placed(y_train=small()["y_train"] % 2)
    with pytest.raises(DataError, match=r"and 2 classes, expected .* and 3 classes"):
        load("cifar10", root=root)


def test_swapped_labels_are_found(placed):
    labels = small()["y_test"]
    labels[[0, 1]] = labels[[1, 0]]
    root = placed(y_test=labels)
    with pytest.raises(DataError, match="its test split has the fingerprint"):
        load("cifar10", "test", root=root)


@pytest.mark.parametrize("key", ["x_train", "y_train", "classes"])
def test_a_missing_array_is_named(placed, key):
    root = placed(**{key: None})
    with pytest.raises(DataError, match=f"lacks {key}; it has .*x_test"):
        load("cifar10", root=root)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"x_train": np.zeros((12, 4, 4, 3), np.float32)}, r"float32 \(12, 4, 4, 3\)"),
        ({"x_train": np.zeros((12, 4, 4), np.uint8)}, r"uint8 \(12, 4, 4\)"),
        ({"x_train": np.zeros((12, 3, 4, 4), np.uint8)}, r"uint8 \(12, 3, 4, 4\)"),
        ({"y_train": np.zeros(11, int)}, r"labels .*\(11,\)"),
        ({"y_train": np.zeros((12, 1), int)}, r"labels .*\(12, 1\)"),
        ({"y_train": np.full(12, 0.5)}, "labels float64"),
        ({"y_train": np.array(["cat"] * 12)}, "labels <U3"),
    ],
)
def test_arrays_of_a_wrong_kind_are_described(placed, changes, words):
    root = placed(**changes)
    words = r"must be uint8 \(N, H, W, 3\).*has .*" + words
    with pytest.raises(DataError, match=words):
        load("cifar10", root=root)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"x_train": np.zeros((12, 3, 4, 3), np.uint8)}, "are 3x4 pixels.*square images"),
        ({"y_train": np.zeros(12, int)}, "all 12 train labels are 0"),
        ({"classes": np.array("cat")}, r"classes must be one name per class, \(K,\)"),
        (
            {"x_train": np.zeros((0, 4, 4, 3), np.uint8), "y_train": np.zeros(0, int)},
            "has no train images",
        ),
    ],
)
def test_arrays_that_no_network_can_learn_from_are_refused(placed, changes, words):
    with pytest.raises(DataError, match=words):
        load("cifar10", root=placed(**changes))


def test_advice_never_costs_anybody_a_file(placed, monkeypatch):
    path = placed() / "cifar10.npz"
    path.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"damaged.*replace it with a complete one$"):
        load("cifar10", root=path.parent)
    replace(monkeypatch, prepare=lambda folder: small())
    with pytest.raises(DataError, match="or move it away to download it again from"):
        load("cifar10", root=path.parent)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_label_without_a_class_is_found(placed, wrong):
    labels = small()["y_train"]
    labels[4] = wrong
    root = placed(y_train=labels)
    lowest, highest = min(0, wrong), max(2, wrong)
    words = f"train labels run from {lowest} to {highest}, but there are 3 classes"
    with pytest.raises(DataError, match=words):
        load("cifar10", root=root)


def test_pickled_arrays_are_refused(placed):
    root = placed(classes=np.array(["cat", "dog", None], dtype=object))
    with pytest.raises(DataError, match="array of Python objects, .*dtype=str"):
        load("cifar10", root=root)


def saved(write):
    file = io.BytesIO()
    write(file, **small())
    return file.getvalue()


WHOLE = saved(np.savez)
KINDS = {"plain": WHOLE, "compressed": saved(np.savez_compressed)}
anywhere = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@anywhere
@given(length=st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_anywhere_is_found(placed, length):
    path = placed() / "cifar10.npz"
    path.write_bytes(WHOLE[:length])
    words = r"truncated or damaged.*replace it with a complete one"
    with pytest.raises(DataError, match=words) as caught:
        load("cifar10", root=path.parent)
    assert str(path) in str(caught.value)


@anywhere
@given(kind=st.sampled_from(list(KINDS)), data=st.data())
def test_a_byte_changed_anywhere_is_found_or_harmless(placed, kind, data):
    path = placed() / "cifar10.npz"
    damaged = bytearray(KINDS[kind])
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        found = load("cifar10", root=path.parent)
    except DataError:
        return
    assert np.array_equal(found.images.numpy(), small()["x_train"])
    assert np.array_equal(found.labels.numpy(), small()["y_train"])


def test_a_single_array_is_not_a_prepared_file(placed):
    path = placed() / "cifar10.npz"
    with path.open("wb") as file:
        np.save(file, small()["x_train"])
    with pytest.raises(DataError, match="truncated or damaged"):
        load("cifar10", root=path.parent)


# --------------------------------------------------------------------- fingerprints

SETS = st.integers(2, 8).flatmap(
    lambda n: st.tuples(
        st.binary(min_size=n * 12, max_size=n * 12),
        st.lists(st.integers(0, 9), min_size=n, max_size=n),
        st.permutations(range(n)),
    )
)


def as_set(pixels, labels):
    images = np.frombuffer(pixels, np.uint8).reshape(len(labels), 2, 2, 3).copy()
    return torch.from_numpy(images), torch.tensor(labels)


@settings(deadline=None)
@given(SETS)
def test_a_fingerprint_does_not_depend_on_the_order(made):
    pixels, labels, order = made
    images, labels = as_set(pixels, labels)
    order = torch.tensor(order)
    again = sources.fingerprint(images[order], labels[order])
    assert again == sources.fingerprint(images, labels)


@settings(deadline=None)
@given(SETS, st.data())
def test_a_fingerprint_notices_one_pixel_and_one_label(made, data):
    images, labels = as_set(*made[:2])
    before = sources.fingerprint(images, labels)
    pixel = data.draw(st.integers(0, images.numel() - 1))
    images.view(-1)[pixel] ^= data.draw(st.sampled_from([1, 16, 128]))
    after = sources.fingerprint(images, labels)
    assert after != before
    which = data.draw(st.integers(0, len(labels) - 1))
    labels[which] = labels[which] + 1
    assert sources.fingerprint(images, labels) not in (before, after)


def test_a_fingerprint_notices_the_shape_and_doubled_images():
    images = torch.arange(48, dtype=torch.uint8).view(1, 4, 4, 3)
    labels = torch.tensor([3])
    alone = sources.fingerprint(images, labels)
    assert sources.fingerprint(images.view(1, 2, 8, 3), labels) != alone
    assert sources.fingerprint(images.repeat(2, 1, 1, 1), labels.repeat(2)) != alone


def test_fingerprints_in_old_records_stay_comparable():
    # Records keep fingerprints: a new way of computing them would orphan every one.
    images = torch.arange(48, dtype=torch.uint8).view(2, 2, 4, 3)
    assert sources.fingerprint(images, torch.tensor([3, 1])) == PINNED


PINNED = "2a8675df761bbcaf7106a8367f381b9f1c0a35dad3dff4f81457c759889116a0"


# ------------------------------------------------------------------- the real thing


@pytest.mark.parametrize("split, each", [("train", 5000), ("test", 1000)])
def test_cifar10_is_what_was_published(split, each):
    path = data_folder() / "cifar10.npz"
    if not path.exists():
        pytest.skip(f"no {path.name} in $LPA_DATA or ~/.cache/lpa")
    data = load("cifar10", split)  # compares the fingerprint as well
    assert data.images.shape == (10 * each, 32, 32, 3)
    assert data.labels.bincount().tolist() == [each] * 10
    assert data.classes[0] == "airplane" and data.classes[9] == "truck"
    if split == "train":  # the means everyone normalises with
        mean = data.images.double().mean(dim=(0, 1, 2)) / 255
        assert mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)


@pytest.mark.parametrize("split, each", [("train", 500), ("test", 100)])
def test_cifar100_is_what_was_published(split, each):
    path = data_folder() / "cifar100.npz"
    if not path.exists():
        pytest.skip(f"no {path.name} in $LPA_DATA or ~/.cache/lpa")
    data = load("cifar100", split)
    assert data.fingerprint == sources.SOURCES["cifar100"].fingerprints[split]
    assert data.images.shape == (100 * each, 32, 32, 3)
    assert data.labels.bincount().tolist() == [each] * 100
    assert data.classes == sorted(data.classes) and data.classes[99] == "worm"
    if split == "train":
        mean = data.images.double().mean(dim=(0, 1, 2)) / 255
        assert mean.tolist() == pytest.approx([0.5071, 0.4865, 0.4409], abs=1e-4)


def test_the_photographs_objects_are_where_their_outlines_say():
    """The flower is warm before a cold ground, the rocket bright before a dark sky."""
    names, photographs = load_photographs(size=256)
    masks = photograph_masks(size=256)
    assert masks.shape == (len(names), 256, 256) and masks.dtype == torch.bool
    of = {
        name: (image.double(), mask)
        for name, image, mask in zip(names, photographs, masks, strict=True)
    }
    for name in ("flower", "rocket"):
        image, mask = of[name]
        assert image[mask][:, 0].mean() > image[~mask][:, 0].mean() + 50  # redder by far
    # The rocket by the shoelace formula, of its corners as they are written.
    corners = np.array([[int(n) for n in c.split(",")] for c in OUTLINES["rocket"].split()])
    (x, y), (nx, ny) = corners.T, np.roll(corners, -1, axis=0).T
    area = abs((x * ny - nx * y).sum()) / 2
    assert of["rocket"][1].sum().item() == pytest.approx(area, rel=0.15)
    # Smaller, they are the same share of the image.
    shares = photograph_masks(size=32).double().mean(dim=(1, 2))
    assert torch.allclose(shares, masks.double().mean(dim=(1, 2)), atol=0.02)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        photograph_masks(size=0)
