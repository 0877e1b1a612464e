"""BMS, MC and the centre prior: on images whose answer is known, and against loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lpa_core.maps import (
    boolean_map_objects,
    boolean_map_saliency,
    centre_prior,
    markov_chain_saliency,
)
from lpa_core.maps.saliency import (
    FIXATION_2013,
    FIXATION_BATCH,
    OBJECTS_2013,
    SIGMA2,
    SMALLEST,
    absorbed_time,
    affinities,
    chain_saliency,
    figures,
    lab_channels,
    mean_colours,
    narrowed,
    neighbours,
    odd,
    surrounded,
    widened,
)

SALIENCY = [boolean_map_saliency, boolean_map_objects, markov_chain_saliency]
quick = settings(max_examples=25, deadline=None)


def square(height=60, width=80, top=20, left=30, side=20):
    """A red square on a textured green ground, and where it is."""
    random = np.random.default_rng(0)
    image = np.array([40, 120, 60]) + random.integers(-6, 7, (height, width, 3))
    where = np.zeros((height, width), dtype=bool)
    where[top : top + side, left : left + side] = True
    image[where] += (160, -80, -20)
    return image.astype(np.uint8), where


# ---------------------------------------------------------------------- on known answers


@pytest.mark.parametrize("saliency", SALIENCY, ids=lambda f: f.__name__)
def test_a_square_on_a_ground_is_found(saliency):
    image, where = square()
    found = saliency(image)
    assert found.shape == where.shape
    assert found.min() == pytest.approx(0, abs=0.01) and found.max() <= 1
    assert found[where].mean() > 0.6
    assert found[where].mean() > 4 * found[~where].mean()
    mask = found > 0.5
    assert (mask & where).sum() / (mask | where).sum() > 0.6


@pytest.mark.parametrize("saliency", SALIENCY, ids=lambda f: f.__name__)
def test_saliency_goes_where_the_square_goes(saliency):
    found = saliency(square(top=8, left=52)[0])
    rows, columns = np.indices(found.shape)
    middle = [(found * axis).sum() / found.sum() for axis in (rows, columns)]
    assert abs(middle[0] - 17.5) < 7 and abs(middle[1] - 61.5) < 10


@pytest.mark.parametrize("saliency", SALIENCY[:2], ids=lambda f: f.__name__)
def test_what_touches_the_border_is_no_figure(saliency):
    image, where = square(top=40, left=30)  # reaches down to the last row
    free, inside = square()
    assert saliency(image)[where].mean() < 0.7 * saliency(free)[inside].mean()


@pytest.mark.parametrize("saliency", SALIENCY[:2], ids=lambda f: f.__name__)
def test_an_even_image_has_no_figure(saliency):
    assert not saliency(np.full((40, 50, 3), 128, dtype=np.uint8)).any()


def test_the_walk_on_an_even_image_knows_the_border_alone():
    found = markov_chain_saliency(np.full((60, 60, 3), 128, dtype=np.uint8))
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
    assert found[25:35, 25:35].mean() > found[[0, -1]].mean()


@pytest.mark.parametrize("saliency", SALIENCY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 5), (17, 200)])
def test_small_and_narrow_images_have_a_map_of_their_size(saliency, shape):
    random = np.random.default_rng(0)
    found = saliency(random.integers(0, 256, (*shape, 3), dtype=np.uint8))
    assert found.shape == shape
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("saliency", SALIENCY, ids=lambda f: f.__name__)
def test_large_photographs_are_worked_on_small_and_come_back_large(saliency):
    image, where = square()
    large = image.repeat(3, axis=0).repeat(3, axis=1)
    found = saliency(large, longest=80)
    assert found.shape == (180, 240)
    alike = np.corrcoef(found[1::3, 1::3].ravel(), saliency(image).ravel())[0, 1]
    assert alike > 0.9
    assert found[where.repeat(3, axis=0).repeat(3, axis=1)].mean() > 0.55


@pytest.mark.parametrize("saliency", SALIENCY, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), dtype=np.uint8),
        np.zeros((8, 8, 4), dtype=np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((0, 8, 3), dtype=np.uint8),
    ],
    ids=["grey", "alpha", "float", "empty"],
)
def test_what_is_no_rgb_image_is_refused(saliency, image):
    with pytest.raises(ValueError, match=r"uint8 of shape \(H, W, 3\); got"):
        saliency(image)


def test_too_small_a_working_size_is_refused():
    with pytest.raises(ValueError, match="longest 8: give at least 16"):
        boolean_map_saliency(square()[0], longest=8)


# ------------------------------------------------------------------- BMS, piece by piece


def flooded(boolean):
    """Surrounded pixels by flooding from the border, pixel by pixel."""
    height, width = boolean.shape
    reached = np.zeros(boolean.shape, dtype=bool)
    front = [
        (i, j)
        for i in range(height)
        for j in range(width)
        if i in (0, height - 1) or j in (0, width - 1)
    ]
    while front:
        i, j = front.pop()
        if reached[i, j]:
            continue
        reached[i, j] = True
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                a, b = i + di, j + dj
                inside = 0 <= a < height and 0 <= b < width
                if inside and not reached[a, b] and boolean[a, b] == boolean[i, j]:
                    front.append((a, b))
    return ~reached


@quick
@given(st.integers(0, 10_000), st.integers(1, 14), st.integers(1, 14))
def test_surrounded_pixels_are_those_no_flood_reaches(seed, height, width):
    share = np.random.default_rng(seed).uniform(0.2, 0.8)
    boolean = np.random.default_rng(seed + 1).random((height, width)) < share
    np.testing.assert_array_equal(surrounded(boolean), flooded(boolean))


@quick
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 9))
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_maps_are_opened_as_by_scipy(kernel, seed, height, width):
    maps = np.random.default_rng(seed).random((3, height, width)) < 0.7
    opened = ndimage.grey_opening(maps.astype(np.uint8), size=(1, kernel, kernel))
    found = widened(narrowed(maps, kernel), kernel)
    np.testing.assert_array_equal(found, opened > 0)
    wide = ndimage.maximum_filter(maps[0], size=kernel)
    np.testing.assert_array_equal(widened(maps[0], kernel), wide)


def test_a_ring_and_what_it_encloses_are_surrounded():
    boolean = np.zeros((7, 7), dtype=bool)
    boolean[2:5, 2:5] = True
    boolean[3, 3] = False
    wanted = np.zeros((7, 7), dtype=bool)
    wanted[2:5, 2:5] = True
    np.testing.assert_array_equal(surrounded(boolean), wanted)


def test_each_threshold_cuts_twice_above_it_and_not_above():
    """A bright square on a dark ground: both of its Boolean maps show it."""
    channel = np.zeros((9, 9, 1))
    channel[3:6, 3:6] = 20  # thresholds at 0, 8 and 16
    found = list(figures(channel, opening=1))
    assert len(found) == 6
    for figure in found:
        np.testing.assert_array_equal(figure, channel[..., 0] > 0)


def test_two_squares_share_the_map_by_the_root_of_their_size():
    """Each attention map has length 1: beside a smaller one a large figure fades."""
    image = np.full((300, 600, 3), 60, dtype=np.uint8)
    image[40:260, 40:260] = 140  # cut out by the same thresholds of lightness
    image[120:180, 420:480] = (140, 60, 60)
    eyes, objects = boolean_map_saliency(image, 600), boolean_map_objects(image, 600)
    assert eyes[150, 450] > eyes[150, 150]
    assert eyes[150, 450] / eyes[150, 150] > 1.5 * objects[150, 450] / objects[150, 150]


def test_settings_are_those_of_the_release_that_they_are_named_after():
    """SPEC 5: fixation with dilation 23 and blur 20, or 9 and 9 in a later batch file;
    objects on images 400 wide with an opening of 13 and a disk of radius 15."""
    for found, kernels in ((FIXATION_2013, (23, 20)), (FIXATION_BATCH, (9, 9))):
        assert (found.last_dilation, found.blur) == kernels
    found = OBJECTS_2013
    assert (found.width, found.opening, found.radius) == (400, 13, 15)


def test_a_wider_blur_marks_more_of_the_ground():
    image, where = square()
    wide, narrow = (
        boolean_map_saliency(image, settings=one) for one in (FIXATION_2013, FIXATION_BATCH)
    )
    assert wide[~where].mean() > 1.05 * narrow[~where].mean()


@pytest.mark.parametrize("scale, width", [(1, 9), (0.5, 5), (1 / 3, 3), (0.01, 1)])
def test_kernels_keep_an_odd_width_at_any_scale(scale, width):
    assert odd(9, scale) == width


def test_lab_channels_of_known_colours():
    """White, black and pure red, from CIELab's definition (sRGB, D65)."""
    image = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0]]], dtype=np.uint8)
    wanted = [[255, 128, 128], [0, 128, 128], [53.24 * 2.55, 128 + 80.09, 128 + 67.2]]
    np.testing.assert_allclose(lab_channels(image)[0], wanted, atol=0.1)


