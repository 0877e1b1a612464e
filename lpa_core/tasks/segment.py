"""Weakly supervised segmentation: how well a map segments the object (section 5.4, A.4).

Training uses no information on where the object is; the map says where the network looks.
The map is rescaled to [0, 1] and thresholded by Otsu's method. The resulting mask is
compared with the hand-drawn one by the Jaccard index, intersection over union (figures 8
and 9).

Scores are computed at the size of the given mask. Maps are enlarged to it, so that methods
for photographs and for 32x32 pixels are compared with the same truth. The recorded
measurements use squares of 256 pixels, to which photographs and masks of any shape are
resized (`tasks.base.MASKED_SIZE`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import packages_distributions
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import skimage
import torch
from pydantic import Field, RootModel
from torch import Tensor
from tqdm.auto import tqdm

from lpa_core.data import Dataset
from lpa_core.data.loaders import to_network_input
from lpa_core.maps import (
    boolean_map_objects,
    boolean_map_saliency,
    centre_prior,
    combine_maps,
    grad_cam,
    markov_chain_saliency,
    multiply_maps,
)
from lpa_core.maps.arrays import enlarged, rescale, resize_photograph
from lpa_core.maps.saliency import FIXATION_BATCH
from lpa_core.networks.vgg import GlobalPoolVGG
from lpa_core.shapes import Float
from lpa_core.tasks.base import Metrics, Settings, Task, mean_and_error, register
from lpa_core.training import Trained

__all__ = [
    "TASK",
    "UNTRAINED",
    "ClassMetrics",
    "Method",
    "MethodSettings",
    "SegmentMetrics",
    "SegmentSettings",
    "attention_method",
    "binarise",
    "combine_maps",
    "extremes",
    "grad_cam_method",
    "jaccard",
    "refine",
    "segment_all",
    "summarise",
]

SIDE = 128  # pixels per side at which the levels of a network are combined
BATCH = 64  # photographs at a time

Photograph = np.ndarray | Tensor
Photographs = Sequence[Photograph] | Tensor  # of any sizes; or of one size, (N, S, S, 3)
Maps = Sequence[np.ndarray | Tensor] | Tensor
Method = Callable[[Photographs], Maps]


# ------------------------------------------------------------------------ maps to masks


def binarise(maps: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """A map's mask, by Otsu's threshold on the map rescaled to [0, 1] (A.4).

    A constant map has no threshold, so its mask is empty.

    Args:
        maps: one (h, w), or several (b, h, w), each with its own threshold.

    Returns:
        Booleans of the same shape: an array for an array, a tensor for a tensor.

    Raises:
        ValueError: the maps have another shape, no positions, or values that are not
            finite.
    """
    values = maps.detach().cpu().numpy() if isinstance(maps, Tensor) else np.asarray(maps)
    if values.ndim not in (2, 3) or not values.size:
        raise ValueError(
            f"binarise takes a map (h, w) or several (b, h, w); got {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("a map has values that are not finite (nan or infinite)")
    each = values[None] if values.ndim == 2 else values
    rescaled = rescale(torch.as_tensor(each).double()).numpy()
    masks = np.stack([otsu_mask(one) for one in rescaled]).reshape(values.shape)
    return torch.from_numpy(masks).to(maps.device) if isinstance(maps, Tensor) else masks


def otsu_mask(rescaled: np.ndarray) -> np.ndarray:
    """Positions above the threshold; none for a constant map, which is all zero."""
    if not rescaled.any():
        return np.zeros(rescaled.shape, dtype=bool)
    return rescaled > skimage.filters.threshold_otsu(rescaled)


def jaccard(mask: np.ndarray | Tensor, truth: np.ndarray | Tensor) -> float | np.ndarray:
    """Intersection over union of a mask with the true one, from 0 to 1.

    Two empty masks score 1. An empty mask and a non-empty one score 0.

    Args:
        mask, truth: booleans (h, w); or (b, h, w), for an array of b values.

    Raises:
        ValueError: they differ in shape, have another shape, or are not boolean.
    """
    mask, truth = np.asarray(mask), np.asarray(truth)
    if mask.shape != truth.shape or mask.ndim not in (2, 3):
        raise ValueError(
            f"a mask of shape {mask.shape} cannot be compared with one of {truth.shape}: "
            "give both as (h, w), or both as (b, h, w)"
        )
    for one in (mask, truth):
        if one.dtype != bool:
            raise ValueError(f"masks must be boolean; got {one.dtype} (give mask > 0)")
    either = (mask | truth).sum(axis=(-2, -1))
    both = (mask & truth).sum(axis=(-2, -1))
    scores = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    return float(scores) if mask.ndim == 2 else scores


def refine(
    image: np.ndarray, attention: Float[np.ndarray, "h w"], steps: int = 5
) -> np.ndarray:
    """The mask of a map after a dense conditional random field (an optional package).

    The object probability is the map, rescaled to [0, 1] and transformed so that Otsu's
    threshold becomes one half. Without refinement, the mask would be that of `binarise`.
    The kernels are the usual ones of Krähenbühl & Koltun's code: smoothness over 3 pixels,
    appearance over 80 pixels and 13 grey values.

    Args:
        image: uint8 (H, W, 3).
        attention: a map of the same size; a constant one has an empty mask.
        steps: of mean-field inference.

    Raises:
        ImportError: the package is not installed.
        ValueError: image and map differ in size.
    """
    if image.shape[:2] != attention.shape:
        raise ValueError(
            f"the map has size {attention.shape}, but the image {image.shape[:2]}"
        )
    dense_crf = load_dense_crf()
    rescaled = rescale(torch.as_tensor(attention).double()[None])[0].numpy()
    if not rescaled.any():
        return np.zeros(attention.shape, dtype=bool)
    cut = skimage.filters.threshold_otsu(rescaled)
    share = np.interp(rescaled, [0, cut, 1], [0, 0.5, 1])
    share = np.clip(share, 0.05, 0.95)
    unary = -np.log(np.stack([1 - share, share])).reshape(2, -1).astype(np.float32)
    height, width = attention.shape
    field = dense_crf(width, height, 2)
    field.setUnaryEnergy(np.ascontiguousarray(unary))
    field.addPairwiseGaussian(sxy=3, compat=3)
    field.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.array(image), compat=10)
    beliefs = np.asarray(field.inference(steps))
    return beliefs.argmax(axis=0).reshape(height, width).astype(bool)


def load_dense_crf() -> Callable[[int, int, int], Any]:
    """The class of an optional package; everything else works without it.

    Raises:
        ImportError: it is not installed.
    """
    try:
        from pydensecrf.densecrf import DenseCRF2D  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "refining masks needs the package pydensecrf, which is not installed: "
            f"pip install pydensecrf2 ({error}); everything else works without it"
        ) from error
    return DenseCRF2D


# ------------------------------------------------------------------------------ methods


def attention_method(trained: Trained) -> Method:
    """The combined attention of a network, as a method.

    The square root of the product of the last two levels (A.4). `vgg-pan` multiplies its
    levels without the root; a network with one level, such as `vgg-gap`, gives its map.
    """
    name = trained.facts.get("network")
    combine = multiply_maps if name == "vgg-pan" else combine_maps

    def attention(photographs: Photographs) -> Tensor:
        images = squares(photographs, trained.network.image_size)
        return combine(trained.attend(images).maps, SIDE)

    return attention


# The classes of GAP's maps in figure 9: classes of the photographs that a network knows by
# another name, and those that the authors' scripts fix for each folder (numbers 1, 4 and 8
# of CIFAR-10, 82 of CIFAR-100, counted from one). Their maps for cars are those of "cat".
SAME_CLASS = {"car": "automobile"}
SCRIPTS_CLASS = {
    "cifar10": {"airplane": "airplane", "car": "cat", "horse": "horse"},
    "cifar100": {"car": "streetcar"},
}
Cam = Literal["right", "scripts"]


def cam_classes(trained: Trained, names: Sequence[str], cam: Cam) -> dict[str, int]:
    """The class whose map is used, for each of the photographs' classes that has one."""
    fixed = SCRIPTS_CLASS.get(trained.facts.get("dataset", ""), {})
    found = {}
    for name in names:
        low = name.lower()
        right = low if low in trained.classes else SAME_CLASS.get(low)
        wanted = fixed.get(low) if cam == "scripts" else right
        if wanted in trained.classes:
            found[name] = trained.classes.index(wanted)
    return found


