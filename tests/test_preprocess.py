"""Normalisation against NumPy, SciPy and scikit-learn, and YUV against plain loops."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d
from sklearn.decomposition import PCA

from lpa_core.data import PREPROCESSES, build_preprocess, preprocess, resize
from lpa_core.data.preprocess import ZCA

FITTED = [name for name in PREPROCESSES if name != "scale"]  # those with numbers


@pytest.fixture(autouse=True)
def data_here(monkeypatch, tmp_path):
    """What is fitted is kept in a folder of the test's own."""
    monkeypatch.setenv("LPA_DATA", str(tmp_path))
    return tmp_path


def random_images(count, height, width, seed=0):
    """uint8 (N, H, W, 3), channels of different means and deviations."""
    rng = np.random.default_rng(seed)
    noise = rng.normal([80, 120, 160], [20, 35, 50], (count, height, width, 3))
    return noise.clip(0, 255).astype(np.uint8)


def as_input(images):
    """uint8 (N, H, W, 3) to what a preprocessing is called on."""
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 255


def test_an_unknown_preprocessing_is_told_which_there_are():
    with pytest.raises(ValueError, match=r"unknown preprocessing 'gcn'.*mean-std, yuv"):
        build_preprocess("gcn")


def test_resizing_averages_what_it_shrinks_and_leaves_its_own_size_alone():
    images = as_input(random_images(2, 8, 8))
    assert resize(images, 8) is images
    # A triangle over the rows within 4 of the centre of a new one, at 2 and at 6.
    weights = np.array([[5, 7, 7, 5, 3, 1, 0, 0], [0, 0, 1, 3, 5, 7, 7, 5]], float)
    weights /= weights.sum(axis=1, keepdims=True)
    expected = np.einsum("ij,bcjk,lk->bcil", weights, images.numpy(), weights)
    np.testing.assert_allclose(resize(images, 2), expected, atol=1e-5)


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


def test_a_grey_of_any_level_has_a_deviation_of_zero_but_for_rounding():
    for level in range(256):
        images = torch.full((3, 5, 7, 3), level, dtype=torch.uint8)
        std = build_preprocess("mean-std").fit(images).std
        assert (std < 1e-5).all(), level


@pytest.mark.parametrize("name", FITTED)
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


def weighted_sum(image, row, column):
    """Gaussian-weighted sum of the 7x7 neighbourhood, as far as it is inside the image."""
    total, weights = (
        0.0,
        sum(
            math.exp(-(dy * dy + dx * dx) / (2 * 1.75**2))
            for dy in range(-3, 4)
            for dx in range(-3, 4)
        ),
    )
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            y, x = row + dy, column + dx
            if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
                weight = math.exp(-(dy * dy + dx * dx) / (2 * 1.75**2))
                total += weight * image[y, x]
    return total / weights


def everywhere(image):
    """weighted_sum at each pixel."""
    height, width = image.shape
    return np.array(
        [[weighted_sum(image, y, x) for x in range(width)] for y in range(height)]
    )


def yuv_by_loops(images, train):
    """The normalised YUV (N, 3, H, W) of images, U and V by the moments of train."""
    colours = np.array([yuv_of(*pixel / 255) for pixel in train.reshape(-1, 3)])
    mean, std = colours.mean(axis=0), colours.std(axis=0)
    out = []
    for image in images:
        y, u, v = yuv_of(*np.moveaxis(image / 255, 2, 0))
        share = everywhere(np.ones_like(y))  # of the window, inside the image
        centred = y - everywhere(y) / share
        # Torch7 divides by the share behind the root, not under it.
        contrast = centred / (np.sqrt(everywhere(centred**2)) / share).clip(1e-4)
        out.append([contrast, (u - mean[1]) / std[1], (v - mean[2]) / std[2]])
    return np.array(out)


@pytest.mark.parametrize("height, width", [(9, 8), (4, 11), (2, 3)])
def test_yuv_against_loops_from_its_definition(height, width):
    train = random_images(6, height, width)
    images = random_images(3, height, width, seed=1)
    fitted = build_preprocess("yuv").fit(torch.from_numpy(train))
    wanted = yuv_by_loops(images, train)
    np.testing.assert_allclose(fitted(as_input(images)), wanted, atol=2e-4)


