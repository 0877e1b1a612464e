"""Batches against slow crops and flips of one image at a time."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lpa_core.data import EvalLoader, Preprocess, TrainLoader, build_preprocess
from lpa_core.data.loaders import reflected

COUNT, SIZE, CROP = 50, 8, 3


class Raw(Preprocess):
    """Leaves the pixels as they are, in [0, 1]."""

    def fit(self, images):
        return self

    def forward(self, images):
        return images


def a_set(count=COUNT, size=SIZE):
    """Random images; each label is the image's own number, which tells who is who."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return torch.from_numpy(images), torch.arange(count)


def train_batches(batch_size=7, flip=True, crop=CROP):
    return TrainLoader(*a_set(), Raw(), batch_size=batch_size, flip=flip, crop=crop)


def by_hand(image, dy, dx, flip, crop):
    """One uint8 image (H, W, 3) padded, cropped and flipped: float (3, H, W)."""
    padded = np.pad(image, ((crop, crop), (crop, crop), (0, 0)), mode="reflect")
    cropped = padded[dy : dy + image.shape[0], dx : dx + image.shape[1]]
    if flip:
        cropped = cropped[:, ::-1]
    return cropped.transpose(2, 0, 1).astype(np.float32) / 255


def same(a, b):
    return np.abs(a - b).max() < 1e-5


def found(batches, number, seed=1):
    """{image: (dy, dx, flip)} of one epoch, by trying them all on every image."""
    images = a_set()[0].numpy()
    out = {}
    for x, labels in batches.epoch(number, seed):
        for pixels, name in zip(x.numpy(), labels.tolist(), strict=True):
            assert name not in out
            (out[name],) = (
                (dy, dx, flip)
                for dy in range(2 * batches.crop + 1)
                for dx in range(2 * batches.crop + 1)
                for flip in (False, True)
                if same(by_hand(images[name], dy, dx, flip, batches.crop), pixels)
            )
    return out


# ------------------------------------------------------------------------- training


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("crop", [0, 1, 3])
@pytest.mark.parametrize("number", [0, 1, 4])
def test_batches_are_crops_and_flips_from_the_documented_draws(flip, crop, number):
    images, seed = a_set()[0].numpy(), 5
    first = torch.Generator().manual_seed(seed)
    flips = (torch.rand(COUNT, generator=first) < 0.5).numpy()
    if number % 2:
        flips = ~flips
    now = torch.Generator().manual_seed(seed * 1_000_003 + number + 1)
    order = torch.randperm(COUNT, generator=now).tolist()
    shifts = torch.randint(0, 2 * crop + 1, (COUNT, 2), generator=now).tolist()
    batches = list(train_batches(flip=flip, crop=crop).epoch(number, seed))
    assert len(batches) == COUNT // 7
    for i, (x, labels) in enumerate(batches):
        part = order[7 * i : 7 * i + 7]
        assert labels.tolist() == part
        wanted = [by_hand(images[k], *shifts[k], flip and flips[k], crop) for k in part]
        np.testing.assert_allclose(x, np.array(wanted), atol=1e-6)


def test_every_image_is_seen_once_but_for_the_last_incomplete_batch():
    batches = train_batches()
    shown = torch.cat([labels for _, labels in batches.epoch(0, seed=1)])
    assert len(shown) == 49 and len(shown.unique()) == 49
    assert len(batches) == 7
    whole = torch.cat([y for _, y in train_batches(batch_size=10).epoch(0, seed=1)])
    assert sorted(whole.tolist()) == list(range(COUNT))


def test_the_image_left_out_changes_from_epoch_to_epoch():
    batches = train_batches()
    left_out = set()
    for number in range(6):
        shown = torch.cat([labels for _, labels in batches.epoch(number, seed=1)])
        left_out |= set(range(COUNT)) - set(shown.tolist())
    assert len(left_out) > 1


