"""The sets of the paper, prepared from small folders made here, and what may be wrong."""

import dataclasses
import errno
import hashlib
import io
import pickle
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torch.nn.functional as F
import torchvision.datasets as published
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lpa_core.data import (
    SOURCES,
    DataError,
    count_images,
    data_folder,
    downloads,
    duplicates,
    list_datasets,
    load,
    load_parts,
    sources,
)
from lpa_core.data.cub import CLASSES
from lpa_core.data.photographs import open_photograph
from lpa_core.results import paper
from lpa_core.training import RunSpec

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    """Nothing here may reach for the network."""

    def refuse(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.fixture
def expect(monkeypatch):
    """Let a set have other counts than the published ones."""

    def change(name, class_count, **counts):
        changes = {k: (n,) for k, n in counts.items()}
        source = dataclasses.replace(
            SOURCES[name], counts=changes, class_count=class_count, fingerprints=None
        )
        monkeypatch.setitem(sources.SOURCES, name, source)

    return change


def picture(seed, height=40, width=50):
    """A smooth random photograph, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    rough = torch.from_numpy(rng.random((1, 3, 5, 5)))
    smooth = F.interpolate(rough, (height, width), mode="bilinear")[0]
    return (smooth.permute(1, 2, 0) * 255).round().byte().numpy()


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def shrunk(pixels, size):
    """By PyTorch: bicubic, antialiased."""
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    small = F.interpolate(x, (size, size), mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0).clamp(0, 255).numpy()


def close(image, wanted, levels=2):
    return np.abs(image.numpy().astype(float) - wanted).max() <= levels


def files(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


# ------------------------------------------------------------------ what is on the list


def test_every_set_of_the_papers_table_4_is_there():
    assert set(paper.numbers()["table4"]) - {"caption"} <= set(list_datasets())
    assert {"embedded", "cub50", "coseg"} <= set(list_datasets())


@pytest.mark.parametrize("name", list_datasets())
def test_every_set_says_where_it_is_from_and_whom_to_cite(name):
    source = SOURCES[name]
    assert source.licence and source.origin
    entries = re.findall(r"@\w+\{(\w+),", (ROOT / "book/references.bib").read_text())
    assert source.citation in entries
    assert set(source.fingerprints or {}) <= set(source.splits)


@pytest.mark.parametrize("name", sorted(set(paper.numbers()["table4"]) - {"caption"}))
def test_the_expected_counts_are_those_of_the_papers_table_4(name):
    row, source = paper.numbers()["table4"][name], SOURCES[name]
    assert source.class_count == row["classes"]
    counts = dict(zip(("all", "train", "test", "extra"), row["images"], strict=True))
    expected = dict(source.counts)
    for split, apart in source.apart.items():
        expected[split] = apart.counts[split]
    for split, wanted in expected.items():
        assert counts[split] in wanted
    assert set(expected) <= set(source.splits)


# ------------------------------------------------------------------- one size, or several


def test_a_set_of_one_size_refuses_another(tmp_path):
    with pytest.raises(ValueError, match=r"cifar10 comes at one size.*stl10, coseg"):
        load("cifar10", root=tmp_path, size=16)
    with pytest.raises(ValueError, match="size 0: give at least 1"):
        load("coseg", "all", root=tmp_path, size=0)


@pytest.mark.parametrize("name", ["caltech101", "scene67", "coseg", "object_discovery"])
def test_a_set_without_an_official_split_cannot_be_trained_on(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} has no split 'train': choose one of all"):
        load(name, "train", root=tmp_path)
    assert not files(tmp_path)


# -------------------------------------------------------------- prepared files of one part


def together(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_all": rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8),
        "y_all": np.array([0, 0, 0, 1, 1, 1]),
        "is_train": np.array([True, False, True, False, True, True]),
        "classes": np.array(["wren", "robin"]),
    }
    return {k: v for k, v in (arrays | changes).items() if v is not None}


def test_is_train_tells_the_splits_apart(expect, tmp_path):
    expect("cub50", 2, train=4, test=2)
    np.savez(tmp_path / "cub50.npz", **together())
    train, test = load("cub50", "train", tmp_path), load("cub50", "test", tmp_path)
    assert np.array_equal(train.images, together()["x_all"][[0, 2, 4, 5]])
    assert np.array_equal(test.images, together()["x_all"][[1, 3]])
    assert train.labels.tolist() == [0, 0, 1, 1] and test.labels.tolist() == [0, 1]
    assert count_images("cub50", tmp_path) == {"train": 4, "test": 2}


def test_without_is_train_there_are_no_splits(expect, tmp_path):
    expect("cub50", 2, train=4, test=2)
    np.savez(tmp_path / "cub50.npz", **together(is_train=None))
    with pytest.raises(DataError, match="lacks is_train; it has x_all, y_all, classes"):
        load("cub50", "train", tmp_path)


@pytest.mark.parametrize("wrong", [np.ones(5, bool), np.ones(6, int)])
def test_is_train_must_be_one_truth_for_each_image(expect, tmp_path, wrong):
    expect("cub50", 2, train=4, test=2)
    np.savez(tmp_path / "cub50.npz", **together(is_train=wrong))
    words = rf"is_train must be bool \(6,\).*has {wrong.dtype} \({len(wrong)},\)"
    with pytest.raises(DataError, match=words):
        load("cub50", "train", tmp_path)


@pytest.mark.parametrize("counts, classes", [((5, 2), 2), ((4, 2), 3)])
def test_a_set_that_is_not_whole_is_found(expect, tmp_path, counts, classes):
    expect("cub50", classes, train=counts[0], test=counts[1])
    np.savez(tmp_path / "cub50.npz", **together())
    words = f"has 4 images of 2 classes, expected {counts[0]} of {classes}"
    with pytest.raises(DataError, match=words):
        load("cub50", "train", tmp_path)


def test_pixels_are_pinned_unless_they_were_resized_here(monkeypatch, tmp_path):
    arrays = together(is_train=None)
    source = dataclasses.replace(
        SOURCES["caltech101"], fingerprints={"all": "of others"}, counts={"all": (6,)}
    )
    source = dataclasses.replace(source, class_count=2)
    monkeypatch.setitem(sources.SOURCES, "caltech101", source)
    np.savez(tmp_path / "caltech101.npz", **arrays)
    with pytest.raises(DataError, match="not caltech101 as published"):
        load("caltech101", "all", tmp_path)
    np.savez(tmp_path / "caltech101.npz", **arrays, resized_by=np.array("Pillow 0"))
    assert len(load("caltech101", "all", tmp_path)) == 6


def test_nothing_is_counted_where_nothing_is(tmp_path):
    for name in set(list_datasets()) - {"embedded"}:
        assert count_images(name, tmp_path) == {}
    assert count_images("embedded", tmp_path) == {
        s: len(load("embedded", s)) for s in ("train", "test", "shifted")
    }
    (tmp_path / "cifar100.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="cifar100.npz is truncated or damaged"):
        count_images("cifar100", tmp_path)


# ----------------------------------------------------------------- one folder for a class

FOLDERS = {
    "caltech101": ("101_ObjectCategories", "BACKGROUND_Google"),
    "caltech256": ("256_ObjectCategories", "257.clutter"),
    "event8": ("event_dataset", None),
    "scene67": ("indoorCVPR_09/Images", None),
}


def class_folders(place, background):
    """Two classes, three photographs, and what does not count."""
    photographs = [
        ("bass", "image_0002.jpg", picture(1)),
        ("bass", "image_0010.PNG", picture(2, 64, 64)),
        ("anchor", "image_0001.png", picture(3, 33, 90)),
    ]
    for name, file, pixels in photographs:
        write(place / name / file, pixels)
    write(place / "bass" / "more" / "nested.png", picture(4))
    (place / "bass" / "Thumbs.db").write_bytes(b"0")
    (place / "bass" / "RENAME2").write_text("mv")
    write(place / ".hidden" / "a.png", picture(5))
    if background:
        write(place / background / "image_0001.png", picture(6))
    return photographs


@pytest.mark.parametrize("name", FOLDERS)
def test_class_folders_are_prepared(expect, tmp_path, name):
    place, background = FOLDERS[name]
    made = class_folders(tmp_path / place, background)
    expect(name, 2, all=3)
    data = load(name, "all", tmp_path)
    assert data.classes == ["anchor", "bass"] and data.labels.tolist() == [0, 1, 1]
    assert data.images.shape == (3, 32, 32, 3) and data.masks is None
    assert close(data.images[0], shrunk(made[2][2], 32))
    assert close(data.images[2], shrunk(made[1][2], 32))
    of_jpeg = np.abs(data.images[1].numpy() - shrunk(made[0][2], 32))
    assert of_jpeg.mean() < 3 and np.abs(made[0][2].mean() - made[1][2].mean()) > 3
    assert (tmp_path / f"{name}.npz").exists()
    assert count_images(name, tmp_path) == {"all": 3}
    again = load(name, "all", tmp_path)  # from the prepared file, now
    assert torch.equal(again.images, data.images)


def test_named_files_are_prepared(expect, tmp_path):
    place = tmp_path / "Stanford40" / "JPEGImages"
    for seed, name in enumerate(["riding_a_bike_010", "cooking_001", "riding_a_bike_002"]):
        write(place / f"{name}.png", picture(seed))
    expect("action40", 2, all=3)
    data = load("action40", "all", tmp_path)
    assert data.classes == ["cooking", "riding_a_bike"]
    assert data.labels.tolist() == [0, 1, 1]
    for image, seed in zip(data.images, (1, 2, 0), strict=True):
        assert close(image, shrunk(picture(seed), 32))


def test_a_folder_that_is_not_whole_prepares_nothing(expect, tmp_path):
    class_folders(tmp_path / "event_dataset", None)
    words = "3 images of 2 classes, expected 1574 or 1579 of 8"
    with pytest.raises(DataError, match=words):
        load("event8", "all", tmp_path)
    assert "event8.npz" not in files(tmp_path)


def test_a_damaged_photograph_is_named(expect, tmp_path):
    class_folders(tmp_path / "event_dataset", None)
    expect("event8", 2, all=3)
    broken = tmp_path / "event_dataset" / "bass" / "image_0002.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DataError, match=f"{broken} cannot be read as a photograph"):
        load("event8", "all", tmp_path)
    assert "event8.npz" not in files(tmp_path)


def test_an_empty_folder_is_said(tmp_path):
    (tmp_path / "event_dataset" / "polo").mkdir(parents=True)
    with pytest.raises(DataError, match="event_dataset has no photographs"):
        load("event8", "all", tmp_path)


@pytest.mark.parametrize(
    "name, place",
    [
        ("event8", "event_dataset"),
        ("scene67", "indoorCVPR_09/Images"),
        ("action40", "Stanford40/JPEGImages"),
    ],
)
def test_a_set_to_be_placed_by_hand_says_what_and_where(tmp_path, name, place):
    with pytest.raises(DataError) as caught:
        load(name, "all", tmp_path)
    for words in (
        f"{name} is not at {tmp_path / name}.npz, and has to be downloaded by hand",
        SOURCES[name].origin,
        "keys x_all, y_all, classes",
        str(tmp_path / place),
        "$LPA_DATA",
    ):
        assert words in str(caught.value)
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["caltech101", "caltech256", "object_discovery", "cub200"])
def test_a_download_that_fails_leaves_nothing_behind(tmp_path, name):
    split = SOURCES[name].splits[0]
    with pytest.raises(DataError, match=f"{name} is not at .*could not be .*no network"):
        load(name, split, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------ CUB

BIRDS = [  # class, file, box, training
    (2, "002.Robin/b.png", (5, 3, 20, 30), 1),
    (1, "001.Wren/a.png", (0, 0, 50, 40), 1),
    (1, "001.Wren/c.png", (10.0, 8.0, 40.6, 32.4), 0),  # a little over the edge
    (3, "003.Owl/d.png", (1, 2, 30, 20), 0),
]


def cub(tmp_path):
    folder = tmp_path / "CUB_200_2011"
    lists = {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    lists["bounding_boxes"] = []
    for i, (label, file, box, train) in enumerate(BIRDS, start=1):
        write(folder / "images" / file, picture(i))
        lists["images"].append(f"{i} {file}")
        lists["image_class_labels"].append(f"{i} {label}")
        lists["train_test_split"].append(f"{i} {train}")
        lists["bounding_boxes"].append(" ".join(map(str, (i, *map(float, box)))))
    lists["classes"] = ["1 001.Wren", "2 002.Robin", "3 003.Owl"]
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_birds_are_cropped_to_their_boxes(expect, tmp_path):
    cub(tmp_path)
    expect("cub200", 3, train=2, test=2)
    train, test = load("cub200", "train", tmp_path), load("cub200", "test", tmp_path)
    assert train.classes == ["001.Wren", "002.Robin", "003.Owl"]
    assert train.labels.tolist() == [0, 1] and test.labels.tolist() == [0, 2]
    assert train.images.shape == (2, 80, 80, 3)
    assert close(train.images[0], shrunk(picture(2), 80))
    assert close(train.images[1], shrunk(picture(1)[3:33, 5:25], 80))
    assert close(test.images[0], shrunk(picture(3)[8:, 10:], 80))
    assert close(test.images[1], shrunk(picture(4)[2:22, 1:31], 80))


@pytest.mark.parametrize("here", ["folder", "prepared", "archive"])
@pytest.mark.parametrize(
    "name, classes, train_labels, test_labels, first",
    [
        ("cub50", (1, 2), [0, 1], [0], shrunk(picture(2), 80)),
        ("cub127", (2, 3), [0], [1], shrunk(picture(1)[3:33, 5:25], 80)),
    ],
)
def test_some_birds_are_made_of_any_whole_cub(
    monkeypatch, expect, tmp_path, here, name, classes, train_labels, test_labels, first
):
    monkeypatch.setitem(CLASSES, name, classes)
    expect("cub200", 3, train=2, test=2)
    expect(name, 2, train=len(train_labels), test=1)
    folder = cub(tmp_path)
    if here == "prepared":
        load("cub200", "train", tmp_path)
        folder.rename(tmp_path / "away")
    elif here == "archive":
        archive(monkeypatch, tmp_path, folder)
        shutil.rmtree(folder)
    train, test = load(name, "train", tmp_path), load(name, "test", tmp_path)
    assert train.labels.tolist() == train_labels and test.labels.tolist() == test_labels
    assert train.classes == [["001.Wren", "002.Robin", "003.Owl"][c - 1] for c in classes]
    assert close(train.images[0], first)


def archive(monkeypatch, root, folder):
    """Pack `folder` as the archive of CUB in `root`, with a checksum that is right."""
    with tarfile.open(root / "CUB_200_2011.tgz", "w:gz") as file:
        file.add(folder, "CUB_200_2011")
    digest = hashlib.md5((root / "CUB_200_2011.tgz").read_bytes()).hexdigest()
    monkeypatch.setattr(downloads, "CUB", dataclasses.replace(downloads.CUB, md5=digest))


def test_the_127_birds_are_those_of_their_prepared_file():
    classes = CLASSES["cub127"]
    assert len(classes) == 127 and sorted(set(classes)) == list(classes)
    assert CLASSES["cub50"] == classes[:50] and CLASSES["cub200"] == tuple(range(1, 201))
    path = data_folder() / "cub127.npz"
    if path.exists():
        with np.load(path) as file:
            assert [int(name[:3]) for name in file["classes"]] == list(classes)


@pytest.mark.parametrize("name", ["cub200", "cub50", "cub127"])
def test_lists_without_photographs_are_not_the_set(monkeypatch, expect, tmp_path, name):
    folder = cub(tmp_path)
    shutil.rmtree(folder / "images")
    with pytest.raises(DataError) as caught:  # the download is tried, and fails
        load(name, "train", tmp_path)
    assert f"{name} is not at" in str(caught.value) and "no network" in str(caught.value)
    assert f"The folder {folder} is there, but images is missing" in str(caught.value)
    monkeypatch.setitem(CLASSES, name, (1, 2, 3))
    expect(name, 3, train=2, test=2)
    cub(tmp_path / "made")
    archive(monkeypatch, tmp_path, tmp_path / "made" / "CUB_200_2011")
    assert len(load(name, "train", tmp_path)) == 2  # now it does not


def test_a_prepared_file_beside_the_lists_is_used(monkeypatch, expect, tmp_path):
    folder = cub(tmp_path)
    birds_parts(folder)
    shutil.rmtree(folder / "images")
    monkeypatch.setitem(CLASSES, "cub127", (2, 3))
    expect("cub127", 2, train=1, test=1)
    arrays = together(
        x_all=np.zeros((2, 4, 4, 3), np.uint8),
        y_all=np.array([0, 1]),
        is_train=np.array([True, False]),
    )
    np.savez(tmp_path / "cub127.npz", **arrays)
    assert load("cub127", "test", tmp_path).labels.tolist() == [1]
    parts = load_parts("cub127", "test", tmp_path)  # of image 4, the owl
    assert parts.points[:, :2].tolist() == [[[0.5, 0.5], [1, 0]]]
    arrays["is_train"] = np.array([False, True])  # other rows than the lists have
    np.savez(tmp_path / "cub127.npz", **arrays)
    with pytest.raises(DataError, match=r"the 1 test images in .*cub127.npz differ from"):
        load_parts("cub127", "test", tmp_path)


def test_every_list_that_is_missing_is_named_at_once(tmp_path):
    folder = cub(tmp_path)
    for name in ("images.txt", "bounding_boxes.txt", "classes.txt"):
        (folder / name).unlink()
    words = "CUB_200_2011 lacks images.txt, bounding_boxes.txt, classes.txt: unpack"
    with pytest.raises(DataError, match=words):
        load("cub200", "train", tmp_path)
    assert "cub200.npz" not in files(tmp_path)


def test_lists_that_do_not_agree_are_found(tmp_path):
    folder = cub(tmp_path)
    lines = (folder / "image_class_labels.txt").read_text().splitlines()
    (folder / "image_class_labels.txt").write_text("\n".join(lines[:3]))
    with pytest.raises(DataError, match=r"different images \(4 in images.txt, 3 with"):
        load("cub200", "train", tmp_path)
    (folder / "image_class_labels.txt").write_text("1 1\n2\n3 1\n")
    with pytest.raises(DataError, match="a line that is not a number followed by"):
        load("cub200", "train", tmp_path)


def birds_parts(folder):
    """Three parts of each bird of `cub`, in its photograph's pixels."""
    (folder / "parts").mkdir()
    (folder / "parts/parts.txt").write_text("1 back\n2 beak\n15 left eye\n")
    places = {  # image, part: across, down, seen
        (1, 1): (5, 3, 1), (1, 2): (25, 33, 1), (1, 15): (0, 0, 0),
        (2, 1): (25, 20, 1), (2, 2): (50, 0, 1), (2, 15): (1, 39, 0),
        (3, 1): (10, 8, 1), (3, 2): (30.3, 24.2, 1), (3, 15): (9, 20, 1),
        (4, 1): (16, 12, 1), (4, 2): (31, 2, 1), (4, 15): (6, 7, 1),
    }  # fmt: skip
    lines = [f"{i} {part} {x} {y} {seen}" for (i, part), (x, y, seen) in places.items()]
    (folder / "parts/part_locs.txt").write_text("\n".join(lines) + "\n")


def test_parts_of_birds_stand_in_the_order_of_their_images(tmp_path):
    folder = cub(tmp_path)
    birds_parts(folder)
    test = load_parts("cub200", "test", tmp_path)
    assert test.names == ["back", "beak", "left eye"]
    # image 3, of the wren, with the box (10, 8, 40.6, 32.4); then image 4, of the owl
    wanted = [[[0, 0], [0.5, 0.5]], [[0.5, 0.5], [1, 0]]]
    assert test.points[:, :2].tolist() == pytest.approx(np.array(wanted), abs=1e-6)
    # the wren's eye lies outside the box, and was cut away
    assert test.visible.tolist() == [[True, True, False], [True, True, True]]
    train = load_parts("cub50", "train", tmp_path)  # image 2, of the wren, then image 1
    wanted = [[[0.5, 0.5], [1, 0]], [[0, 0], [1, 1]]]
    assert train.points[:, :2].tolist() == pytest.approx(np.array(wanted), abs=1e-6)
    assert train.visible.tolist() == [[True, True, False]] * 2


def test_parts_that_are_not_there_or_broken_are_named(tmp_path):
    folder = cub(tmp_path)
    with pytest.raises(DataError, match=r"lacks parts/parts.txt, parts/part_locs.txt: un"):
        load_parts("cub200", "test", tmp_path)
    birds_parts(folder)
    with pytest.raises(
        ValueError, match="no part annotations for 'cifar10', 'test': choose one"
    ):
        load_parts("cifar10", "test", tmp_path)
    with pytest.raises(ValueError, match="for 'cub200', 'all'.*train or test"):
        load_parts("cub200", "all", tmp_path)
    file = folder / "parts/part_locs.txt"
    file.write_text(file.read_text() + "4 3 1 1 1\n")
    with pytest.raises(DataError, match="has the line '4 3 1 1 1'; each line must"):
        load_parts("cub200", "test", tmp_path)


@pytest.mark.parametrize("box", ["60.0 2.0 20.0 20.0", "2.0 2.0 0.0 5.0", "-3 2 9 9"])
def test_a_box_that_is_not_on_its_photograph_is_found(tmp_path, box):
    folder = cub(tmp_path)
    lines = (folder / "bounding_boxes.txt").read_text().splitlines()
    (folder / "bounding_boxes.txt").write_text("\n".join([f"1 {box}", *lines[1:]]))
    words = r"b.png is 50x40 pixels, and its box .*lies outside it"
    with pytest.raises(DataError, match=words):
        load("cub200", "train", tmp_path)


def test_a_bird_that_is_missing_is_named(tmp_path):
    folder = cub(tmp_path)
    (folder / "images" / BIRDS[0][1]).unlink()
    with pytest.raises(
        DataError, match=r"lacks 1 of the 4 photographs of cub200; .*/002.Robin/b.png. Un"
    ):
        load("cub200", "train", tmp_path)


def test_the_archive_placed_by_hand_is_unpacked(monkeypatch, expect, tmp_path):
    cub(tmp_path / "made")
    root = tmp_path / "data"
    root.mkdir()
    with tarfile.open(root / "CUB_200_2011.tgz", "w:gz") as file:
        file.add(tmp_path / "made" / "CUB_200_2011", "CUB_200_2011")
    expect("cub200", 3, train=2, test=2)
    words = r"tgz is truncated or altered: .*97eceeb19"
    with pytest.raises(DataError, match=words) as caught:
        load("cub200", "train", root)
    assert downloads.CUB.url in str(caught.value)
    assert files(root) == ["CUB_200_2011.tgz"]
    digest = hashlib.md5((root / "CUB_200_2011.tgz").read_bytes()).hexdigest()
    monkeypatch.setattr(downloads, "CUB", dataclasses.replace(downloads.CUB, md5=digest))
    assert len(load("cub200", "train", root)) == 2
    assert files(root) == ["CUB_200_2011.tgz", "cub200.npz"]
    assert [p for p in root.iterdir() if p.is_dir()] == []


# -------------------------------------------------------------- what torchvision reads


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_cifar100_is_read_from_its_folder(monkeypatch, expect, tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = {"train": picture(0, 96, 32), "test": picture(1, 64, 32)}
    labels = {"train": [1, 0, 1], "test": [1, 0]}
    for split in ("train", "test"):
        flat = pixels[split].reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
        content = {"data": flat.reshape(-1, 3072), "fine_labels": labels[split]}
        (folder / split).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "worm"]}))
    lists = {f"{s}_list": [[s, md5(folder / s)]] for s in ("train", "test")}
    lists["meta"] = {"filename": "meta", "key": "fine_label_names"}
    lists["meta"]["md5"] = md5(folder / "meta")
    for name, value in lists.items():
        monkeypatch.setattr(published.CIFAR100, name, value)
    expect("cifar100", 2, train=3, test=2)
    train, test = load("cifar100", "train", tmp_path), load("cifar100", "test", tmp_path)
    wanted = pixels["train"].reshape(3, 32, 32, 3)
    assert np.array_equal(train.images, wanted[[1, 0, 2]])
    assert train.labels.tolist() == [0, 1, 1] and test.labels.tolist() == [0, 1]
    assert train.classes == ["apple", "worm"] and train.mirrors


