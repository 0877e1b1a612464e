"""Sets that can be fetched: by torchvision, or from their own address with a checksum.

Each function is given a folder of its own and returns the arrays of a prepared file. What
it downloads goes into that folder, which is deleted afterwards, whatever happens.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lpa_core.data.cub import first_classes, read_cub
from lpa_core.data.dataset import DataError
from lpa_core.data.folders import read_class_folders
from lpa_core.data.masks import DISCOVERED

__all__ = [
    "Archive",
    "fetch_caltech101",
    "fetch_caltech256",
    "fetch_cifar10",
    "fetch_cifar100",
    "fetch_cub50",
    "fetch_cub200",
    "fetch_object_discovery",
    "fetch_stl10",
    "fetch_svhn",
    "read_cub50",
    "unpack",
]


@dataclass(frozen=True)
class Archive:
    """A published file: its address, its name, and its MD5 where the owners' is known."""

    url: str
    name: str
    md5: str | None = None


CUB = Archive(
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    "CUB_200_2011.tgz",
    "97eceeb196236b17998738112f37df78",
)
OBJECT_DISCOVERY = Archive(
    "http://people.csail.mit.edu/mrub/ObjectDiscovery/ObjectDiscovery-data.zip",
    "ObjectDiscovery-data.zip",
)


def unpack(archive: Archive, folder: Path) -> None:
    """Fetch an archive and unpack it into `folder`.

    One that lies beside `folder` already, placed by hand, is taken instead.

    Raises:
        DataError: the file placed by hand is not the published one.
    """
    from torchvision.datasets.utils import (
        check_integrity,
        download_url,
        extract_archive,
    )

    file = folder.parent / archive.name
    if file.exists():
        if not check_integrity(str(file), archive.md5):
            raise DataError(
                f"{file} is truncated or altered: its MD5 is not {archive.md5}. Fetch it "
                f"again from {archive.url}, or delete it"
            )
    else:
        file = folder / archive.name
        download_url(archive.url, str(folder), archive.name, archive.md5)
    extract_archive(str(file), str(folder))


def by_class(x: np.ndarray, y, split: str) -> dict[str, np.ndarray]:
    """One split's arrays in the order of their classes."""
    y = np.asarray(y, dtype=np.int64)
    order = np.argsort(y, kind="stable")
    return {f"x_{split}": np.ascontiguousarray(x[order]), f"y_{split}": y[order]}


def fetch_cifar10(folder: Path) -> dict[str, np.ndarray]:
    """CIFAR-10 by torchvision, which verifies its checksum, in the order of its classes."""
    from torchvision.datasets import CIFAR10

    return cifar(CIFAR10, folder, download=True)


def fetch_cifar100(folder: Path, download: bool = True) -> dict[str, np.ndarray]:
    """CIFAR-100, as CIFAR-10; its labels are the hundred fine ones."""
    from torchvision.datasets import CIFAR100

    return cifar(CIFAR100, folder, download)


def cifar(kind, folder: Path, download: bool) -> dict[str, np.ndarray]:
    arrays = {}
    for split in ("train", "test"):
        data = kind(str(folder), train=split == "train", download=download)
        arrays |= by_class(data.data, data.targets, split)
    return arrays | {"classes": np.array(data.classes)}


def fetch_svhn(
    folder: Path, splits: tuple[str, ...] = ("train", "test"), download: bool = True
) -> dict[str, np.ndarray]:
    """SVHN by torchvision, which verifies its checksums and makes the label 10 a 0."""
    from torchvision.datasets import SVHN

    arrays = {"classes": np.array([str(digit) for digit in range(10)])}
    for split in splits:
        data = SVHN(str(folder / "svhn"), split=split, download=download)
        arrays |= by_class(data.data.transpose(0, 2, 3, 1), data.labels, split)
    return arrays


def fetch_stl10(folder: Path, download: bool = True) -> dict[str, np.ndarray]:
    """STL-10 by torchvision, which verifies its checksums, at its 96x96 pixels."""
    from torchvision.datasets import STL10

    arrays = {}
    for split in ("train", "test"):
        data = STL10(str(folder), split=split, download=download)
        arrays |= by_class(data.data.transpose(0, 2, 3, 1), data.labels, split)
    return arrays | {"classes": np.array(data.classes)}


def fetch_caltech101(folder: Path) -> dict[str, np.ndarray]:
    """Caltech-101 by torchvision, which verifies its checksum; no background class."""
    from torchvision.datasets import Caltech101

    Caltech101(str(folder), download=True)
    return read_caltech101(folder / "caltech101")


def read_caltech101(root: Path) -> dict[str, np.ndarray]:
    return read_class_folders(root / "101_ObjectCategories", skip=["BACKGROUND_Google"])


def fetch_caltech256(folder: Path) -> dict[str, np.ndarray]:
    """Caltech-256 by torchvision, which verifies its checksum; no clutter class."""
    from torchvision.datasets import Caltech256

    Caltech256(str(folder), download=True)
    return read_caltech256(folder / "caltech256")


def read_caltech256(root: Path) -> dict[str, np.ndarray]:
    return read_class_folders(root / "256_ObjectCategories", skip=["257.clutter"])


def fetch_cub200(folder: Path) -> dict[str, np.ndarray]:
    """Caltech-UCSD Birds: 200 species, cropped to their boxes, 80x80."""
    unpack(CUB, folder)
    return read_cub(folder / "CUB_200_2011")


def fetch_cub50(folder: Path) -> dict[str, np.ndarray]:
    """Their first 50 species, as `fetch_cub200`."""
    unpack(CUB, folder)
    return read_cub(folder / "CUB_200_2011", 50)


def read_cub50(root: Path) -> dict[str, np.ndarray]:
    """From the prepared cub200 where that is there, else from the unpacked folder."""
    prepared = root / "cub200.npz"
    if prepared.exists():
        return first_classes(prepared, 50)
    return read_cub(root / "CUB_200_2011", 50)


def fetch_object_discovery(folder: Path) -> Path:
    """The three classes with masks, as the folder that belongs into the data folder."""
    unpack(OBJECT_DISCOVERY, folder)
    place = folder / "object_discovery"
    place.mkdir()
    for name in DISCOVERED:
        os.replace(folder / "Data" / f"{name}100", place / f"{name}100")
    shutil.rmtree(folder / "Data")
    return place
