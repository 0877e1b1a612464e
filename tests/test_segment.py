"""Segmentation: masks of maps against scikit-learn and by hand, and the whole table."""

import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from lpa_core.data import build_preprocess
from lpa_core.maps import combine_maps, multiply_maps
from lpa_core.networks import AttentionOutput, Network, build_network
from lpa_core.tasks import MeasureOptions, measure, segment
from lpa_core.tasks.segment import (
    UNTRAINED,
    SegmentSettings,
    attention_method,
    binarise,
    extremes,
    grad_cam_method,
    jaccard,
    refine,
    segment_all,
    summarise,
)
from lpa_core.training import Trained

quick = settings(max_examples=25, deadline=None)


# ---------------------------------------------------------------------------- binarise


def otsu(values):
    """What lies above the level that sets two classes furthest apart, by a loop."""
    values = (values - values.min()) / (values.max() - values.min())
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    middles = (edges[:-1] + edges[1:]) / 2
    best, threshold = -1.0, 0.0
    for k in range(255):
        low, high = counts[: k + 1], counts[k + 1 :]
        if not low.sum() or not high.sum():
            continue
        means = [
            (low * middles[: k + 1]).sum() / low.sum(),
            (high * middles[k + 1 :]).sum() / high.sum(),
        ]
        apart = low.sum() * high.sum() * (means[0] - means[1]) ** 2
        if apart > best * (1 + 1e-12):
            best, threshold = apart, middles[k]
    return values > threshold


@quick
@given(st.integers(0, 1000), st.floats(-3, 3), st.floats(1e-6, 1e3))
def test_a_map_is_cut_by_otsus_threshold(seed, shift, scale):
    """Whatever its scale: it is rescaled first."""
    random = np.random.default_rng(seed)
    values = np.where(random.random((12, 9)) < 0.3, 0.7, 0.2) + 0.1 * random.random((12, 9))
    np.testing.assert_array_equal(binarise(values), otsu(values))
    moved = binarise(scale * (values + shift))
    assert (moved == otsu(values)).mean() > 0.97  # a value may change its level


def test_a_map_of_two_values_is_cut_between_them():
    values = np.array([[0.1, 0.1, 0.4], [0.1, 0.4, 0.1]])
    np.testing.assert_array_equal(binarise(values), values > 0.2)


@pytest.mark.parametrize("value", [0.0, 1 / 64, -2.5, 1e9])
def test_a_constant_map_points_at_nothing(value):
    assert not binarise(np.full((8, 8), value)).any()


def test_a_map_constant_but_for_rounding_points_at_nothing():
    noise = 1e-7 * np.random.default_rng(0).random((8, 8))
    assert not binarise((1 + noise) / 64).any()


def test_several_maps_are_cut_each_by_its_own_threshold():
    random = np.random.default_rng(0)
    maps = random.random((3, 8, 8)) * np.array([1, 10, 1000])[:, None, None]
    found = binarise(torch.from_numpy(maps))
    assert isinstance(found, torch.Tensor) and found.dtype == torch.bool
    for one, mask in zip(maps, found, strict=True):
        np.testing.assert_array_equal(mask.numpy(), binarise(one))


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 2, 4, 4)])
def test_what_is_no_map_is_refused(shape):
    with pytest.raises(ValueError, match=r"takes a map \(h, w\) or several"):
        binarise(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_without_numbers_is_refused(value):
    with pytest.raises(ValueError, match="not finite"):
        binarise(np.array([[0.0, value]]))


# ----------------------------------------------------------------------------- jaccard


@quick
@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 9))
def test_jaccard_is_scikit_learns(seed, height, width):
    random = np.random.default_rng(seed)
    mask, truth = random.random((2, 4, height, width)) < random.random()
    found = jaccard(mask, truth)
    for score, one, other in zip(found, mask, truth, strict=True):
        wanted = jaccard_score(other.ravel(), one.ravel(), zero_division=1.0)
        assert score == pytest.approx(wanted)
        assert jaccard(one, torch.from_numpy(other)) == pytest.approx(wanted)