def test_the_same_seed_and_epoch_give_the_same_batches():
    one, other = train_batches(), train_batches()
    list(other.epoch(0, seed=1))  # what came before makes no difference
    torch.manual_seed(9)  # nor does the global generator
    pairs = zip(one.epoch(3, seed=1), other.epoch(3, seed=1), strict=True)
    for (x, y), (again, y_again) in pairs:
        assert torch.equal(x, again) and torch.equal(y, y_again)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(9)
    before = torch.get_rng_state()
    list(train_batches().epoch(0, seed=1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("other", [(1, 1), (2, 1), (0, 2)])
def test_another_epoch_or_seed_gives_another_order_and_other_shifts(other):
    batches = train_batches(batch_size=COUNT)
    one, two = found(batches, 0, seed=1), found(batches, other[0], seed=other[1])
    assert list(one) != list(two)
    same = [one[name][:2] == two[name][:2] for name in one]
    assert np.mean(same) < 0.2  # one in 49 by chance


def test_flips_alternate_so_that_two_epochs_show_both_sides():
    batches = train_batches(batch_size=COUNT)
    epochs = [found(batches, number) for number in range(4)]
    sides = [{name: flip for name, (_, _, flip) in e.items()} for e in epochs]
    assert 0.2 < np.mean(list(sides[0].values())) < 0.8
    assert all(sides[0][name] != sides[1][name] for name in range(COUNT))
    assert sides[2] == sides[0] and sides[3] == sides[1]


@pytest.mark.parametrize("size", [6, 7])
def test_half_of_each_batch_is_flipped_and_drawn_anew(size):
    loader = TrainLoader(*a_set(), Raw(), batch_size=size, crop=0, flip_half=True)
    images, flipped = a_set()[0].numpy(), []
    for number in range(4):
        for x, labels in loader.epoch(number, seed=1):
            sides = [
                same(by_hand(images[name], 0, 0, True, 0), pixels)
                for pixels, name in zip(x.numpy(), labels.tolist(), strict=True)
            ]
            assert sum(sides) == size // 2
            flipped.append(dict(zip(labels.tolist(), sides, strict=True)))
    epochs = [
        {k: v for part in flipped[i : i + len(loader)] for k, v in part.items()}
        for i in range(0, len(flipped), len(loader))
    ]
    # Neither what the epoch before had, nor the other way round.
    for one, other in itertools.pairwise(epochs):
        both = one.keys() & other.keys()
        assert 0 < sum(one[name] == other[name] for name in both) < len(both)


def test_half_a_batch_is_flipped_whoever_makes_its_slices():
    whole = TrainLoader(*a_set(), Raw(), batch_size=6, crop=0, flip_half=True)
    parts = [
        TrainLoader(*a_set(), Raw(), 6, crop=0, batch_slice=s, flip_half=True)
        for s in (slice(0, 3), slice(3, 6))
    ]
    for (x, _), *each in zip(
        whole.epoch(2, 1), *(p.epoch(2, 1) for p in parts), strict=True
    ):
        assert torch.equal(x, torch.cat([images for images, _ in each]))


def test_without_flip_nothing_is_mirrored():
    batches = train_batches(batch_size=COUNT, flip=False)
    for number in (0, 1):
        assert not any(flip for _, _, flip in found(batches, number).values())


def test_every_image_has_a_shift_of_its_own():
    ways = found(train_batches(batch_size=COUNT), 0)
    rows, columns = ({way[i] for way in ways.values()} for i in (0, 1))
    assert rows == columns == set(range(2 * CROP + 1))
    assert len({(dy, dx) for dy, dx, _ in ways.values()}) > 20


def test_without_crop_images_stay_in_place():
    ways = found(train_batches(batch_size=COUNT, crop=0), 0)
    assert {(dy, dx) for dy, dx, _ in ways.values()} == {(0, 0)}


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(ValueError, match=r"batch_size 51 exceeds the 50 images"):
        train_batches(batch_size=COUNT + 1)
    assert len(train_batches(batch_size=COUNT)) == 1


def test_batches_are_resized_when_a_size_is_given():
    batches = train_batches(batch_size=COUNT)
    ((whole, _),) = batches.epoch(0, seed=1)
    ((half, _),) = batches.epoch(0, seed=1, size=SIZE // 2)
    assert half.shape == (COUNT, 3, SIZE // 2, SIZE // 2)
    wanted = [
        [
            np.asarray(Image.fromarray(c).resize((SIZE // 2,) * 2, Image.BILINEAR))
            for c in image
        ]
        for image in whole.numpy()
    ]  # Pillow's filter averages over what it drops
    np.testing.assert_allclose(half, np.array(wanted), atol=1e-5)
    ((same, _),) = batches.epoch(0, seed=1, size=SIZE)
    assert torch.equal(same, whole)


@settings(deadline=None)
@given(size=st.integers(2, 40), data=st.data())
def test_reflected_indices_are_those_of_numpy(size, data):
    pad = data.draw(st.integers(0, size - 1))
    wanted = np.pad(np.arange(size), pad, mode="reflect")
    assert reflected(size, pad, "cpu").tolist() == wanted.tolist()


# -------------------------------------------------------------------------- testing


@pytest.mark.parametrize("batch_size", [1, 7, 25, 50, 60])
def test_test_batches_keep_the_order_and_show_everything(batch_size):
    images, labels = a_set()
    batches = list(EvalLoader(images, labels, Raw(), batch_size))
    assert len(batches) == len(EvalLoader(images, labels, Raw(), batch_size))
    assert len(batches) == -(-COUNT // batch_size)
    assert torch.equal(torch.cat([y for _, y in batches]), labels)
    wanted = images.permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(torch.cat([x for x, _ in batches]), wanted)


def test_test_batches_can_be_read_again():
    batches = EvalLoader(*a_set(), Raw(), batch_size=20)
    assert [len(y) for _, y in batches] == [len(y) for _, y in batches] == [20, 20, 10]


# ----------------------------------------------------------------------------- both


@pytest.mark.parametrize("name", ["mean-std", "yuv"])
def test_batches_are_normalised_and_channels_last(name):
    images, labels = a_set()
    before = images.clone()
    fitted = build_preprocess(name).fit(images)
    train = TrainLoader(images, labels, fitted, batch_size=10, crop=2)
    seen = [*train.epoch(0, seed=1), *train.epoch(1, seed=1, size=6)]
    for x, y in [*seen, *EvalLoader(images, labels, fitted, 10)]:
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert x.is_contiguous(memory_format=torch.channels_last)
    still = TrainLoader(images, labels, fitted, batch_size=10, flip=False)
    for x, y in still.epoch(0, seed=1):
        wanted = fitted(images[y].permute(0, 3, 1, 2) / 255)
        torch.testing.assert_close(x, wanted)
    assert torch.equal(images, before)