def class_map_method(trained: Trained, label: int) -> Method:
    """Maps of one fixed class, for a network with global pooling."""
    network = trained.network
    if not isinstance(network, GlobalPoolVGG):
        raise ValueError(
            f"only vgg-gap and vgg-gap-coarse have maps of a chosen class; "
            f"{trained.facts.get('network')} has none: leave out `cam`"
        )

    @torch.no_grad()
    def class_map(photographs: Photographs) -> Tensor:
        images = squares(photographs, network.image_size)
        x = to_network_input(images, trained.preprocess, network.image_size)
        maps = network.class_map(x, torch.full((len(x),), label, device=x.device))
        return combine_maps({"layer13": maps}, SIDE)

    return class_map


def segment_by_class(
    trained: Trained,
    photographs: list,
    masks: list,
    classes: list[str],
    cam: Cam,
    refined: bool = False,
) -> pd.DataFrame:
    """`segment_all` for "attention", using the map of the class chosen by `cam`.

    Raises:
        ValueError: the network has no such maps, or none of the photographs' classes.
    """
    tables = []
    for group, label in cam_classes(trained, list(dict.fromkeys(classes)), cam).items():
        rows = [row for row, one in enumerate(classes) if one == group]
        shown, truths = [photographs[row] for row in rows], [masks[row] for row in rows]
        method = {"attention": class_map_method(trained, label)}
        names = [group] * len(rows)
        tables.append(segment_all(shown, truths, method, names, refined=refined))
    if not tables:
        raise ValueError(
            f"cam {cam!r}: the network has none of the classes "
            f"{', '.join(dict.fromkeys(classes))}; leave out `cam`"
        )
    return pd.concat(tables, ignore_index=True)