def test_jaccard_of_empty_masks():
    empty, full = np.zeros((3, 3), dtype=bool), np.ones((3, 3), dtype=bool)
    assert jaccard(empty, empty) == 1
    assert jaccard(empty, full) == jaccard(full, empty) == 0
    assert jaccard(full, full) == 1


@pytest.mark.parametrize("shapes", [((4, 4), (4, 5)), ((4,), (4,)), ((1, 4, 4), (4, 4))])
def test_masks_of_several_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="cannot be compared"):
        jaccard(*(np.zeros(shape, dtype=bool) for shape in shapes))


def test_masks_of_grey_values_are_refused():
    with pytest.raises(ValueError, match="got uint8"):
        jaccard(np.zeros((2, 2), dtype=bool), np.full((2, 2), 255, dtype=np.uint8))


# ----------------------------------------------------------------------------- methods


def photographs(count=5, sizes=((40, 60), (64, 32), (50, 50))):
    """Noise with a brighter rectangle, of several sizes, and where it is."""
    random = np.random.default_rng(0)
    images, masks = [], []
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        image = random.integers(20, 60, (height, width, 3))
        mask = np.zeros((height, width), dtype=bool)
        top, left = random.integers(2, 10, 2)
        mask[top : top + height // 2, left : left + width // 2] = True
        image[mask] += 150
        images.append(image.astype(np.uint8))
        masks.append(mask)
    return images, masks


def trained(name="vgg-att2-concat-pc"):
    network = build_network(name, num_classes=4, width=1 / 16).eval()
    preprocess = build_preprocess("mean-std").eval()
    return Trained(network, preprocess, list("abcd"), {"network": name})


class Bright(Network):
    """Attends to what is bright, at two levels of several sizes; two logits."""

    image_size = 32

    def attend(self, images, query=None):
        grey = images.mean(dim=1)
        fine = torch.nn.functional.avg_pool2d(grey, 2)
        maps = {"layer10": fine, "layer13": torch.nn.functional.avg_pool2d(fine, 2)}
        maps = {n: (6 * m).flatten(1).softmax(1).view_as(m) for n, m in maps.items()}
        return AttentionOutput(
            grey.flatten(1)[:, :2], grey.flatten(1), grey.flatten(1), maps
        )


def bright(name="vgg-att2-concat-pc"):
    facts = {"network": name}
    return Trained(Bright().eval(), build_preprocess("mean-std").eval(), ["a", "b"], facts)


@pytest.mark.parametrize(
    "name, combine",
    [("vgg-att2-concat-pc", combine_maps), ("vgg-pan", multiply_maps)],
)
def test_attention_is_combined_by_each_networks_rule(name, combine):
    images, _ = photographs()
    found = attention_method(bright(name))(images)
    assert found.shape == (5, segment.SIDE, segment.SIDE)
    for image, one in zip(images, found, strict=True):  # alone as in a batch
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        x = torch.nn.functional.interpolate(x, (32, 32), mode="bilinear", antialias=True)
        seen = bright().network.attend(x.round() / 255)
        torch.testing.assert_close(one, combine(seen.maps, segment.SIDE)[0])


def test_the_product_with_and_without_the_root_differ():
    images, _ = photographs()
    rooted, plain = (attention_method(bright(n))(images) for n in ("x", "vgg-pan"))
    assert (rooted - plain).abs().max() > 0.1


def test_attention_that_is_right_scores_high_and_the_rest_is_measured():
    images, masks = photographs(7)
    methods = {"bright": attention_method(bright())} | UNTRAINED
    table = segment_all(images, masks, methods, list("aabbabb"), 3, progress=False)
    assert list(table) == ["class", "object", *methods]
    assert table["bright"].min() > 0.75
    np.testing.assert_allclose(table["object"], [mask.mean() for mask in masks])
    assert table[list(methods)].notna().all(axis=None)
    assert table["mc"].mean() > table["centre"].mean()
    again = segment_all(images, masks, methods, batch_size=100, progress=False)
    pd.testing.assert_frame_equal(table.drop(columns="class"), again)


def test_a_value_at_the_threshold_is_not_of_the_object():
    """Otsu's threshold is the upper end of the darker class, which it belongs to."""
    at = 7 / 512  # the middle of one of the histogram's 256 bins
    values = np.array([[0, 0, at, at], [at, 1, 1, 1]])
    assert segment.skimage.filters.threshold_otsu(values) == at
    assert (binarise(values) == (values == 1)).all()


def test_a_score_is_that_of_the_enlarged_map():
    """A 2x2 map on a 4x6 photograph, interpolated and cut by hand."""
    truth = np.zeros((4, 6), dtype=bool)
    truth[:2, :3] = True
    values = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    down, across = [1, 0.75, 0.25, 0], [1, 5 / 6, 0.5, 1 / 6, 0, 0]
    across = [1, 1, 2 / 3, 1 / 3, 0, 0]
    enlarged = np.outer(down, across)
    table = segment_all(
        [np.zeros((4, 6, 3), dtype=np.uint8)],
        [truth],
        {"m": lambda _: [values]},
        progress=False,
    )
    np.testing.assert_allclose(segment.enlarged(values, 4, 6), enlarged)
    assert table["m"][0] == jaccard(otsu(enlarged), truth)


def test_a_data_sets_tensors_do_as_well():
    images = torch.randint(0, 256, (3, 40, 40, 3), dtype=torch.uint8)
    masks = torch.rand(3, 40, 40) < 0.5
    table = segment_all(images, masks, UNTRAINED, progress=False)
    assert len(table) == 3 and table.notna().all(axis=None)


def test_an_empty_mask_is_measured_too():
    images, masks = photographs(1)
    nothing = [np.zeros_like(masks[0])]
    methods = {
        "all": lambda x: [np.eye(4)],
        "none": lambda x: [np.ones((4, 4))],
    }
    table = segment_all(images, nothing, methods, progress=False)
    assert table["object"][0] == 0 and table["all"][0] == 0 and table["none"][0] == 1


def test_networks_get_the_method_they_are_made_for():
    images, _ = photographs(2)
    attended, plain = trained("vgg-att2-concat-pc"), trained("vgg")
    assert segment.method_name(attended) == "attention"
    found = segment.TRAINED["attention"](attended)(images)
    assert found.shape == (2, segment.SIDE, segment.SIDE)
    pytest.importorskip("pytorch_grad_cam")
    assert segment.method_name(plain) == "grad-cam"
    cam = segment.TRAINED["grad-cam"](plain)(images)
    assert cam.shape == (2, 32, 32)
    torch.testing.assert_close(cam, grad_cam_method(plain)(images))


CIFAR = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]