def test_a_folder_that_torchvision_refuses_is_said(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    words = r"cifar100 could not be prepared from .*cifar-100-python .*RuntimeError.*unpack"
    with pytest.raises(DataError, match=words):
        load("cifar100", "train", tmp_path)


def test_svhn_is_read_from_its_files(monkeypatch, expect, tmp_path):
    folder = tmp_path / "svhn"
    folder.mkdir()
    table, made = {}, {}
    for split, labels in (("train", [10, 3, 10]), ("test", [9, 10]), ("extra", [1, 10])):
        x = np.stack([picture(i, 32, 32) for i in range(len(labels))], axis=3)
        made[split] = x
        file = f"{split}_32x32.mat"
        scipy.io.savemat(folder / file, {"X": x, "y": np.array(labels)[:, None]})
        table[split] = ["http://nowhere", file, md5(folder / file)]
    monkeypatch.setattr(published.SVHN, "split_list", table)
    expect("svhn", 10, train=3, test=2)
    extra = dataclasses.replace(SOURCES["svhn"].apart["extra"], counts={"extra": (2,)})
    source = dataclasses.replace(sources.SOURCES["svhn"], apart={"extra": extra})
    monkeypatch.setitem(sources.SOURCES, "svhn", source)
    train = load("svhn", "train", tmp_path)
    assert train.labels.tolist() == [0, 0, 3]  # what the file calls 10 is the digit 0
    assert np.array_equal(train.images, made["train"].transpose(3, 0, 1, 2)[[0, 2, 1]])
    assert train.classes == [str(digit) for digit in range(10)]
    assert not train.mirrors  # a mirrored digit is no digit
    assert load("svhn", "test", tmp_path).labels.tolist() == [0, 9]
    assert count_images("svhn", tmp_path) == {"train": 3, "test": 2}
    assert load("svhn", "extra", tmp_path).labels.tolist() == [0, 1]
    assert {"svhn.npz", "svhn-extra.npz"} <= set(files(tmp_path))
    assert count_images("svhn", tmp_path) == {"train": 3, "test": 2, "extra": 2}


def test_stl10_is_kept_as_published_and_given_at_32_pixels(monkeypatch, expect, tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    pixels = {"train": [picture(i, 96, 96) for i in range(3)], "test": [picture(9, 96, 96)]}
    labels = {"train": [2, 1, 2], "test": [1]}
    for split in ("train", "test"):
        x = np.stack(pixels[split]).transpose(0, 3, 2, 1)  # columns before rows, it is
        x.tofile(folder / f"{split}_X.bin")
        np.array(labels[split], np.uint8).tofile(folder / f"{split}_y.bin")
        names = [f"{split}_X.bin", f"{split}_y.bin"]
        table = [[name, md5(folder / name)] for name in names]
        monkeypatch.setattr(published.STL10, f"{split}_list", table)
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    expect("stl10", 2, train=3, test=1)
    train = load("stl10", "train", tmp_path, size=96)
    assert np.array_equal(train.images, np.stack(pixels["train"])[[1, 0, 2]])
    assert train.labels.tolist() == [0, 1, 1] and train.classes == ["airplane", "bird"]
    test = load("stl10", "test", tmp_path)
    assert test.images.shape == (1, 32, 32, 3)
    assert close(test.images[0], shrunk(pixels["test"][0], 32))
    assert test.fingerprint == sources.fingerprint(test.images, test.labels)


# -------------------------------------------------------------------------------- masks


def mask_of(seed, height=40, width=50):
    return (picture(seed, height, width)[..., 0] > 128).astype(np.uint8) * 255


def shares(mask, size):
    """How much of each of the size x size blocks of a mask is True."""
    height, width = mask.shape
    blocks = mask.reshape(size, height // size, size, width // size)
    return (blocks > 0).mean(axis=(1, 3))


def coseg(tmp_path):
    for name, seed in (("cat", 1), ("bird", 2), ("cat", 3)):
        pixels = picture(seed, 64, 96)
        folder = tmp_path / "coseg" / name
        write(folder / "images" / f"img_{seed}.png", pixels)
        write(folder / "masks" / f"img_{seed}.png", mask_of(seed, 64, 96))


def test_photographs_and_masks_come_at_the_size_wanted(expect, tmp_path):
    coseg(tmp_path)
    expect("coseg", 2, all=3)
    data = load("coseg", "all", tmp_path)
    assert data.classes == ["bird", "cat"] and data.labels.tolist() == [0, 1, 1]
    assert data.images.shape == (3, 32, 32, 3) and data.masks.shape == (3, 32, 32)
    assert data.masks.dtype == torch.bool
    for i, seed in enumerate((2, 1, 3)):
        assert close(data.images[i], shrunk(picture(seed, 64, 96), 32))
        covered = shares(mask_of(seed, 64, 96), 32)
        clear = covered != 0.5
        assert np.array_equal(data.masks[i].numpy()[clear], covered[clear] > 0.5)
        assert 0.05 < data.masks[i].float().mean() < 0.95
    large = load("coseg", "all", tmp_path, size=192)
    exact = np.kron(mask_of(2, 64, 96) > 0, np.ones((3, 2), bool))
    assert np.array_equal(large.masks[0], exact)
    assert large.images.shape == (3, 192, 192, 3)
    assert count_images("coseg", tmp_path) == {"all": 3}


def test_masks_of_three_colours_and_of_one_bit_are_read_alike(expect, tmp_path):
    coseg(tmp_path)
    expect("coseg", 2, all=3)
    before = load("coseg", "all", tmp_path).masks
    for file in tmp_path.rglob("masks/*.png"):
        mask = Image.open(file)
        mask.convert("RGB" if "1" in file.name else "1").save(file)
    assert torch.equal(load("coseg", "all", tmp_path).masks, before)


def test_what_is_transparent_in_a_mask_is_not_of_the_object(expect, tmp_path):
    coseg(tmp_path)
    expect("coseg", 2, all=3)
    before = load("coseg", "all", tmp_path).masks
    for file in tmp_path.rglob("masks/*.png"):
        opaque = Image.open(file).convert("L")
        white = Image.new("RGBA", opaque.size, "white")  # also where nothing is seen
        white.putalpha(opaque)
        white.save(file)
    assert torch.equal(load("coseg", "all", tmp_path).masks, before)


def test_a_photograph_without_its_mask_is_named(tmp_path):
    coseg(tmp_path)
    (tmp_path / "coseg" / "cat" / "masks" / "img_3.png").unlink()
    with pytest.raises(DataError, match=r"img_3.png has no mask at .*cat/masks/img_3.png"):
        load("coseg", "all", tmp_path)


def test_a_mask_of_another_size_is_named(tmp_path):
    coseg(tmp_path)
    write(tmp_path / "coseg" / "bird" / "masks" / "img_2.png", mask_of(2, 64, 64))
    with pytest.raises(DataError, match=r"masks/img_2.png is 64x64 pixels.* 96x64"):
        load("coseg", "all", tmp_path)


def test_the_photographs_are_counted_too(tmp_path):
    coseg(tmp_path)
    with pytest.raises(DataError, match="3 images of 2 classes, expected 451 of 7"):
        load("coseg", "all", tmp_path)


def test_a_set_with_masks_that_is_not_there_says_so(tmp_path):
    words = "coseg is not at .*by hand .*Unpack it as"
    with pytest.raises(DataError, match=words) as caught:
        load("coseg", "all", tmp_path)
    assert str(tmp_path / "coseg") in str(caught.value)
    (tmp_path / "coseg").mkdir()
    with pytest.raises(DataError, match=r"coseg has no photographs CLASS/images"):
        load("coseg", "all", tmp_path)


def discovered(folder):
    for label, name in enumerate(("Airplane", "Car", "Horse")):
        for number in (1, 2):
            seed = 10 * label + number
            write(folder / f"{name}100" / f"000{number}.jpg", picture(seed, 64, 64))
            mask = mask_of(seed, 64, 64)
            write(folder / f"{name}100" / "GroundTruth" / f"000{number}.png", mask)
    (folder / "Car100" / "GroundTruth" / "0002.png").unlink()  # one that misleads


def test_object_discovery_is_read_from_its_folders(expect, tmp_path):
    discovered(tmp_path / "object_discovery")
    expect("object_discovery", 3, all=6)
    data = load("object_discovery", "all", tmp_path)
    assert data.classes == ["Airplane", "Car", "Horse"]
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    covered = shares(mask_of(21, 64, 64), 32)
    assert np.array_equal(data.masks[4][covered != 0.5], (covered > 0.5)[covered != 0.5])
    assert data.masks.flatten(1).any(1).tolist() == [True, True, True, False, True, True]
    assert count_images("object_discovery", tmp_path) == {"all": 6}


def test_a_class_that_object_discovery_lacks_is_named(tmp_path):
    discovered(tmp_path / "object_discovery")
    (tmp_path / "object_discovery" / "Car100").rename(tmp_path / "away")
    words = "object_discovery lacks Car100, Car100/GroundTruth: unpack"
    with pytest.raises(DataError, match=words):
        load("object_discovery", "all", tmp_path)


def test_the_fetched_folder_is_moved_into_place_whole(monkeypatch, expect, tmp_path):
    def unpack(archive, folder):
        assert archive.url.startswith("http://people.csail.mit.edu/mrub/")
        discovered(folder / "Data")
        write(folder / "Data" / "MSRC" / "cat" / "a.png", picture(0))

    monkeypatch.setattr(downloads, "unpack", unpack)
    expect("object_discovery", 3, all=6)
    assert len(load("object_discovery", "all", tmp_path)) == 6
    assert [p.name for p in tmp_path.iterdir()] == ["object_discovery"]
    assert "a.png" not in files(tmp_path)


# --------------------------------------------------------------------------- duplicates


def test_duplicates_are_the_pairs_of_equal_pictures():
    a = torch.stack([torch.from_numpy(picture(i, 4, 4)) for i in (0, 1, 2, 1)])
    b = torch.stack([torch.from_numpy(picture(i, 4, 4)) for i in (5, 1, 0, 0)])
    assert duplicates(a, b).tolist() == [[0, 2], [0, 3], [1, 1], [3, 1]]
    assert duplicates(a[2:3], b).shape == (0, 2)
    b[1, 0, 0, 0] ^= 1
    assert duplicates(a, b).tolist() == [[0, 2], [0, 3]]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=8), st.lists(st.integers(0, 4), max_size=8))
def test_duplicates_against_comparing_everything(first, second):
    def images(values):
        return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 2, 2, 3)

    wanted = [[i, j] for i, a in enumerate(first) for j, b in enumerate(second) if a == b]
    assert duplicates(images(first), images(second)).tolist() == wanted