# -------------------------------------------------------------------- MC, piece by piece


def test_absorbed_time_of_a_walk_on_a_line():
    """Gambler's ruin: from place k of n, an exit at each end, k * (n + 1 - k) steps."""
    n = 6
    affinity = np.eye(n, k=1) + np.eye(n, k=-1)
    exits = np.zeros(n)
    exits[[0, -1]] = 1
    wanted = [k * (n + 1 - k) for k in range(1, n + 1)]
    np.testing.assert_allclose(absorbed_time(affinity, exits, np.ones(n)), wanted)


def random_chain(seed, n=7):
    random = np.random.default_rng(seed)
    affinity = random.random((n, n))
    affinity = (affinity + affinity.T) / 2
    exits = np.where(random.random(n) < 0.5, random.random(n), 0.0)
    exits[0] = 0.5
    return affinity, exits


@quick
@given(st.integers(0, 1000))
def test_absorbed_time_is_the_sum_of_the_powers_of_q(seed):
    affinity, exits = random_chain(seed)
    steps = np.random.default_rng(seed).random(len(exits))
    q = affinity / (affinity.sum(axis=1) + exits)[:, None]
    total, power = np.zeros(len(exits)), np.eye(len(exits))
    for _ in range(3000):
        total += power @ steps
        power = power @ q
    np.testing.assert_allclose(absorbed_time(affinity, exits, steps), total, rtol=1e-4)


