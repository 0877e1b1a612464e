"""Normalisation against NumPy, and YUV against loops written from its definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpa_core.data import PREPROCESSES, build_preprocess


def random_images(count, height, width, seed=0):
    """uint8 (N, H, W, 3), channels of different means and deviations."""
    rng = np.random.default_rng(seed)
    noise = rng.normal([80, 120, 160], [20, 35, 50], (count, height, width, 3))
    return noise.clip(0, 255).astype(np.uint8)


def as_input(images):
    """uint8 (N, H, W, 3) to what a preprocessing is called on."""
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 255


def test_an_unknown_preprocessing_is_told_which_there_are():
    with pytest.raises(ValueError, match=r"unknown preprocessing 'zca'.*mean-std, yuv"):
        build_preprocess("zca")


# ------------------------------------------------------------------------- mean-std


def test_mean_std_against_numpy():
    images = random_images(20, 6, 5)
    fitted = build_preprocess("mean-std").fit(torch.from_numpy(images))
    x = images / 255
    mean, std = x.mean(axis=(0, 1, 2)), x.std(axis=(0, 1, 2))
    wanted = ((x - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(fitted(as_input(images)), wanted, atol=1e-5)


def test_mean_std_of_one_set_is_used_on_another():
    train, test = random_images(20, 6, 5), random_images(3, 6, 5, seed=1) // 2
    fitted = build_preprocess("mean-std").fit(torch.from_numpy(train))
    x = train / 255
    wanted = (test / 255 - x.mean(axis=(0, 1, 2))) / x.std(axis=(0, 1, 2))
    np.testing.assert_allclose(
        fitted(as_input(test)), wanted.transpose(0, 3, 1, 2), atol=1e-5
    )


def test_moments_are_those_of_the_whole_set_when_it_is_read_in_parts():
    # 12,001 images make three parts; the last differs in mean and in size.
    images = random_images(12_001, 1, 2)
    images[10_000:] //= 3
    fitted = build_preprocess("mean-std").fit(torch.from_numpy(images))
    x = images / 255
    np.testing.assert_allclose(fitted.mean, x.mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(fitted.std, x.std(axis=(0, 1, 2)), atol=1e-6)


@pytest.mark.parametrize("name", PREPROCESSES)
def test_a_set_of_one_colour_stays_finite(name):
    images = np.full((4, 9, 9, 3), 77, np.uint8)
    fitted = build_preprocess(name).fit(torch.from_numpy(images))
    out = fitted(as_input(images))
    assert torch.isfinite(out).all()
    assert out.abs().max() < 0.1


# ------------------------------------------------------------------------------ yuv


def yuv_of(r, g, b):
    """ITU-R BT.601's analogue YUV of a colour in [0, 1]."""
    return (
        0.299 * r + 0.587 * g + 0.114 * b,
        -0.14713 * r - 0.28886 * g + 0.436 * b,
        0.615 * r - 0.51499 * g - 0.10001 * b,
    )


def weighted_mean(image, row, column):
    """Gaussian-weighted mean of the 7x7 neighbourhood, of what is inside the image."""
    total = weights = 0.0
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            y, x = row + dy, column + dx
            if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
                weight = math.exp(-(dy * dy + dx * dx) / (2 * 1.75**2))
                total += weight * image[y, x]
                weights += weight
    return total / weights


def everywhere(image):
    """weighted_mean at each pixel."""
    height, width = image.shape
    return np.array(
        [[weighted_mean(image, y, x) for x in range(width)] for y in range(height)]
    )


def yuv_by_loops(images, train):
    """The normalised YUV (N, 3, H, W) of images, U and V by the moments of train."""
    colours = np.array([yuv_of(*pixel / 255) for pixel in train.reshape(-1, 3)])
    mean, std = colours.mean(axis=0), colours.std(axis=0)
    out = []
    for image in images:
        y, u, v = yuv_of(*np.moveaxis(image / 255, 2, 0))
        centred = y - everywhere(y)
        contrast = centred / np.sqrt(everywhere(centred**2)).clip(1e-4)
        out.append([contrast, (u - mean[1]) / std[1], (v - mean[2]) / std[2]])
    return np.array(out)


@pytest.mark.parametrize("height, width", [(9, 8), (4, 11), (2, 3)])
def test_yuv_against_loops_from_its_definition(height, width):
    train = random_images(6, height, width)
    images = random_images(3, height, width, seed=1)
    fitted = build_preprocess("yuv").fit(torch.from_numpy(train))
    wanted = yuv_by_loops(images, train)
    np.testing.assert_allclose(fitted(as_input(images)), wanted, atol=2e-4)


def test_yuv_of_grey_has_no_colour():
    # U and V of any grey are zero, so that only the fitted moments remain.
    train = random_images(6, 8, 8)
    fitted = build_preprocess("yuv").fit(torch.from_numpy(train))
    grey = np.repeat(random_images(2, 8, 8, seed=1)[..., :1], 3, axis=3)
    uv = fitted(as_input(grey))[:, 1:]
    wanted = (-fitted.mean / fitted.std)[:, None, None].expand_as(uv)
    np.testing.assert_allclose(uv, wanted, atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.3, 1), st.floats(0, 0.3))
def test_local_contrast_ignores_brightness_and_contrast(gain, offset):
    train = random_images(4, 10, 10)
    fitted = build_preprocess("yuv").fit(torch.from_numpy(train))
    x = as_input(train) * 0.7
    np.testing.assert_allclose(fitted(gain * x + offset)[:, 0], fitted(x)[:, 0], atol=2e-3)


@pytest.mark.parametrize("name", PREPROCESSES)
def test_an_image_is_normalised_alike_alone_and_in_a_batch(name):
    images = random_images(5, 8, 8)
    fitted = build_preprocess(name).fit(torch.from_numpy(images))
    together = fitted(as_input(images))
    alone = torch.cat([fitted(as_input(images[i : i + 1])) for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("name", PREPROCESSES)
def test_the_fitted_numbers_travel_in_the_state(name):
    images = random_images(5, 8, 8)
    fitted = build_preprocess(name).fit(torch.from_numpy(images))
    assert set(fitted.state_dict()) == {"mean", "std"}
    other = build_preprocess(name)
    assert not torch.equal(other(as_input(images)), fitted(as_input(images)))
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other(as_input(images)), fitted(as_input(images)))


@pytest.mark.parametrize("name", PREPROCESSES)
def test_what_is_given_is_left_as_it_was(name):
    images = torch.from_numpy(random_images(5, 8, 8))
    x = as_input(images.numpy())
    images_before, x_before = images.clone(), x.clone()
    build_preprocess(name).fit(images)(x)
    assert torch.equal(images, images_before) and torch.equal(x, x_before)