# ------------------------------------------------------------------------- the real thing


def here(name):
    counts = count_images(name)
    if not counts:
        pytest.skip(f"no {name} in $LPA_DATA or ~/.cache/lpa")
    return counts


@pytest.mark.parametrize("name", sorted(set(list_datasets()) - {"embedded", "coseg"}))
def test_what_is_here_has_the_published_counts(name):
    for split, count in here(name).items():
        if count > 100_000:
            continue  # svhn's extra images would take gigabytes
        data = load(name, split)  # compares fingerprint or counts as well
        assert len(data) == count
        assert data.labels.unique().tolist() == list(range(SOURCES[name].class_count))


def test_cifar100_has_ten_images_in_both_splits():
    here("cifar100")
    pairs = duplicates(load("cifar100", "test").images, load("cifar100", "train").images)
    assert len(pairs[:, 0].unique()) == 10


def test_masks_of_coseg_cover_a_part_of_each_photograph():
    here("coseg")
    folder = data_folder() / "coseg"
    assert len(list(folder.rglob("*.png"))) == count_images("coseg")["all"] == 451


@pytest.mark.parametrize("name", ["cub50", "cub127", "cub200"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_parts_of_real_birds_lie_on_their_pictures(name, split):
    counts = here(name)
    if not (data_folder() / "CUB_200_2011/parts/part_locs.txt").exists():
        pytest.skip("no lists of CUB_200_2011 in $LPA_DATA or ~/.cache/lpa")
    parts = load_parts(name, split)  # compares the classes, row by row, as well
    assert len(parts.points) == counts[split] == len(load(name, split))
    seen = parts.points[parts.visible]
    assert len(parts.names) == 15 and seen.min() >= 0 and seen.max() <= 1
    assert 0.7 < parts.visible.float().mean() < 0.9
    head = parts.points[:, parts.names.index("crown"), 1]
    feet = parts.points[:, parts.names.index("left leg"), 1]
    both = parts.visible[:, [parts.names.index("crown"), parts.names.index("left leg")]]
    assert (head < feet)[both.all(dim=1)].float().mean() > 0.9  # birds stand upright


# --------------------------------------------------------------- photographs of any kind


def test_a_photograph_is_turned_upright_by_its_exif_tag(tmp_path):
    pixels = picture(1, 40, 60)
    upright, sideways = tmp_path / "upright.png", tmp_path / "sideways.jpg"
    write(upright, pixels)
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned by a quarter, clockwise
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(pixels)))
    turned.save(sideways, quality=95, exif=exif)
    image = open_photograph(sideways)
    assert image.size == (60, 40)
    difference = np.asarray(image).astype(int) - np.asarray(open_photograph(upright))
    assert np.abs(difference).mean() < 3


