"""Where data sets come from: a prepared file, a folder, a download, or made on the spot.

A prepared file is `NAME.npz` with uint8 images x_train, x_test (N, H, W, 3), labels
y_train, y_test (N,) and `classes`; a set that keeps both parts in one has x_all, y_all
and, where it has an official split, a boolean is_train. One that was made here from
photographs also says what resized them (resized_by).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from lpa_core.data import downloads
from lpa_core.data.cub import read_cub
from lpa_core.data.dataset import DataError, Dataset, data_folder, fingerprint
from lpa_core.data.embedded import COUNTS, make_embedded
from lpa_core.data.folders import read_class_folders, read_named_files, resize_all
from lpa_core.data.masks import (
    Masked,
    count_masked,
    read_coseg,
    read_object_discovery,
)
from lpa_core.data.prepared import (
    count_prepared,
    image_counts,
    read_prepared,
    save_prepared,
)

__all__ = [
    "SOURCES",
    "Source",
    "check_dataset",
    "count_images",
    "list_datasets",
    "load",
]

Arrays = dict[str, np.ndarray]
ASK = "see the set's page"


@dataclass(frozen=True)
class Source:
    """How a set is had.

    Attributes:
        splits: what `load` takes as `split`.
        origin: where it comes from, for people.
        prepare: fetches the set into a folder of its own and returns the arrays of a
            prepared file (for sets with masks: the folder); None where it must be placed
            by hand.
        fingerprints: of each split, where they are known.
        mirrors: whether an image's mirror image is still one of its class.
        placed: what `read` needs in the data folder, one of these.
        read: returns the arrays of a prepared file from what lies in the data folder.
        masked: reads photographs and masks from the set's folder, at any size. Such a
            set has no prepared file.
        apart: splits that are prepared separately, as NAME-SPLIT.npz, for their size.
        together: whether the prepared file keeps both splits in one, with is_train.
        size: pixels a side that `load` gives if none are asked for; None where there is
            one size only.
        counts: how many images each split has; several numbers where the owners and the
            paper differ. None where a fingerprint or the code itself tells.
        class_count: how many classes there are.
        citation: the key of its paper in the book's references.
        licence: what its owners allow, for people.
    """

    splits: tuple[str, ...]
    origin: str
    prepare: Callable[[Path], Arrays | Path] | None = None
    fingerprints: dict[str, str] | None = None
    mirrors: bool = True
    placed: tuple[str, ...] = ()
    read: Callable[[Path], Arrays] | None = None
    masked: Callable[[Path, int], Masked] | None = None
    apart: "dict[str, Source] | None" = None
    together: bool = False
    size: int | None = None
    counts: dict[str, tuple[int, ...]] | None = None
    class_count: int = 10
    citation: str = ""
    licence: str = ASK


def in_folder(read: Callable[[Path], Arrays], name: str) -> Callable[[Path], Arrays]:
    """`read`, of the folder `name` in the data folder."""
    return lambda root: read(root / name)


SOURCES = {
    "embedded": Source(
        splits=("train", "test", "shifted"),
        origin="made on the spot from scikit-learn's digits and scikit-image's textures",
        mirrors=False,
        citation="Pedregosa2011",
        licence="made of what scikit-learn and scikit-image ship; see their pages",
    ),
    "cifar10": Source(
        splits=("train", "test"),
        origin="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        prepare=downloads.fetch_cifar10,
        fingerprints={
            "train": "4b8d18599822f4b3c242e4d6272ee777feff1b8abbdb421c7e239d74e9e4f173",
            "test": "c91f761068f3511f325614f852ea52846cef7e86f12af3994cc8924ace85edec",
        },
        citation="Krizhevsky2009",
        licence="none stated; its owner asks to cite the report",
    ),
    "cifar100": Source(
        splits=("train", "test"),
        origin="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        prepare=downloads.fetch_cifar100,
        placed=("cifar-100-python",),
        read=partial(downloads.fetch_cifar100, download=False),
        counts={"train": (50000,), "test": (10000,)},
        class_count=100,
        citation="Krizhevsky2009",
        licence="none stated; its owner asks to cite the report",
    ),
    "svhn": Source(
        splits=("train", "test", "extra"),
        origin="http://ufldl.stanford.edu/housenumbers/",
        prepare=downloads.fetch_svhn,
        mirrors=False,
        placed=("svhn/train_32x32.mat",),
        read=partial(downloads.fetch_svhn, download=False),
        apart={
            "extra": Source(
                splits=("extra",),
                origin="http://ufldl.stanford.edu/housenumbers/extra_32x32.mat",
                prepare=partial(downloads.fetch_svhn, splits=("extra",)),
                mirrors=False,
                placed=("svhn/extra_32x32.mat",),
                read=partial(downloads.fetch_svhn, splits=("extra",), download=False),
                counts={"extra": (531131,)},
            )
        },
        counts={"train": (73257,), "test": (26032,)},
        citation="Netzer2011",
        licence="for non-commercial use; see the set's page",
    ),
    "cub200": Source(
        splits=("train", "test"),
        origin=downloads.CUB.url,
        prepare=downloads.fetch_cub200,
        together=True,
        placed=("CUB_200_2011",),
        read=in_folder(read_cub, "CUB_200_2011"),
        counts={"train": (5994,), "test": (5794,)},
        class_count=200,
        citation="Wah2011",
        licence="for non-commercial research and teaching; see the set's page",
    ),
    "cub50": Source(
        splits=("train", "test"),
        origin=f"the first 50 classes of cub200, {downloads.CUB.url}",
        prepare=downloads.fetch_cub50,
        together=True,
        placed=("cub200.npz", "CUB_200_2011"),
        read=downloads.read_cub50,
        counts={"train": (1500,), "test": (1389,)},
        class_count=50,
        citation="Wah2011",
        licence="for non-commercial research and teaching; see the set's page",
    ),
    "stl10": Source(
        splits=("train", "test"),
        origin="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        prepare=downloads.fetch_stl10,
        placed=("stl10_binary",),
        read=partial(downloads.fetch_stl10, download=False),
        size=32,
        counts={"train": (5000,), "test": (8000,)},
        citation="Coates2011",
    ),
    "caltech101": Source(
        splits=("all",),
        origin="https://data.caltech.edu/records/mzrjq-6wc02",
        prepare=downloads.fetch_caltech101,
        fingerprints={
            "all": "ca65f261bbcdc856b02e1cd3051930a1d3e1b5580d488445e3e8a3ee7797df40"
        },
        placed=("101_ObjectCategories",),
        read=downloads.read_caltech101,
        counts={"all": (8677,)},
        class_count=101,
        citation="FeiFei2006",
    ),
    "caltech256": Source(
        splits=("all",),
        origin="https://data.caltech.edu/records/nyy15-4j048",
        prepare=downloads.fetch_caltech256,
        placed=("256_ObjectCategories",),
        read=downloads.read_caltech256,
        counts={"all": (29780,)},
        class_count=256,
        citation="Griffin2007",
    ),
    "event8": Source(
        splits=("all",),
        origin="http://vision.stanford.edu/lijiali/event_dataset/event_dataset.rar",
        placed=("event_dataset",),
        read=in_folder(read_class_folders, "event_dataset"),
        counts={"all": (1574, 1579)},
        class_count=8,
        citation="Li2007",
    ),
    "action40": Source(
        splits=("all",),
        origin="http://vision.stanford.edu/Datasets/Stanford40_JPEGImages.zip",
        fingerprints={
            "all": "83f2497b2073b245273e6d543ca1411af2e52cee55d89cc1f0e664fc9817feb1"
        },
        placed=("Stanford40/JPEGImages",),
        read=in_folder(read_named_files, "Stanford40/JPEGImages"),
        counts={"all": (9532,)},
        class_count=40,
        citation="Yao2011",
    ),
    "scene67": Source(
        splits=("all",),
        origin="http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar",
        placed=("indoorCVPR_09/Images",),
        read=in_folder(read_class_folders, "indoorCVPR_09/Images"),
        counts={"all": (15613, 15620)},
        class_count=67,
        citation="Quattoni2009",
    ),
    "coseg": Source(
        splits=("all",),
        origin="http://people.csail.mit.edu/mrub/ObjectDiscovery/, its co-segmentation "
        "photographs, as CLASS/images/*.jpg and CLASS/masks/*.png",
        masked=read_coseg,
        size=32,
        counts={"all": (451,)},
        class_count=7,
        citation="Rubinstein2013",
    ),
    "object_discovery": Source(
        splits=("all",),
        origin=downloads.OBJECT_DISCOVERY.url,
        prepare=downloads.fetch_object_discovery,
        masked=read_object_discovery,
        size=32,
        counts={"all": (300,)},
        class_count=3,
        citation="Rubinstein2013",
    ),
}


def list_datasets() -> list[str]:
    """Every name that `load` knows."""
    return list(SOURCES)


def check_dataset(name: str) -> str:
    """`name` itself, if there is such a set."""
    if name not in SOURCES:
        raise ValueError(
            f"unknown data set {name!r}: choose one of {', '.join(SOURCES)} "
            "(lpa_core.data.list_datasets())"
        )
    return name


def load(
    name: str,
    split: str = "train",
    root: str | Path | None = None,
    size: int | None = None,
) -> Dataset:
    """One split of a data set, fetched and prepared if it is not there yet.

    Args:
        name: one of `list_datasets()`.
        split: "train", "test", or what else the set has; "all" where it has no official
            split.
        root: the folder of the prepared files; see `data_folder`.
        size: pixels a side, for stl10 and the sets with masks alone; they come at 32 if
            it is not given.

    Raises:
        ValueError: unknown name or split, or a set that comes at one size only.
        DataError: the set cannot be had, or its file is truncated, altered or not
            complete. Nothing is written then.
    """
    source = SOURCES[check_dataset(name)]
    if split not in source.splits:
        raise ValueError(
            f"{name} has no split {split!r}: choose one of {', '.join(source.splits)}"
        )
    size = check_size(name, source, size)
    if name == "embedded":
        images, labels, masks, classes = make_embedded(split)
        found = fingerprint(images, labels)
        return Dataset(images, labels, classes, masks, found, source.mirrors)
    if source.masked:
        return load_masked(name, source, data_folder(root) / name, size)
    path = prepared_path(name, split, root)
    source = (source.apart or {}).get(split, source)
    if not path.exists():
        prepare(name, source, path)
    arrays = read_prepared(path, split)
    images = torch.from_numpy(arrays["x"])
    labels = torch.from_numpy(arrays["y"].astype(np.int64))
    classes = [str(c) for c in arrays["classes"]]
    found = fingerprint(images, labels)
    # Pixels that were resized here depend on the library's version; their number does not.
    pinned = None if "resized_by" in arrays else (source.fingerprints or {}).get(split)
    if pinned:
        check_fingerprint(name, split, path, found, pinned)
    else:
        check_counts(name, split, source, path, len(labels), len(classes))
    if size is not None and size != images.shape[1]:
        images = torch.from_numpy(resize_all(images.numpy(), size))
        found = fingerprint(images, labels)
    return Dataset(images, labels, classes, None, found, source.mirrors)


def check_size(name: str, source: Source, size: int | None) -> int | None:
    if size is None:
        return source.size
    if source.size is None:
        several = ", ".join(name for name, source in SOURCES.items() if source.size)
        raise ValueError(
            f"{name} comes at one size, so leave out size={size}; sets that come at any: "
            f"{several}"
        )
    if size < 1:
        raise ValueError(f"size {size}: give at least 1 pixel a side")
    return size


def check_fingerprint(name: str, split: str, path: Path, found: str, pinned: str) -> None:
    if found != pinned:
        raise DataError(
            f"{path} is not {name} as published: the fingerprint of its {split} split is "
            f"{found}, expected {pinned}. Delete the file to fetch it again, or put an "
            "unaltered one in its place."
        )


def check_counts(
    name: str, split: str, source: Source, path: Path, images: int, classes: int
) -> None:
    wanted = (source.counts or {}).get(split)
    if wanted and (images not in wanted or classes != source.class_count):
        raise DataError(
            f"{path} is not the whole of {name}: its {split} split has {images} images of "
            f"{classes} classes, expected {' or '.join(map(str, wanted))} of "
            f"{source.class_count}. Put a complete one in its place, or delete it to have "
            "it prepared again."
        )


def load_masked(name: str, source: Source, folder: Path, size: int) -> Dataset:
    """A set whose photographs and masks are read from its folder at the size wanted."""
    if not folder.is_dir():
        with fetched(name, source, folder) as got:
            os.replace(got, folder)
    images, labels, masks, classes = source.masked(folder, size)
    check_counts(name, "all", source, folder, len(labels), len(classes))
    found = fingerprint(images, labels)
    return Dataset(images, labels, classes, masks, found, source.mirrors)


def prepared_path(name: str, split: str, root: str | Path | None) -> Path:
    apart = SOURCES[name].apart or {}
    return data_folder(root) / (f"{name}-{split}.npz" if split in apart else f"{name}.npz")


def prepare(name: str, source: Source, path: Path) -> None:
    """Prepare a set, from what was placed or by a download, and write it whole or not."""
    here = [path.parent / p for p in source.placed if (path.parent / p).exists()]
    if here:
        keep(name, source, path, here[0], read_placed(name, source, here[0], path.parent))
        return
    with fetched(name, source, path) as arrays:
        keep(name, source, path, Path(path.name), arrays)


def keep(name: str, source: Source, path: Path, origin: Path, arrays: Arrays) -> None:
    """Write the prepared file, if everything is there."""
    for split, count in image_counts(arrays).items():
        check_counts(name, split, source, origin, count, len(arrays["classes"]))
    save_prepared(path, arrays)


def read_placed(name: str, source: Source, place: Path, root: Path) -> Arrays:
    try:
        return source.read(root)
    except DataError:
        raise
    except Exception as error:  # a folder may be incomplete in any way
        raise DataError(
            f"{name} could not be prepared from {place} ({type(error).__name__}: {error}): "
            f"unpack it there again from {source.origin}"
        ) from error


@contextmanager
def fetched(name: str, source: Source, path: Path) -> Iterator[Any]:
    """What `source.prepare` returns, as long as the folder that it used is there."""
    advice = advise(name, source, path)
    if source.prepare is None:
        raise DataError(advice)
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = TemporaryDirectory(dir=path.parent, prefix=".download-")
            arrays = source.prepare(Path(stack.enter_context(folder)))
        except DataError:
            raise
        except Exception as error:  # a library's download may fail in any way
            raise DataError(f"{advice} ({type(error).__name__}: {error})") from error
        yield arrays


def advise(name: str, source: Source, path: Path) -> str:
    """What is missing, where it comes from, and what to place where."""
    failed = "could not be fetched" if source.prepare else "has to be fetched by hand"
    if source.masked:
        ways = f"Unpack it as {path}"
    else:
        parts = [split for split in source.splits if split not in (source.apart or {})]
        keys = [f"{axis}_{part}" for part in parts for axis in "xy"]
        if source.together:
            keys = ["x_all", "y_all", "is_train"]
        ways = f"Place a prepared {path.name} there (keys {', '.join(keys)}, classes)"
        if source.placed:
            ways += f", or what it publishes as {path.parent / source.placed[-1]}"
    return (
        f"{name} is not at {path}, and {failed} from {source.origin}. {ways}, "
        "name its folder in $LPA_DATA, or use the set 'embedded', which needs no network."
    )


def count_images(name: str, root: str | Path | None = None) -> dict[str, int]:
    """How many images of each split are here, prepared; nothing is fetched.

    Raises:
        ValueError: unknown name.
        DataError: the prepared file is truncated or damaged.
    """
    source = SOURCES[check_dataset(name)]
    if name == "embedded":
        return dict(COUNTS)
    if source.masked:
        folder = data_folder(root) / name
        return {"all": count_masked(folder)} if folder.is_dir() else {}
    paths = dict.fromkeys(prepared_path(name, split, root) for split in source.splits)
    counts: dict[str, int] = {}
    for path in paths:
        counts |= count_prepared(path) if path.exists() else {}
    return counts