def pooled(predicts: str | None = None) -> Trained:
    """VGG-GAP with random weights, or one that gives every image the same class."""
    torch.manual_seed(1)
    network = build_network("vgg-gap", num_classes=10, width=1 / 16).eval()
    with torch.no_grad():
        network.classifier.weight.normal_()
        if predicts:
            network.classifier.bias[CIFAR.index(predicts)] = 1e6
    facts = {"network": "vgg-gap", "dataset": "cifar10"}
    return Trained(network, build_preprocess("mean-std").eval(), CIFAR, facts)


@pytest.mark.parametrize(
    "cam, shown",
    [
        ("right", {"airplane": "airplane", "car": "automobile", "horse": "horse"}),
        ("scripts", {"airplane": "airplane", "car": "cat", "horse": "horse"}),
    ],
)
def test_a_chosen_class_gives_the_map_of_a_network_that_predicts_it(cam, shown):
    images, masks = photographs(6)
    classes = ["airplane", "car", "horse"] * 2
    found = segment.segment_by_class(pooled(), images, masks, classes, cam)
    for name, its_class in shown.items():
        rows = [row for row, one in enumerate(classes) if one == name]
        one = segment_all(
            [images[row] for row in rows],
            [masks[row] for row in rows],
            {"attention": attention_method(pooled(its_class))},
            progress=False,
        )
        own = found[found["class"] == name]
        np.testing.assert_allclose(own["attention"], one["attention"])
    assert len(found) == 6
    predicted = segment_all(
        images, masks, {"attention": attention_method(pooled())}, classes, progress=False
    )
    assert not np.allclose(found["attention"].mean(), predicted["attention"].mean())