def test_16_bits_of_grey_keep_their_brightness(tmp_path):
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    image = np.asarray(open_photograph(tmp_path / "deep.png"))
    assert np.abs(image[..., 0] - grey / 257).max() <= 0.5
    assert np.array_equal(image[..., 0], image[..., 2])
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "real.tif")
    with pytest.raises(DataError, match=r"real.tif cannot .*floating-point numbers"):
        open_photograph(tmp_path / "real.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white_and_hides_no_colour(tmp_path, mode):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = [90, 90, 90, 255]
    rgba[1, 1] = [200, 200, 200, 0]
    image = Image.fromarray(rgba).convert("LA" if mode == "LA" else "RGBA")
    if mode == "P":
        image = image.quantize(4)
    image.save(tmp_path / "clear.png")
    pixels = np.asarray(open_photograph(tmp_path / "clear.png"))
    assert pixels[..., 0].tolist() == [[90, 255], [255, 255]]
    black = np.asarray(open_photograph(tmp_path / "clear.png", behind="black"))
    assert black[..., 0].tolist() == [[90, 0], [0, 0]]  # as for masks


def test_a_photograph_that_is_too_large_is_named(monkeypatch, tmp_path):
    write(tmp_path / "vast.png", picture(1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"vast.png cannot .*2000 pixels.*ordinary size"):
        open_photograph(tmp_path / "vast.png")


def test_what_other_systems_leave_behind_is_no_class_and_no_photograph(expect, tmp_path):
    folder = tmp_path / "event_dataset"
    class_folders(folder, None)
    write(folder / "__MACOSX" / "bass" / "a.png", picture(7))
    write(folder / "__MACOSX" / "b.png", picture(7))
    write(folder / "bass" / "._image_0002.png", picture(7))
    write(folder / "anchor" / "image_0003.webp", picture(8))
    write(folder / "anchor" / "image_0004.TIF", picture(9))
    expect("event8", 2, all=5)
    data = load("event8", "all", tmp_path)
    assert data.classes == ["anchor", "bass"] and data.labels.tolist() == [0, 0, 0, 1, 1]
    coseg(tmp_path)
    write(tmp_path / "coseg" / "__MACOSX" / "images" / "a.png", picture(7))
    expect("coseg", 2, all=3)
    assert load("coseg", "all", tmp_path).classes == ["bird", "cat"]
    assert count_images("coseg", tmp_path) == {"all": 3}


def test_the_photographs_of_coseg_are_read_as_ever():
    # The pixels depend on Pillow and its JPEG decoder, so that no fingerprint is pinned;
    # but no kind of photograph that is handled specially occurs among them.
    here("coseg")
    for file in (data_folder() / "coseg").rglob("images/*"):
        with Image.open(file) as image:
            plain = np.asarray(image.convert("RGB"))
        assert np.array_equal(np.asarray(open_photograph(file)), plain), file


# ------------------------------------------------------------------------------ archives


def zipped(path, **contents):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name.replace("__", "/"), content)


def test_an_archive_is_unpacked(tmp_path):
    zipped(tmp_path / "a.zip", Data__a=b"1", Data__in__b=b"22")
    downloads.extract(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "out/Data/in/b").read_bytes() == b"22"
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as file:
        file.add(tmp_path / "out" / "Data", "Data")
    downloads.extract(tmp_path / "a.tgz", tmp_path / "again")
    assert files(tmp_path / "again") == ["a", "b"]


def test_owners_and_permissions_of_an_archive_are_not_taken_over(tmp_path, monkeypatch):
    """On any Python: before 3.11.4 (Debian 12) tarfile has no filter for that."""
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as packed:
        for name, content in (("Data", b""), ("Data/a", b"abc")):
            member = tarfile.TarInfo(name)
            member.type = tarfile.REGTYPE if content else tarfile.DIRTYPE
            member.mode, member.uid, member.size = 0o6777, 12345, len(content)
            packed.addfile(member, io.BytesIO(content))
    downloads.extract(tmp_path / "a.tgz", tmp_path / "out")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    for one, usual in (("out/Data", "plain"), ("out/Data/a", "plain/file")):
        found, expected = (tmp_path / one).stat(), (tmp_path / usual).stat()
        assert (found.st_mode, found.st_uid) == (expected.st_mode, expected.st_uid)
    assert (tmp_path / "out/Data/a").read_bytes() == b"abc"


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize(
    "limit, words",
    [
        ("MAX_BYTES", r"'bomb' brings it to 5,000,000 bytes, more than the 1,000"),
        ("MAX_FILES", r"'second' is one more than the 1 files"),
    ],
)
def test_a_bomb_is_not_unpacked(monkeypatch, tmp_path, kind, limit, words):
    monkeypatch.setattr(downloads, limit, 1_000 if limit == "MAX_BYTES" else 1)
    file = tmp_path / f"a.{kind}"
    if kind == "zip":
        zipped(file, bomb=bytes(5_000_000), second=b"")
    else:
        with tarfile.open(file, "w:gz") as packed:
            for name, size in (("bomb", 5_000_000), ("second", 0)):
                member = tarfile.TarInfo(name)
                member.size = size
                packed.addfile(member, io.BytesIO(bytes(size)))
    with pytest.raises(DataError, match=f"{file} is not unpacked: its member {words}"):
        downloads.extract(file, tmp_path / "out")
    assert files(tmp_path) == [file.name, "bomb"][: 1 + (limit == "MAX_FILES")]


@pytest.mark.parametrize("name", ["/etc/a", "../a", "Data/../../a", "C:\\a", "..\\a"])
@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_a_member_that_leads_out_of_the_folder_is_refused(tmp_path, kind, name):
    file = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as packed:
            packed.writestr(zipfile.ZipInfo(name), b"")
    else:
        with tarfile.open(file, "w:gz") as packed:
            packed.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataError, match="leads out of the folder"):
        downloads.extract(file, tmp_path / "in" / "out")
    assert files(tmp_path) == [file.name]


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as packed:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, "a"
        packed.addfile(member)
    member = zipfile.ZipInfo("link")
    member.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(member, "a")
    for name in ("a.tgz", "a.zip"):
        with pytest.raises(DataError, match=f"{name} .*'link' is a link or a device"):
            downloads.extract(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_a_damaged_archive_is_named(tmp_path, kind):
    file = tmp_path / f"a.{kind}"
    noise = np.random.default_rng(0).bytes(100_000)
    if kind == "zip":
        zipped(file, a=noise)
    else:
        with tarfile.open(file, "w:gz") as packed:
            member = tarfile.TarInfo("a")
            member.size = len(noise)
            packed.addfile(member, io.BytesIO(noise))
    whole = bytearray(file.read_bytes())
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{file} is truncated or damaged"):
        downloads.extract(file, tmp_path / "out")
    whole[len(whole) // 2] ^= 255
    file.write_bytes(whole)
    with pytest.raises(DataError, match=f"{file} is truncated or damaged"):
        downloads.extract(file, tmp_path / "out")


def test_a_full_disk_names_the_file(monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    zipped(tmp_path / "ObjectDiscovery-data.zip", Data__a=b"1")
    monkeypatch.setattr(downloads.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match=f"No space left on device.*{tmp_path}/out/Data/a"):
        downloads.extract(tmp_path / "ObjectDiscovery-data.zip", tmp_path / "out")
    with pytest.raises(DataError, match=r"/Data/a cannot be written .No space left") as e:
        load("object_discovery", "all", tmp_path)
    assert "could not be downloaded from" not in str(e.value)


def test_what_no_checksum_verifies_is_said_to_be_unverified(capsys, monkeypatch, tmp_path):
    (tmp_path / "in").mkdir()
    zipped(tmp_path / "ObjectDiscovery-data.zip", Data__a=b"1")
    downloads.unpack(downloads.OBJECT_DISCOVERY, tmp_path / "in")
    said = capsys.readouterr().err
    digest = hashlib.sha256((tmp_path / "ObjectDiscovery-data.zip").read_bytes())
    assert said.count("\n") == 1 and digest.hexdigest() in said
    assert "ObjectDiscovery-data.zip is unverified" in said and "http://people" in said
    archive(monkeypatch, tmp_path, cub(tmp_path / "made"))
    downloads.unpack(downloads.CUB, tmp_path / "in")
    assert "unverified" not in capsys.readouterr().err


# ----------------------------------------------------------------- a new set is one entry


def test_a_new_set_is_one_entry(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    labels = np.array([0, 0, 0, 1, 1, 1])
    classes = np.array(["oak", "elm"])
    np.savez(tmp_path / "trees.npz", x_test=images, y_test=labels, classes=classes)
    class_folders(tmp_path / "fish", None)
    new = {
        "trees": sources.Source(("test",), "a walk", class_count=2),
        "fish": sources.Source(
            ("all",),
            "a pond",
            class_count=2,
            **sources.in_folder(sources.read_class_folders, "fish"),
            counts={"all": (3,)},
        ),
    }
    for name, source in new.items():
        monkeypatch.setitem(sources.SOURCES, name, source)
        assert sources.check_dataset(name) == name in list_datasets()
    trees, fish = load("trees", "test", tmp_path), load("fish", "all", tmp_path)
    assert np.array_equal(trees.images, images) and trees.classes == ["oak", "elm"]
    assert fish.labels.tolist() == [0, 1, 1] and fish.images.shape == (3, 32, 32, 3)
    assert count_images("trees", tmp_path) == {"test": 6}
    assert RunSpec(dataset="fish").dataset == "fish"
    with pytest.raises(DataError, match="trees is not at .*by hand from a walk. Place a"):
        load("trees", "test", tmp_path / "elsewhere")


def test_a_part_of_a_set_needs_a_name_of_its_own(monkeypatch, tmp_path):
    arrays = {"x_test": np.zeros((20, 4, 4, 3), np.uint8), "y_test": np.arange(20) % 10}
    arrays["classes"] = np.array([str(digit) for digit in range(10)])
    np.savez(tmp_path / "svhn.npz", **arrays)
    with pytest.raises(DataError, match=r"not all of svhn.*20 images.*26032.*the path of"):
        load("svhn", "test", tmp_path)
    np.savez(tmp_path / "svhn20.npz", **arrays)
    part = dataclasses.replace(SOURCES["svhn"], splits=("test",), counts={"test": (20,)})
    monkeypatch.setitem(sources.SOURCES, "svhn20", part)
    assert len(load("svhn20", "test", tmp_path)) == 20


def test_only_photographs_may_have_been_resized_here(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **together(resized_by=np.array("Pillow 0")))
    with pytest.raises(DataError, match="not cifar10 as published"):
        load("cifar10", "train", tmp_path)