def test_absorbed_time_is_the_mean_length_of_many_walks():
    affinity, exits = random_chain(3, n=5)
    leaving = np.concatenate([affinity, exits[:, None]], axis=1)
    leaving /= leaving.sum(axis=1, keepdims=True)
    random, lengths = np.random.default_rng(0), np.zeros(4000)
    for walk in range(len(lengths)):
        place = 2
        while place < 5:  # the sixth state absorbs
            place = np.searchsorted(leaving[place].cumsum(), random.random())
            lengths[walk] += 1
    wanted = absorbed_time(affinity, exits, np.ones(5))[2]
    assert lengths.mean() == pytest.approx(wanted, abs=4 * lengths.std() / 4000**0.5)


def test_neighbours_by_hand():
    regions = np.array([[0, 0, 1], [2, 0, 1], [2, 3, 3]])
    near = neighbours(regions)
    pairs = {(i, j) for i in range(4) for j in range(4) if near[i, j]}
    # 1 and 2 alone never share a side or a corner
    every = {(i, j) for i in range(4) for j in range(4) if i != j}
    assert pairs == every - {(1, 2), (2, 1)}
    corners = neighbours(np.array([[0, 1], [2, 3]]))
    np.testing.assert_array_equal(corners, ~np.eye(4, dtype=bool))


def test_affinities_by_a_loop():
    """Two steps on the graph are tied, three are not, unless both are at the border."""
    random = np.random.default_rng(0)
    colours = random.random((5, 3)) * 50
    near = np.eye(5, k=1, dtype=bool) | np.eye(5, k=-1, dtype=bool)  # 0-1-2-3-4
    edge = np.array([True, False, False, False, True])
    tied = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (0, 4)]
    distances = {pair: math.dist(colours[pair[0]], colours[pair[1]]) for pair in tied}
    low, high = min(distances.values()), max(distances.values())
    wanted = np.eye(5)
    for (i, j), distance in distances.items():
        weight = math.exp(-(distance - low) / (high - low) / SIGMA2) + SMALLEST
        wanted[i, j] = wanted[j, i] = weight
    np.testing.assert_allclose(affinities(colours, near, edge), wanted)