def test_a_chosen_class_without_maps_or_photographs_is_refused():
    images, masks = photographs(2)
    with pytest.raises(ValueError, match="network has none of the classes b, c; leave out"):
        segment.segment_by_class(pooled(), images, masks, ["b", "c"], "right")
    attends = Trained(
        trained().network, pooled().preprocess, CIFAR, {"network": "vgg-att2"}
    )
    with pytest.raises(ValueError, match="vgg-att2 has none: leave out `cam`"):
        segment.segment_by_class(attends, images, masks, ["cat", "dog"], "right")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"methods": {}}, "no methods"),
        ({"photographs": [], "masks": []}, "no photographs"),
        ({"masks": []}, "5 photographs, but 0 masks"),
        ({"classes": ["a"]}, "5 photographs, but 1 classes"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(change, said):
    images, masks = photographs()
    given = {"photographs": images, "masks": masks, "methods": UNTRAINED} | change
    with pytest.raises(ValueError, match=said):
        segment_all(**given)


def test_a_mask_of_another_size_is_named():
    images, masks = photographs(3)
    masks[1] = masks[1].T
    said = r"photograph 1 has \(64, 32\) pixels, but its mask \(32, 64\)"
    with pytest.raises(ValueError, match=said):
        segment_all(images, masks, UNTRAINED)


@pytest.mark.parametrize(
    "image, said",
    [
        (np.zeros((40, 60), dtype=np.uint8), r"uint8 of shape \(40, 60\)"),
        (np.zeros((40, 60, 4), dtype=np.uint8), r"uint8 of shape \(40, 60, 4\)"),
        (torch.zeros(40, 60, 3), r"float32 of shape \(40, 60, 3\)"),
    ],
    ids=["grey", "alpha", "float"],
)
def test_a_photograph_that_is_not_rgb_is_named(image, said):
    _, masks = photographs(1)
    with pytest.raises(ValueError, match=f"photograph 0 is {said}: give RGB"):
        segment_all([image], masks, UNTRAINED)


# ---------------------------------------------------------------------------- summaries


def some_table():
    return pd.DataFrame(
        {
            "class": ["car", "car", "cat", "car", "cat"],
            "object": [0.1] * 5,
            "one": [0.1, 0.5, 0.9, 0.3, 0.5],
            "two": [0.0, 0.0, 1.0, 0.3, 0.0],
        }
    )


def test_a_summary_by_hand():
    found = summarise(some_table())
    wanted = pd.DataFrame(
        {"car": [0.3, 0.1], "cat": [0.7, 0.5], "all": [0.46, 0.26]}, index=["one", "two"]
    )
    pd.testing.assert_frame_equal(found, wanted, check_names=False)
    overall = summarise(some_table().drop(columns="class"))
    assert overall["all"].tolist() == pytest.approx([0.46, 0.26])


def test_best_middle_and_worst_by_hand():
    assert extremes(some_table(), "one", 1) == {"best": [2], "middle": [4], "worst": [0]}
    assert extremes(some_table(), "one", 2)["best"] == [2, 1]  # 1 and 4 are equal
    assert extremes(some_table(), "two", 2)["worst"] == [1, 4]


@pytest.mark.parametrize(
    "method, count, said",
    [("bms", 1, "no method 'bms'"), ("one", 6, "count 6: give 1 to 5")],
)
def test_extremes_that_are_not_there_are_refused(method, count, said):
    with pytest.raises(ValueError, match=said):
        extremes(some_table(), method, count)


# ------------------------------------------------------------------------------- refine


def test_refining_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(ImportError, match="pip install pydensecrf2"):
        refine(np.zeros((4, 4, 3), dtype=np.uint8), np.eye(4))


@pytest.fixture
def idle_field(monkeypatch):
    """In the package's place: a field that infers nothing."""

    class Field:
        def __init__(self, width, height, labels):
            assert labels == 2
            self.shape = height, width, 3

        def setUnaryEnergy(self, energy):
            self.energy = energy

        def addPairwiseGaussian(self, sxy, compat):
            pass

        def addPairwiseBilateral(self, sxy, srgb, rgbim, compat):
            assert rgbim.shape == self.shape

        def inference(self, steps):
            assert steps == 5
            return np.exp(-self.energy)

    package, module = ModuleType("pydensecrf"), ModuleType("pydensecrf.densecrf")
    module.DenseCRF2D = Field
    monkeypatch.setitem(sys.modules, "pydensecrf", package)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", module)


def test_refining_hands_the_map_over_as_energies(idle_field):
    """If the field infers nothing, the mask is where the map is above a half."""
    attention = np.random.default_rng(0).random((4, 6))
    attention[0, 0] = 9  # Otsu's threshold is far from the middle
    attention[1, 1] = 5
    mask = refine(np.zeros((4, 6, 3), dtype=np.uint8), attention)
    np.testing.assert_array_equal(mask, binarise(attention))
    assert not refine(np.zeros((4, 6, 3), dtype=np.uint8), np.ones((4, 6))).any()


def test_all_masks_of_a_measurement_are_refined_if_that_is_asked(monkeypatch):
    images = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    truths = torch.zeros(3, 8, 8, dtype=torch.bool)
    truths[:, 2:5, 2:5] = True
    given = []

    def right(image, attention):
        given.append((image, attention.shape))
        return truths[0].numpy()

    monkeypatch.setattr(segment, "refine", right)
    maps = {"noise": lambda photographs: torch.rand(len(photographs), 2, 2)}
    table = segment_all(images, truths, maps, batch_size=2, progress=False, refined=True)
    assert table["noise"].tolist() == [1, 1, 1]
    for (image, shape), photograph in zip(given, images, strict=True):
        np.testing.assert_array_equal(image, photograph)
        assert shape == (8, 8)
    table = segment_all(images, truths, maps, progress=False)
    assert len(given) == 3 and (table["noise"] < 1).all()


def test_a_measurement_of_refined_masks_is_another_one(idle_field, monkeypatch):
    (_, plain), (_, refined) = (
        SegmentSettings(methods=["centre"], refine=refine).cases("coseg", [])[0]
        for refine in (None, "dense-crf")
    )
    assert plain.recorded() == {"method": "centre"}
    assert refined.recorded() == {"method": "centre", "refine": "dense-crf"}
    monkeypatch.setattr(
        segment, "packages_distributions", lambda: {"pydensecrf": ["pydensecrf2"]}
    )
    assert {*refined.libraries()} - {*plain.libraries()} == {"pydensecrf2"}


def test_without_the_package_nothing_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(ImportError, match="pip install pydensecrf2"):
        measure("segment", settings=SegmentSettings(refine="dense-crf"),
                where=MeasureOptions(dataset="embedded", progress=False))  # fmt: skip


def test_refining_smooths_a_noisy_map():
    pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf is not installed")
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    truth = np.zeros((40, 40), dtype=bool)
    truth[10:30, 10:30] = True
    image[truth] = 200
    noisy = 0.3 + 0.4 * truth + 0.5 * np.random.default_rng(0).random((40, 40))
    assert jaccard(refine(image, noisy), truth) > jaccard(binarise(noisy), truth)


def test_refining_needs_a_map_of_the_images_size():
    with pytest.raises(ValueError, match=r"size \(4, 5\), but the image \(4, 4\)"):
        refine(np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((4, 5)))