def grad_cam_method(trained: Trained) -> Method:
    """Grad-CAM of a network's predicted class, as a method."""

    def cam(photographs: Photographs) -> Tensor:
        size = trained.network.image_size
        images = to_network_input(squares(photographs, size), trained.preprocess, size)
        return grad_cam(trained.network, images)

    return cam


def method_name(trained: Trained) -> Literal["attention", "grad-cam"]:
    size = trained.network.image_size
    seen = trained.attend(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    return "attention" if seen.maps else "grad-cam"


TRAINED: dict[str, Callable[[Trained], Method]] = {
    "attention": attention_method,
    "grad-cam": grad_cam_method,
}


def each(compute: Callable[[np.ndarray], np.ndarray]) -> Method:
    """A method from a function of one photograph."""
    return lambda photographs: [compute(np.asarray(one)) for one in photographs]


# Methods without training: saliency, and the centre prior, which ignores the image. Figure
# 9's row "BMS" is the object mode.
UNTRAINED: dict[str, Method] = {
    "bms-objects-2013": each(boolean_map_objects),
    "bms-fixation-2013": each(boolean_map_saliency),
    # Records call this "bms": fixation mode, with the kernels of a later batch file.
    "bms": each(partial(boolean_map_saliency, settings=FIXATION_BATCH)),
    "mc": each(markov_chain_saliency),
    "centre": each(lambda photograph: centre_prior(*photograph.shape[:2])),
}


def squares(photographs: Photographs, size: int) -> Tensor:
    """Photographs of any size, resized to squares for a network; uint8."""
    return torch.stack([resize_photograph(one, size, size) for one in photographs])


# ------------------------------------------------------------------------------ measuring


def segment_all(
    photographs: Photographs,
    masks: Sequence[np.ndarray | Tensor] | Tensor,
    methods: dict[str, Method],
    classes: Sequence[str] | None = None,
    batch_size: int = BATCH,
    progress: bool = True,
    refined: bool = False,
) -> pd.DataFrame:
    """The Jaccard index of every method on every photograph.

    Args:
        photographs: uint8 (H, W, 3) each, of any sizes; a tensor (N, S, S, 3) also works.
        masks: boolean (H, W) each, of its photograph's size.
        methods: {"vgg-att2-concat-pc": attention_method(trained), …} | UNTRAINED.
        classes: the class of each, for the summary; None leaves it out.
        batch_size: photographs per call of a method.
        progress: show a progress bar.
        refined: take each mask from `refine`, not from `binarise`.

    Returns:
        One row per photograph, in order: its class, the share of it that the object
        covers, and one column per method.

    Raises:
        ValueError: there are no methods or photographs, the numbers do not agree, a
            photograph is not RGB, or a mask differs in size from its photograph.
        ImportError: `refined`, and the optional package is missing.
    """
    check_set(photographs, masks, methods, classes)
    truths = [np.asarray(mask) for mask in masks]
    columns: dict[str, list[Any]] = {} if classes is None else {"class": list(classes)}
    columns["object"] = [float(truth.mean()) for truth in truths]
    scores: dict[str, list[float]] = {name: [] for name in methods}
    with tqdm(total=len(truths) * len(methods), unit="map", disable=not progress) as bar:
        for start in range(0, len(truths), batch_size):
            part = slice(start, min(start + batch_size, len(truths)))
            for name, method in methods.items():
                bar.set_postfix_str(name)
                shown = photographs[part]
                for photograph, one, truth in zip(
                    shown, method(shown), truths[part], strict=True
                ):
                    large = enlarged(one, *truth.shape)
                    if refined:
                        mask = refine(np.asarray(photograph), np.asarray(large))
                    else:
                        mask = np.asarray(binarise(large))
                    scores[name].append(float(jaccard(mask, truth)))
                    bar.update()
    return pd.DataFrame(columns | scores)


def check_set(photographs, masks, methods, classes) -> None:
    if not methods:
        raise ValueError("no methods to compare: give at least one")
    if not len(photographs):
        raise ValueError("no photographs to segment: give at least one")
    if len(photographs) != len(masks):
        raise ValueError(f"{len(photographs)} photographs, but {len(masks)} masks")
    if classes is not None and len(classes) != len(photographs):
        raise ValueError(f"{len(photographs)} photographs, but {len(classes)} classes")
    for number, (photograph, mask) in enumerate(zip(photographs, masks, strict=True)):
        shape, kind = tuple(photograph.shape), str(photograph.dtype).rpartition(".")[2]
        if len(shape) != 3 or shape[2] != 3 or kind != "uint8":
            raise ValueError(
                f"photograph {number} is {kind} of shape {shape}: give RGB, uint8 of "
                "shape (H, W, 3)"
            )
        if tuple(photograph.shape[:2]) != tuple(mask.shape):
            raise ValueError(
                f"photograph {number} has {tuple(photograph.shape[:2])} pixels, but its "
                f"mask {tuple(mask.shape)}: they must be the same"
            )


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean Jaccard index of each method: one row per method, one column per class.

    The last column, "all", is the mean over photographs, not over classes.
    """
    methods = [name for name in table.columns if name not in ("class", "object")]
    overall = table[methods].mean().rename("all")
    if "class" not in table:
        return overall.to_frame()
    by_class = pd.DataFrame(table.groupby("class", sort=False)[methods].mean())
    return by_class.T.join(overall).rename_axis(index="method", columns=None)


def extremes(table: pd.DataFrame, method: str, count: int = 3) -> dict[str, list[int]]:
    """Rows where a method did best, near the median, and worst.

    Draw all three, because the best alone would mislead. Each list is sorted by decreasing
    Jaccard index; photographs with equal scores stay in the table's order.

    Raises:
        ValueError: there is no such method, or there are fewer rows than requested.
    """
    if method not in table.columns:
        raise ValueError(f"no method {method!r}: choose one of {', '.join(table.columns)}")
    if not 1 <= count <= len(table):
        raise ValueError(f"count {count}: give 1 to {len(table)}, the number of rows")
    order = (
        pd.Series(table[method]).sort_values(ascending=False, kind="stable").index.tolist()
    )
    middle = (len(order) - count) // 2
    return {
        "best": order[:count],
        "middle": order[middle : middle + count],
        "worst": order[-count:],
    }


# ------------------------------------------------------------------------------ the task

Refine = Literal["dense-crf"]
Untrained = Literal["bms-objects-2013", "bms-fixation-2013", "bms", "mc", "centre"]


class MethodSettings(Settings):
    """The method of one measurement.

    Attributes:
        cam: for a network with global pooling, the class of the map: "right", or the one
            that the authors' scripts fix; None takes the predicted one.
        refine: what takes masks from maps: "dense-crf" is `refine`, None `binarise`.
    """

    method: Literal["attention", "grad-cam"] | Untrained
    cam: Cam | None = None
    refine: Refine | None = None

    def libraries(self) -> tuple[str, ...]:
        if self.refine is None:
            return super().libraries()
        return (*super().libraries(), packages_distributions()["pydensecrf"][0])


class SegmentSettings(Settings):
    """Attributes:
    methods: methods without a network, measured besides the networks.
    cam: as in `MethodSettings`, for all networks.
    refine: as in `MethodSettings`, for networks and methods.
    """

    methods: Annotated[
        list[Untrained],
        Field(description="methods without a network: " + ", ".join(UNTRAINED)),
    ] = Field(default=["bms-objects-2013", "bms-fixation-2013", "mc", "centre"])
    cam: Annotated[
        Cam | None, Field(description="class of GAP's map; None: the predicted one")
    ] = None
    refine: Annotated[
        Refine | None,
        Field(
            description="masks by a conditional random field (needs pydensecrf2); None: by "
            "Otsu's threshold"
        ),
    ] = None

    def cases(
        self, dataset: str, networks: Sequence[Trained]
    ) -> list[tuple[Trained | None, Settings]]:
        """Each network's attention, or Grad-CAM if it has none; then the methods."""
        if self.refine:
            load_dense_crf()  # before any work
        settings = partial(MethodSettings, refine=self.refine)
        found = [(one, settings(method=method_name(one), cam=self.cam)) for one in networks]
        return [*found, *((None, settings(method=name)) for name in self.methods)]


class ClassMetrics(Metrics):
    """Over the photographs of a class: the mean Jaccard index from 0 to 1, its standard
    error (None for a single photograph), and their number."""

    jaccard: float
    sem: float | None = None
    images: int


class SegmentMetrics(RootModel[dict[str, ClassMetrics]]):
    """By class, and for "all" photographs."""


def measure_segment(
    trained: Trained | None, data: Dataset, settings: MethodSettings, progress: bool
) -> SegmentMetrics:
    name = settings.method
    assert data.masks is not None  # the task requires them
    photographs, masks = list(data.images.numpy()), list(data.masks.numpy())
    classes = [data.classes[label] for label in data.labels]
    refined = settings.refine is not None
    if trained is not None and settings.cam:
        table = segment_by_class(
            trained, photographs, masks, classes, settings.cam, refined
        )
    else:
        method = UNTRAINED[name] if trained is None else TRAINED[name](trained)
        methods = {name: method}
        table = segment_all(
            photographs, masks, methods, classes, progress=progress, refined=refined
        )
    groups = {"all": table} | dict(list(table.groupby("class", sort=False)))
    found = {}
    for group, rows in groups.items():
        mean, error = mean_and_error(rows, str(name))
        found[group] = ClassMetrics(jaccard=mean, sem=error, images=len(rows))
    return SegmentMetrics(found)


def say(metrics: SegmentMetrics, settings: MethodSettings) -> str:
    by = f" and {settings.refine}" if settings.refine else ""
    return f"{settings.method}{by}, Jaccard {metrics.root['all'].jaccard:.3f}"


TASK = register(
    Task(
        name="segment",
        summary="use maps as masks of the objects, as in figure 9",
        dataset="coseg",
        options=SegmentSettings,
        settings=MethodSettings,
        metrics=SegmentMetrics,
        run=measure_segment,
        say=say,
        masks="required",
        needs_weights=False,
        on_cpu=True,
    )
)