def test_mean_colours_by_a_loop():
    from skimage.color import rgb2lab

    random = np.random.default_rng(0)
    image = random.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    regions = random.integers(0, 4, (6, 7))
    for region, colour in enumerate(mean_colours(image, regions)):
        np.testing.assert_allclose(colour, rgb2lab(image)[regions == region].mean(axis=0))


def grid_chain(side, object_weight, ground_weight=1.0):
    """A grid of regions, its border absorbing; the middle 3x3 tied weakly to the rest."""
    count = side * side
    rows, columns = np.divmod(np.arange(count), side)
    apart = abs(rows[:, None] - rows) + abs(columns[:, None] - columns)
    near = apart == 1
    middle = (abs(rows - side // 2) <= 1) & (abs(columns - side // 2) <= 1)
    edge = (rows % (side - 1) == 0) | (columns % (side - 1) == 0)
    across = middle[:, None] != middle
    affinity = np.where(near, np.where(across, object_weight, ground_weight), 0.0)
    np.fill_diagonal(affinity, 1)
    return affinity, near, edge, middle


def test_a_group_tied_weakly_to_the_rest_is_salient():
    affinity, near, edge, middle = grid_chain(9, object_weight=1e-4)
    values = chain_saliency(affinity, near, edge)
    assert values[middle].min() > 0.95
    assert values[~middle].max() < 0.05


def test_an_even_middle_far_from_the_border_is_corrected():
    """Without an object the walk's time alone is a hill; the score sees it and corrects."""
    affinity, near, edge, _ = grid_chain(15, object_weight=1.0)
    affinity[~np.eye(225, dtype=bool) & (affinity > 0)] = 1.0
    exits = affinity[:, edge].sum(axis=1)
    time = absorbed_time(affinity, exits, np.ones(225))
    time = (time - time.min()) / (time.max() - time.min())
    share = np.histogram(time, bins=10, range=(0, 1))[0] / 225
    score = sum(s * min(t, 11 - t) for t, s in enumerate(share, start=1))
    assert score >= 2
    degree = affinity.sum(axis=1)
    leaving = affinity.sum(axis=1) + exits
    fundamental = np.linalg.inv(np.eye(225) - affinity / leaving[:, None])
    wanted = fundamental @ (degree.sum() / degree)
    wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    np.testing.assert_allclose(chain_saliency(affinity, near, edge), wanted, atol=1e-9)


@pytest.mark.parametrize("neighbour_salient", [True, False])
def test_a_region_unlike_all_others_is_as_salient_as_its_neighbours(neighbour_salient):
    affinity, near, edge, _ = grid_chain(9, object_weight=1e-4)
    alone = 5 * 9 + 5 if neighbour_salient else 1 * 9 + 1
    affinity[alone, :] = affinity[:, alone] = SMALLEST
    affinity[alone, alone] = 1
    values = chain_saliency(affinity, near, edge)
    assert values[alone] == float(neighbour_salient)
    assert values[4 * 9 + 4] > 0.9


def test_a_walk_without_an_exit_has_no_saliency():
    """It never ends: there is no time to solve for."""
    near = np.array([[False, True], [True, False]])
    assert not chain_saliency(np.ones((2, 2)), near, np.zeros(2, dtype=bool)).any()


# --------------------------------------------------------------------------- centre prior


def test_the_centre_prior_by_a_loop():
    found = centre_prior(5, 8, sigma=0.3)
    for i in range(5):
        for j in range(8):
            y, x = (i + 0.5) / 5 - 0.5, (j + 0.5) / 8 - 0.5
            offset = (0.5 / 8) ** 2  # the highest of eight columns is not in the middle
            wanted = math.exp(-(y * y + x * x - offset) / (2 * 0.3**2))
            assert found[i, j] == pytest.approx(wanted)
    assert found.max() == 1


@pytest.mark.parametrize("sizes, said", [((0, 4), "0 x 4"), ((4, 4, 0), "sigma 0")])
def test_a_prior_without_pixels_or_width_is_refused(sizes, said):
    with pytest.raises(ValueError, match=said):
        centre_prior(*sizes)
