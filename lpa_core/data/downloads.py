"""Sets that can be downloaded: by torchvision, or from their own address.

Each `fetch_…` gets a temporary folder, downloads into it and returns the arrays of a
prepared file. The folder is always deleted afterwards. Each `read_…` reads what the user
put into the data folder.

torchvision verifies the checksum of everything that it downloads before it unpacks it.
"""

import hashlib
import os
import shutil
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from lpa_core.data.cub import read_cub
from lpa_core.data.dataset import Arrays, DataError
from lpa_core.data.photographs import DISCOVERED, read_class_folders

__all__ = [
    "Archive",
    "extract",
    "fetch_caltech",
    "fetch_cub",
    "fetch_object_discovery",
    "from_torchvision",
    "read_caltech",
    "unpack",
]


# Limits on an unpacked archive: several times the largest one that is downloaded here.
MAX_FILES = 100_000
MAX_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Archive:
    """A published file: its address, its name, and its MD5 if its owners publish one."""

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


# ------------------------------------------------------------------------------ archives


def unpack(archive: Archive, folder: Path) -> None:
    """Download an archive and unpack it into `folder`.

    If the user has put the archive beside `folder`, that file is used. A warning says so
    if an archive has no published checksum.

    Raises:
        DataError: the file is not the published one, or is not safe to unpack.
    """
    from torchvision.datasets.utils import check_integrity, download_url

    file = folder.parent / archive.name
    if file.exists():
        if not check_integrity(str(file), archive.md5):
            raise DataError(
                f"{file} is truncated or altered: its MD5 is not {archive.md5}. Replace it "
                f"with the file from {archive.url}, or move it away to download it again"
            )
    else:
        file = folder / archive.name
        download_url(archive.url, str(folder), archive.name, archive.md5)
    if archive.md5 is None:
        with open(file, "rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        print(
            f"{archive.name} is unverified, because its owners publish no checksum "
            f"(its sha256 is {digest}; it comes from {archive.url})",
            file=sys.stderr,
        )
    extract(file, folder)


def extract(file: Path, folder: Path) -> None:
    """Unpack a .zip or .tgz file of limited size that has only ordinary files and folders.

    Their owners, permissions and times are not taken over. (tarfile's own filter for that
    is missing before Python 3.11.4: Debian 12 has 3.11.2.)

    Raises:
        DataError: it is damaged, holds more than `MAX_FILES` or `MAX_BYTES`, or has a
            member that is a link or leads out of `folder`. Members before it are kept.
        OSError: a member cannot be written; the error names it.
    """
    count, size, name = 0, 0, ""
    try:
        with (
            zipfile.ZipFile(file) if file.suffix == ".zip" else tarfile.open(file) as opened
        ):
            for name, length, ordinary, content in members(opened):
                count, size = count + 1, size + length
                reason = refuse(name, ordinary, count, size)
                if reason:
                    raise DataError(f"{file} is not unpacked: its member {name!r} {reason}")
                put(folder / name, content)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{file} is truncated or damaged ({error}): replace it with a complete one"
        ) from error
    except OSError as error:
        if error.errno is None:  # gzip's own errors have no number
            raise DataError(f"{file} is truncated or damaged ({error})") from error
        raise type(error)(error.errno, error.strerror, str(folder / name)) from error


Content = Callable[[], Any] | None  # opens a file; None for a folder


def put(path: Path, content: Content) -> None:
    """Write a member of an archive."""
    if content is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with content() as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, 2**20)


def members(opened: Any) -> Iterator[tuple[str, int, bool, Content]]:
    """Each member of an archive: name, size, whether it is ordinary, and content."""
    if isinstance(opened, zipfile.ZipFile):
        for member in opened.infolist():
            link = stat.S_ISLNK(member.external_attr >> 16)
            content = None if member.is_dir() else partial(opened.open, member)
            yield member.filename, member.file_size, not link, content
    else:
        for member in opened:
            ordinary = member.isfile() or member.isdir()
            content = None if member.isdir() else partial(opened.extractfile, member)
            yield member.name, member.size, ordinary, content
        while opened.fileobj.read(2**20):  # gzip checks its checksum only at the end
            pass


def refuse(name: str, ordinary: bool, count: int, size: int) -> str | None:
    """Why a member is not unpacked, given the count and size up to and including it."""
    if not ordinary:
        return "is a link or a device"
    path = PureWindowsPath(name)  # splits at / and at \\, and recognises C:
    if path.drive or path.root or ".." in path.parts:
        return "leads out of the folder"
    if count > MAX_FILES:
        return f"is one more than the {MAX_FILES:,} files that are allowed"
    if size > MAX_BYTES:
        return f"brings it to {size:,} bytes, more than the {MAX_BYTES:,} that are allowed"
    return None


# --------------------------------------------------------------------------- torchvision


def from_torchvision(
    name: str,
    folder: Path,
    splits: tuple[str, ...] = ("train", "test"),
    download: bool = False,
) -> Arrays:
    """CIFAR10, CIFAR100, SVHN or STL10, each split sorted by class.

    Args:
        name: torchvision's name for the set. CIFAR-100 has its hundred fine labels,
            SVHN's label 10 becomes 0, and STL-10 keeps its 96x96 pixels.
        folder: where torchvision's files are, or will be put.
        splits: the splits to read.
        download: download what is missing.
    """
    from torchvision import datasets

    kind, arrays, classes = getattr(datasets, name), {}, []
    for split in splits:
        if name.startswith("CIFAR"):
            data = kind(str(folder), train=split == "train", download=download)
            images, labels = data.data, data.targets
        else:
            inner = folder / "svhn" if name == "SVHN" else folder
            data = kind(str(inner), split=split, download=download)
            images, labels = data.data.transpose(0, 2, 3, 1), data.labels
        classes = getattr(data, "classes", range(10))  # SVHN's are digits
        labels = np.asarray(labels, dtype=np.int64)
        order = np.argsort(labels, kind="stable")
        arrays[f"x_{split}"] = np.ascontiguousarray(images[order])
        arrays[f"y_{split}"] = labels[order]
    return arrays | {"classes": np.array([str(c) for c in classes])}


# torchvision's name: the folder of the classes, and the subfolder that is not a class.
CALTECH = {
    "Caltech101": ("101_ObjectCategories", "BACKGROUND_Google"),
    "Caltech256": ("256_ObjectCategories", "257.clutter"),
}


def fetch_caltech(folder: Path, name: str) -> Arrays:
    """Caltech101 or Caltech256, without its background class."""
    from torchvision import datasets

    getattr(datasets, name)(str(folder), download=True)
    return read_caltech(folder / name.lower(), name)


def read_caltech(root: Path, name: str) -> Arrays:
    """The same, from the folder that unpacking the owners' archive creates."""
    inner, background = CALTECH[name]
    return read_class_folders(root / inner, skip=[background])


# ----------------------------------------------------------------------------- the others


def fetch_cub(folder: Path, name: str = "cub200") -> Arrays:
    """Caltech-UCSD Birds, or some of its species, cropped to their boxes, 80x80."""
    unpack(CUB, folder)
    return read_cub(folder / "CUB_200_2011", name)


def fetch_object_discovery(folder: Path) -> Path:
    """The three classes with masks, as a folder to be moved into the data folder."""
    unpack(OBJECT_DISCOVERY, folder)
    kept = folder / "object_discovery"
    kept.mkdir()
    for name in DISCOVERED:
        os.replace(folder / "Data" / f"{name}100", kept / f"{name}100")
    shutil.rmtree(folder / "Data")
    return kept
