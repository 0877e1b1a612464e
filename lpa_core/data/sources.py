"""Where data sets come from: a prepared file, a folder, a download, or a generator.

To add one, write one entry in `SOURCES`. It only needs its splits, its origin and its
number of classes: the set is then read from `NAME.npz` in the data folder (see
`lpa_core.data.dataset`). With `read` it is prepared from a folder, with `prepare` it is
downloaded.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from lpa_core.data import downloads
from lpa_core.data.cub import CLASSES, read_birds
from lpa_core.data.dataset import (
    Arrays,
    DataError,
    Dataset,
    count_arrays,
    count_prepared,
    data_folder,
    fingerprint,
    read_prepared,
    save_prepared,
)
from lpa_core.data.embedded import COUNTS, make_embedded
from lpa_core.data.own import SPLITS, count_own, load_own, own_files, own_path
from lpa_core.data.photographs import (
    Masked,
    count_masked,
    read_class_folders,
    read_coseg,
    read_named_files,
    read_object_discovery,
    resize_all,
)

__all__ = [
    "SOURCES",
    "Source",
    "check_dataset",
    "count_images",
    "list_datasets",
    "load",
    "prepared_path",
    "source_of",
]


@dataclass(frozen=True)
class Source:
    """Where a set comes from and how to check it.

    `load` rejects a set whose images do not match its fingerprints or its counts. A subset
    therefore needs an entry and a name of its own, like cub50.

    Attributes:
        splits: what `load` takes as `split`.
        origin: where it comes from, for readers.
        class_count: how many classes there are.
        prepare: downloads the set into a temporary folder and returns the arrays of a
            prepared file (for sets with masks: the folder); None if users must place the
            set themselves.
        placed: paths in the data folder; `read` needs one of them.
        read: reads the arrays of a prepared file from the data folder.
        fingerprints: of the published images, by split, where they are known.
        counts: how many images each split has; several numbers if the owners and the
            paper differ.
        mirrors: whether an image stays in its class when it is mirrored.
        photographs: whether this package resizes the set. Its pixels then depend on a
            library's version, so only the counts of a file made here are checked.
        masked: reads photographs and masks from the set's folder, at any size. Such a
            set has no prepared file.
        apart: splits that are prepared separately, as NAME-SPLIT.npz, because of their
            size.
        together: whether the prepared file has both splits in one array, with is_train.
        size: the default pixels per side of `load`; None if there is only one size.
        citation: the key of its paper in the book's references.
        licence: what its owners allow, for readers.
    """

    splits: tuple[str, ...]
    origin: str
    class_count: int
    prepare: Callable[[Path], Any] | None = None
    placed: tuple[str, ...] = ()
    read: Callable[[Path], Arrays] | None = None
    fingerprints: dict[str, str] | None = None
    counts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    mirrors: bool = True
    photographs: bool = False
    masked: Callable[[Path, int], Masked] | None = None
    apart: "dict[str, Source]" = field(default_factory=dict)
    together: bool = False
    size: int | None = None
    citation: str = ""
    licence: str = "see the set's page"


def in_folder(read: Callable[[Path], Arrays], name: str) -> dict[str, Any]:
    """The fields of a set that `read` makes from a folder in the data folder."""
    return {"placed": (name,), "read": lambda root: read(root / name), "photographs": True}


def torchvision(name: str, *splits: str) -> dict[str, Any]:
    """The fields of a set that torchvision downloads and reads."""
    fetch = partial(downloads.from_torchvision, name, splits=splits or ("train", "test"))
    return {"prepare": partial(fetch, download=True), "read": fetch}


def caltech(name: str) -> dict[str, Any]:
    """The fields of Caltech101 or Caltech256."""
    return {
        "prepare": partial(downloads.fetch_caltech, name=name),
        "placed": downloads.CALTECH[name][:1],
        "read": partial(downloads.read_caltech, name=name),
        "photographs": True,
    }


def birds(name: str, origin: str, train: int, test: int) -> Source:
    """CUB-200-2011 or some of its classes, which a prepared cub200 also provides."""
    folder = "CUB_200_2011/images"  # the lists without the photographs are not enough
    return Source(
        splits=("train", "test"),
        origin=origin,
        class_count=len(CLASSES[name]),
        prepare=partial(downloads.fetch_cub, name=name),
        placed=(folder,) if name == "cub200" else ("cub200.npz", folder),
        read=partial(read_birds, name=name),
        counts={"train": (train,), "test": (test,)},
        photographs=True,
        together=True,
        citation="Wah2011",
        licence="for non-commercial research and teaching; see the set's page",
    )


SOURCES = {
    "embedded": Source(
        splits=("train", "test", "shifted"),
        origin="made on the spot from scikit-learn's digits and scikit-image's textures",
        class_count=10,
        mirrors=False,
        citation="Pedregosa2011",
        licence="made of what scikit-learn and scikit-image ship; see their pages",
    ),
    "cifar10": Source(
        splits=("train", "test"),
        origin="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        class_count=10,
        **torchvision("CIFAR10"),
        placed=("cifar-10-batches-py",),
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
        class_count=100,
        **torchvision("CIFAR100"),
        placed=("cifar-100-python",),
        fingerprints={
            "train": "6676d4e3e525e57c74528a9aae36f3f7826e3d01eefde70aa649ada5cc8d682a",
            "test": "aa2ca36ecdfa1e7d38bb1a352a3e6545ce2cb0e31355c1cc6795808073630715",
        },
        counts={"train": (50000,), "test": (10000,)},
        citation="Krizhevsky2009",
        licence="none stated; its owner asks to cite the report",
    ),
    "svhn": Source(
        splits=("train", "test", "extra"),
        origin="http://ufldl.stanford.edu/housenumbers/",
        class_count=10,
        **torchvision("SVHN"),
        placed=("svhn/train_32x32.mat",),
        counts={"train": (73257,), "test": (26032,)},
        mirrors=False,
        apart={
            "extra": Source(
                splits=("extra",),
                origin="http://ufldl.stanford.edu/housenumbers/extra_32x32.mat",
                class_count=10,
                **torchvision("SVHN", "extra"),
                placed=("svhn/extra_32x32.mat",),
                counts={"extra": (531131,)},
                mirrors=False,
            )
        },
        citation="Netzer2011",
        licence="for non-commercial use; see the set's page",
    ),
    "cub200": birds("cub200", downloads.CUB.url, train=5994, test=5794),
    "cub50": birds(
        "cub50", f"the first 50 classes of cub200, {downloads.CUB.url}", 1500, 1389
    ),
    "cub127": birds("cub127", f"127 classes of cub200, {downloads.CUB.url}", 3809, 3647),
    "stl10": Source(
        splits=("train", "test"),
        origin="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        class_count=10,
        **torchvision("STL10"),
        placed=("stl10_binary",),
        counts={"train": (5000,), "test": (8000,)},
        size=32,
        citation="Coates2011",
    ),
    "caltech101": Source(
        splits=("all",),
        origin="https://data.caltech.edu/records/mzrjq-6wc02",
        class_count=101,
        **caltech("Caltech101"),
        fingerprints={
            "all": "ca65f261bbcdc856b02e1cd3051930a1d3e1b5580d488445e3e8a3ee7797df40"
        },
        counts={"all": (8677,)},
        citation="FeiFei2006",
    ),
    "caltech256": Source(
        splits=("all",),
        origin="https://data.caltech.edu/records/nyy15-4j048",
        class_count=256,
        **caltech("Caltech256"),
        counts={"all": (29780,)},
        citation="Griffin2007",
    ),
    "event8": Source(
        splits=("all",),
        origin="http://vision.stanford.edu/lijiali/event_dataset/event_dataset.rar",
        class_count=8,
        **in_folder(read_class_folders, "event_dataset"),
        counts={"all": (1574, 1579)},
        citation="Li2007",
    ),
    "action40": Source(
        splits=("all",),
        origin="http://vision.stanford.edu/Datasets/Stanford40_JPEGImages.zip",
        class_count=40,
        **in_folder(read_named_files, "Stanford40/JPEGImages"),
        fingerprints={
            "all": "83f2497b2073b245273e6d543ca1411af2e52cee55d89cc1f0e664fc9817feb1"
        },
        counts={"all": (9532,)},
        citation="Yao2011",
    ),
    "scene67": Source(
        splits=("all",),
        origin="http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar",
        class_count=67,
        **in_folder(read_class_folders, "indoorCVPR_09/Images"),
        counts={"all": (15613, 15620)},
        citation="Quattoni2009",
    ),
    "coseg": Source(
        splits=("all",),
        origin="http://people.csail.mit.edu/mrub/ObjectDiscovery/, its co-segmentation "
        "photographs, as CLASS/images/*.jpg and CLASS/masks/*.png",
        class_count=7,
        masked=read_coseg,
        counts={"all": (451,)},
        size=32,
        citation="Rubinstein2013",
    ),
    "object_discovery": Source(
        splits=("all",),
        origin=downloads.OBJECT_DISCOVERY.url,
        class_count=3,
        prepare=downloads.fetch_object_discovery,
        masked=read_object_discovery,
        counts={"all": (300,)},
        size=32,
        citation="Rubinstein2013",
    ),
}


def list_datasets() -> list[str]:
    """The names that `load` takes."""
    return list(SOURCES)


def check_dataset(name: str) -> str:
    """`name` itself, if it names a set or is the path of your own.

    A path without a slash gets one, so that it remains a path where the folder is missing.
    """
    if name in SOURCES:
        return name
    path = own_path(name)
    if path is None:
        raise ValueError(
            f"unknown data set {name!r}: choose one of {', '.join(SOURCES)} "
            "(lpa_core.data.list_datasets()), or give the path of a folder of your own"
        )
    return name if "/" in name or "\\" in name else f"./{name}"


def source_of(name: str) -> Source:
    """The entry of a set, or one made for your own set.

    Raises:
        ValueError: unknown name.
        DataError: your own set does not exist or cannot be read.
    """
    if check_dataset(name) in SOURCES:
        return SOURCES[name]
    path = own_path(name)
    assert path is not None
    if path.suffix == ".npz":
        data = load_own(path, "train" if "train" in count_own(path) else "all")
        return Source((*count_own(path), "all"), str(path), len(data.classes))
    files = own_files(path)
    masked = read_coseg if files.masked else None
    return Source(SPLITS, str(path), len(files.classes), masked=masked, size=32)


def load(
    name: str,
    split: str = "train",
    root: str | Path | None = None,
    size: int | None = None,
) -> Dataset:
    """One split of a data set, downloaded and prepared on first use.

    Args:
        name: one of `list_datasets()`, or the path of your own set (`lpa_core.data.own`).
        split: "train", "test", or another split of the set; "all" if it has no official
            split.
        root: the folder of the prepared files; see `data_folder`.
        size: pixels per side, only for stl10, the sets with masks and your own; 32 by
            default.

    Raises:
        ValueError: unknown name or split, or a size for a set that has only one.
        DataError: the set is not available, or its file is truncated, altered or
            incomplete. Nothing is written then.
    """
    if check_dataset(name) not in SOURCES and (path := own_path(name)):
        return load_own(path, split, size)
    source = SOURCES[name]
    if split not in source.splits:
        raise ValueError(
            f"{name} has no split {split!r}: choose one of {', '.join(source.splits)}"
        )
    size = check_size(name, source, size)
    if name == "embedded":
        images, labels, masks, classes = make_embedded(split)
    elif source.masked:
        images, labels, masks, classes = load_masked(name, source, root, size or 32)
    else:
        return load_prepared(name, split, root, size)
    actual = fingerprint(images, labels)
    return Dataset(images, labels, classes, masks, actual, source.mirrors)


def check_size(name: str, source: Source, size: int | None) -> int | None:
    if size is None:
        return source.size
    if source.size is None:
        several = ", ".join(name for name, source in SOURCES.items() if source.size)
        raise ValueError(
            f"{name} comes at one size, so leave out size={size}; these come at any size: "
            f"{several}, and folders of your own"
        )
    if size < 1:
        raise ValueError(f"size {size}: give at least 1 pixel a side")
    return size


def load_prepared(
    name: str, split: str, root: str | Path | None, size: int | None
) -> Dataset:
    """A split of a prepared file, checked against the known counts and fingerprints."""
    path = prepared_path(name, split, root)
    source = SOURCES[name].apart.get(split, SOURCES[name])
    if not path.exists():
        prepare(name, source, path)
    arrays = read_prepared(path, split, advise_damaged(source))
    images = torch.from_numpy(arrays["x"])
    labels = torch.from_numpy(arrays["y"].astype(np.int64))
    classes = [str(c) for c in arrays["classes"]]
    check_counts(name, split, source, path, len(labels), len(classes))
    resized_here = source.photographs and "resized_by" in arrays
    expected = None if resized_here else (source.fingerprints or {}).get(split)
    actual = fingerprint(images, labels)
    if expected and actual != expected:
        raise DataError(
            f"{path} is not {name} as published: its {split} split has the fingerprint "
            f"{actual} and {len(labels.unique())} classes, expected {expected} and "
            f"{source.class_count} classes. {ALTERED}"
        )
    if size is not None and size != images.shape[1]:
        images = torch.from_numpy(resize_all(images.numpy(), size))
        actual = fingerprint(images, labels)
    return Dataset(images, labels, classes, None, actual, source.mirrors)


def check_counts(
    name: str, split: str, source: Source, path: Path, images: int, classes: int
) -> None:
    """Check the numbers of images and classes of a split, if they are known."""
    expected = source.counts.get(split)
    if expected and (images not in expected or classes != source.class_count):
        raise DataError(
            f"{path} is not all of {name}: its {split} split has {images} images of "
            f"{classes} classes, expected {' or '.join(map(str, expected))} of "
            f"{source.class_count}. {ALTERED}"
        )


def advise_damaged(source: Source) -> str:
    again = f", or move it away to download it again from {source.origin}"
    return f"replace it with a complete one{again if source.prepare else ''}"


ALTERED = (
    "Replace it with the published one; to use images of your own, give the path of their "
    "folder or file instead of a name."
)


def load_masked(name: str, source: Source, root: str | Path | None, size: int) -> Masked:
    """A set of photographs and masks, read from its folder and resized."""
    folder = data_folder(root) / name
    if not folder.is_dir():
        with fetched(name, source, folder) as downloaded:
            os.replace(downloaded, folder)
    assert source.masked
    images, labels, masks, classes = source.masked(folder, size)
    check_counts(name, "all", source, folder, len(labels), len(classes))
    return images, labels, masks, classes


def prepared_path(name: str, split: str, root: str | Path | None) -> Path:
    """Where the prepared file of a split is, or would be."""
    apart = SOURCES[name].apart
    return data_folder(root) / (f"{name}-{split}.npz" if split in apart else f"{name}.npz")


def prepare(name: str, source: Source, path: Path) -> None:
    """Prepare a set from placed files or a download, and write it whole or not at all."""
    here = [path.parent / p for p in source.placed if (path.parent / p).exists()]
    if here:
        keep(name, source, path, here[0], read_placed(name, source, here[0], path.parent))
        return
    with fetched(name, source, path) as arrays:
        keep(name, source, path, Path(path.name), arrays)


def keep(name: str, source: Source, path: Path, origin: Path, arrays: Arrays) -> None:
    """Write the prepared file if it is complete."""
    for split, count in count_arrays(arrays).items():
        check_counts(name, split, source, origin, count, len(arrays["classes"]))
    save_prepared(path, arrays)


def read_placed(name: str, source: Source, placed: Path, root: Path) -> Arrays:
    assert source.read
    try:
        return source.read(root)
    except DataError:
        raise
    except Exception as error:  # a folder may be incomplete in any way
        raise DataError(
            f"{name} could not be prepared from {placed} ({type(error).__name__}: "
            f"{error}): unpack it there again from {source.origin}"
        ) from error


# Errors of the disk rather than of the download: another address would not help.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG}


@contextmanager
def fetched(name: str, source: Source, path: Path) -> Iterator[Any]:
    """What `source.prepare` returns; its temporary folder exists within the context."""
    advice = advise_missing(name, source, path)
    if source.prepare is None:
        raise DataError(advice)
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = TemporaryDirectory(dir=path.parent, prefix=".download-")
            content = source.prepare(Path(stack.enter_context(folder)))
        except DataError:
            raise
        except Exception as error:  # a library's download may fail in any way
            if isinstance(error, OSError) and error.errno in DISK:
                raise DataError(
                    f"{name} cannot be downloaded: {error.filename or path.parent} cannot "
                    f"be written ({error.strerror}). Set $LPA_DATA to another folder"
                ) from error
            raise DataError(f"{advice} ({type(error).__name__}: {error})") from error
        yield content


def advise_missing(name: str, source: Source, path: Path) -> str:
    """What is missing, where it comes from, and which file to put where."""
    failed = "could not be downloaded" if source.prepare else "has to be downloaded by hand"
    if source.masked:
        ways = f"Unpack it as {path}"
    else:
        splits = [split for split in source.splits if split not in source.apart]
        keys = [f"{axis}_{split}" for split in splits for axis in "xy"]
        if source.together:
            keys = ["x_all", "y_all", "is_train"]
        ways = f"Place a prepared {path.name} there (keys {', '.join(keys)}, classes)"
        if source.placed:
            ways += f", put its published files at {path.parent / source.placed[-1]}"
    return (
        f"{name} is not at {path}, and {failed} from {source.origin}. "
        f"{say_incomplete(source, path.parent)}{ways}, "
        "set $LPA_DATA to its folder, or use the set 'embedded', which needs no download."
    )


def say_incomplete(source: Source, root: Path) -> str:
    """A sentence about a folder that exists but lacks what the set is read from."""
    for placed in map(Path, source.placed):
        outer = root / placed.parent
        if placed.parent != Path() and outer.is_dir():
            return f"The folder {outer} is there, but {placed.name} is missing in it. "
    return ""


def count_images(name: str, root: str | Path | None = None) -> dict[str, int]:
    """How many prepared images of each split are here; nothing is downloaded.

    Raises:
        ValueError: unknown name.
        DataError: the prepared file is truncated or damaged.
    """
    if check_dataset(name) not in SOURCES and (path := own_path(name)):
        return count_own(path)
    source = SOURCES[name]
    if name == "embedded":
        return dict(COUNTS)
    if source.masked:
        folder = data_folder(root) / name
        return {"all": count_masked(folder)} if folder.is_dir() else {}
    paths = dict.fromkeys(prepared_path(name, split, root) for split in source.splits)
    counts: dict[str, int] = {}
    for path in paths:
        if path.exists():
            counts |= count_prepared(path, advise_damaged(source))
    return counts