def test_local_contrast_against_scipy():
    images = random_images(3, 12, 9, seed=1)
    fitted = build_preprocess("yuv").fit(torch.from_numpy(random_images(6, 12, 9)))

    def blur(z):
        for axis in (1, 2):
            z = gaussian_filter1d(z, 1.75, axis=axis, radius=3, mode="constant")
        return z

    y = images / 255 @ np.array([0.299, 0.587, 0.114])
    share = blur(np.ones_like(y))
    centred = y - blur(y) / share
    wanted = centred / (np.sqrt(blur(centred**2)) / share).clip(1e-4)
    np.testing.assert_allclose(fitted(as_input(images))[:, 0], wanted, atol=2e-4)


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
    # In float64: how float32 sums are rounded differs between processors by more than
    # what a leak between images may come to.
    images = random_images(5, 8, 8)
    fitted = build_preprocess(name).fit(torch.from_numpy(images)).double()
    together = fitted(as_input(images).double())
    alone = torch.cat([fitted(as_input(images[i : i + 1]).double()) for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("name", PREPROCESSES)
def test_the_fitted_numbers_travel_in_the_state(name):
    images = random_images(5, 8, 8)
    fitted = build_preprocess(name).fit(torch.from_numpy(images))
    numbers = {"scale": set(), "zca": {"mean", "matrix"}}.get(name, {"mean", "std"})
    assert set(fitted.state_dict()) == numbers
    other = build_preprocess(name)
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other(as_input(images)), fitted(as_input(images)))


@pytest.mark.parametrize("name", ["mean-std", "yuv"])
def test_fitting_changes_what_comes_out(name):
    images = random_images(5, 8, 8)
    fitted, other = build_preprocess(name), build_preprocess(name)
    fitted.fit(torch.from_numpy(images))
    assert not torch.equal(other(as_input(images)), fitted(as_input(images)))


@pytest.mark.parametrize("name", PREPROCESSES)
def test_what_is_given_is_left_as_it_was(name):
    images = torch.from_numpy(random_images(5, 8, 8))
    x = as_input(images.numpy())
    images_before, x_before = images.clone(), x.clone()
    build_preprocess(name).fit(images)(x)
    assert torch.equal(images, images_before) and torch.equal(x, x_before)


# ---------------------------------------------------------------------------- scale


def test_scale_leaves_images_in_0_to_1_as_they_are():
    x = as_input(random_images(5, 8, 8))
    assert torch.equal(build_preprocess("scale").fit(torch.zeros(1, 2, 2, 3).byte())(x), x)


# ------------------------------------------------------------------------------ zca


def contrast(images):
    """pylearn2's global contrast normalisation of pixels 0 to 255, (N, 3HW)."""
    x = images.transpose(0, 3, 1, 2).reshape(len(images), -1).astype(float)
    x = x - x.mean(axis=1, keepdims=True)
    return 55 * x / np.sqrt((x**2).sum(axis=1, keepdims=True))


def test_zca_against_scikit_learns_principal_components():
    train, test = random_images(2500, 4, 5), random_images(7, 4, 5, seed=1)
    x = contrast(train)
    pca = PCA().fit(x)
    variances = pca.explained_variance_ * (len(x) - 1) / len(x)
    parts = pca.transform(contrast(test)) / np.sqrt(variances + 0.1)
    fitted = build_preprocess("zca").fit(torch.from_numpy(train))
    wanted = (parts @ pca.components_).reshape(7, 3, 4, 5)
    np.testing.assert_allclose(fitted(as_input(test)), wanted, atol=1e-3)


def test_zca_whitens_what_varies_more_than_its_bias():
    images = random_images(3000, 4, 4)
    white = build_preprocess("zca").fit(torch.from_numpy(images))(as_input(images))
    before = np.linalg.eigvalsh(np.cov(contrast(images).T, bias=True)).clip(0)
    after = np.linalg.eigvalsh(np.cov(white.flatten(1).numpy().T, bias=True))
    np.testing.assert_allclose(after, before / (before + 0.1), atol=1e-4)
    assert after[1:].min() > 0.9  # the first is the mean, which every image has lost


def test_zca_keeps_each_pixel_nearest_to_itself():
    # Of all whitenings it is the symmetric one, so that images stay recognisable.
    images = torch.from_numpy(random_images(2000, 4, 4))
    matrix = build_preprocess("zca").fit(images).matrix
    torch.testing.assert_close(matrix, matrix.T, atol=1e-6, rtol=0)
    assert (torch.linalg.eigvalsh(matrix.double()) > 0).all()


@settings(deadline=None, max_examples=20)
@given(st.floats(0.2, 1), st.floats(0, 0.3))
def test_zca_ignores_brightness_and_contrast_of_an_image(gain, offset):
    x = as_input(random_images(4, 5, 5)) * 0.7
    fitted = ZCA().fit(torch.from_numpy(random_images(50, 5, 5)))
    np.testing.assert_allclose(fitted(gain * x + offset), fitted(x), atol=2e-3)


def test_zca_refuses_images_of_another_size():
    fitted = build_preprocess("zca").fit(torch.from_numpy(random_images(5, 4, 6)))
    with pytest.raises(ValueError, match=r"fitted on, 4x6 pixels, but got 5x6.*one size"):
        fitted(torch.rand(2, 3, 5, 6))
    with pytest.raises(ValueError, match="not fitted yet: call fit"):
        build_preprocess("zca")(torch.rand(2, 3, 5, 6))


def test_an_image_of_one_colour_among_others_has_no_contrast_to_scale():
    images = random_images(50, 4, 4)
    images[7] = 77
    x = as_input(images).requires_grad_()
    fitted = ZCA().fit(torch.from_numpy(images))
    assert fitted.contrast(x)[7].abs().max() == 0
    fitted(x).sum().backward()
    assert torch.isfinite(x.grad).all()


# ------------------------------------------------------- what zca keeps in the folder


def kept(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_zca_is_fitted_once_for_the_same_images(monkeypatch, data_here):
    images = torch.from_numpy(random_images(40, 4, 4))
    first = build_preprocess("zca").fit(images)
    (name,) = kept(data_here)
    assert name.startswith("zca-") and name.endswith(".npz")
    monkeypatch.setattr(ZCA, "whitening", None)  # would fail
    again = build_preprocess("zca").fit(images)
    assert torch.equal(first.matrix, again.matrix) and torch.equal(first.mean, again.mean)


@pytest.mark.parametrize("change", ["pixel", "size", "norm", "bias"])
def test_zca_of_anything_else_is_fitted_anew(monkeypatch, data_here, change):
    images = torch.from_numpy(random_images(40, 4, 4))
    build_preprocess("zca").fit(images)
    if change == "pixel":
        images[3, 2, 1, 0] ^= 1
    elif change == "size":
        images = images.view(40, 2, 8, 3)
    else:
        monkeypatch.setattr(ZCA, change.upper(), 1.0)
    build_preprocess("zca").fit(images)
    assert len(kept(data_here)) == 2


def test_zca_can_keep_its_numbers_elsewhere(tmp_path, data_here):
    ZCA(tmp_path / "new" / "place").fit(torch.from_numpy(random_images(9, 4, 4)))
    assert len(kept(tmp_path / "new" / "place")) == 1 == len(kept(data_here))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def one_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_shape(path):
    np.savez(path, mean=np.zeros((3, 4, 4), np.float32), matrix=np.eye(3, dtype=np.float32))


@pytest.mark.parametrize("damage", [cut, one_byte, other_shape])
def test_a_damaged_whitening_is_fitted_again_with_a_warning(data_here, damage):
    images = torch.from_numpy(random_images(40, 4, 4))
    first = build_preprocess("zca").fit(images)
    (path,) = data_here.iterdir()
    damage(path)
    with pytest.warns(UserWarning, match=f"{path.name} is damaged .*fitting again"):
        again = build_preprocess("zca").fit(images)
    assert torch.equal(first.matrix, again.matrix)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_preprocess("zca").fit(images)  # the new one is whole


def test_zca_does_without_a_folder_it_cannot_write(monkeypatch, data_here):
    def full(path, arrays):
        raise OSError("no space left on device")

    images = torch.from_numpy(random_images(9, 4, 4))
    wanted = build_preprocess("zca").fit(images).matrix
    assert torch.equal(ZCA(data_here / kept(data_here)[0]).fit(images).matrix, wanted)
    monkeypatch.setattr(preprocess, "save_prepared", full)
    assert torch.equal(ZCA(data_here / "new").fit(images).matrix, wanted)
    assert len(kept(data_here)) == 1


def test_zca_holds_few_images_at_a_time(monkeypatch):
    # 2,500 images make three parts; the last differs in mean and in number.
    images = random_images(2500, 3, 3)
    images[2000:, 0] //= 3
    sizes = []
    add = torch.Tensor.addmm_

    def note(self, a, b):
        sizes.append(len(b))
        return add(self, a, b)

    monkeypatch.setattr(torch.Tensor, "addmm_", note)
    fitted = build_preprocess("zca").fit(torch.from_numpy(images))
    assert sizes == [1000, 1000, 500]
    mean = contrast(images).mean(axis=0)
    np.testing.assert_allclose(fitted.mean.flatten(), mean, atol=1e-4)
