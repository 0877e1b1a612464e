"""One's own photographs, data, networks and recipes, from the first command to the last.

Guarded: that a folder or file in place of a name goes through training, weights, the next
process and the tasks; that what cannot be read is refused in a sentence that helps; that
photographs of any kind are shown upright and as they are. Each failure that is named in a
comment was seen before it was mended.
"""

import errno
import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lpa_core import build_network, provenance
from lpa_core.cli import main
from lpa_core.data import DataError, TrainLoader, load
from lpa_core.data.dataset import data_folder
from lpa_core.data.own import held_in
from lpa_core.data.preprocess import MeanStd
from lpa_core.networks import list_networks
from lpa_core.networks.attach import BACKBONES
from lpa_core.results import condition, read_measurements, read_records
from lpa_core.results.store import records_frame
from lpa_core.show import read_photograph, show
from lpa_core.tasks.attack import AttackSettings, fgsm
from lpa_core.training import Record, RunSpec, Trained, load_trained, read_recipe, run

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("ant", "bee", "cow")


@pytest.fixture(autouse=True)
def _no_screen():
    with mpl.rc_context():
        mpl.use("agg")
        yield


def coloured(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A photograph of class `number`: bright in one colour, and not like any other."""
    width, height = size
    pixels = np.random.default_rng(number).integers(0, 80, (height, width, 3))
    pixels[..., number % 3] += 150
    return Image.fromarray(pixels.astype(np.uint8))


def write_photographs(
    folder: Path, count: int = 10, masks: bool = False, classes=CLASSES, suffix=".png"
) -> Path:
    for label, name in enumerate(classes):
        images = folder / name / "images" if masks else folder / name
        images.mkdir(parents=True)
        for number in range(count):
            coloured(label + 3 * number).save(images / f"{number}{suffix}")
            if masks:
                mask = np.zeros((30, 40), np.uint8)
                mask[5:20, 10:30] = 255
                (folder / name / "masks").mkdir(exist_ok=True)
                Image.fromarray(mask).save(folder / name / "masks" / f"{number}.png")
    return folder


@pytest.fixture
def photos(tmp_path):
    return write_photographs(tmp_path / "photos")


def said_by(capsys, *words: str) -> str:
    """The one line in which a command refuses."""
    assert main(list(words)) == 2
    lines = [s for s in capsys.readouterr().err.splitlines() if s.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


# ------------------------------------------------------- what the book says to type


def lines_of_the_readme() -> list[list[str]]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("<!-- own photographs:")[1].split("<!-- /own photographs -->")[0]
    lines = re.findall(r"^    python -m lpa_core (.+)$", block, re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.mark.slow
def test_the_readmes_three_commands_train_show_and_segment(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_photographs(Path("photos"), 20, True, ("cat", "dog"), ".jpg")
    commands = lines_of_the_readme()
    assert [words[0] for words in commands] == ["train", "show", "segment"]
    for words in commands:
        assert main(words) == 0, words
    (record,) = read_records("results/records.jsonl")
    assert record.epochs == 30 and record.metrics["test_error"] == 0  # red or green
    assert Image.open("attention.png").size[1] > 300
    network, *controls = read_measurements("results/measurements.jsonl")
    assert network.network == record.spec.network and len(controls) >= 3
    assert "segment on 8 of photos test" in capsys.readouterr().out


def examples_of_the_chapter() -> list[str]:
    cells = json.loads((ROOT / "notebooks/16_attach.ipynb").read_text("utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    found = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [code for code in found if "on_epoch" in code]


class Log(list):
    """TensorBoard's writer, and a run of Weights & Biases, as far as they are used."""

    def add_scalar(self, name, value, step):
        self.append((step, name, value))

    def log(self, values, step):
        self.extend((step, name, value) for name, value in values.items())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.append("closed")

    def close(self):
        self.append("closed")


def test_the_chapters_loggers_get_every_epoch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photographs(Path("photos"), 14)
    log = Log()
    given = {"SummaryWriter": lambda folder: log, "init": lambda **settings: log}
    for library in ("torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, library, SimpleNamespace(**given))
    examples = examples_of_the_chapter()
    assert len(examples) == 2
    for code in examples:
        log.clear()
        small = code.replace("epochs=30", "epochs=2, width=1 / 32")
        assert small != code
        shutil.rmtree("runs", ignore_errors=True)
        exec(small, {})
        (record_file,) = Path("runs").glob("*/record.json")
        history = Record.model_validate_json(record_file.read_text()).history
        assert log.pop() == "closed"
        for name in ("train_loss", "train_error", "test_error"):
            wanted = [(e.epoch, name, getattr(e, name)) for e in history]
            found = [entry for entry in log if entry[1] == name and entry[2] is not None]
            assert found == [entry for entry in wanted if entry[2] is not None]
        assert history[-1].test_error is not None


# ------------------------------------------------------------------- folders and files


def test_a_folder_of_class_folders_is_split_the_same_way_each_time(photos):
    train, test = load(str(photos), "train"), load(str(photos), "test")
    assert train.classes == test.classes == list(CLASSES)
    assert train.images.shape == (24, 32, 32, 3) and test.images.shape == (6, 32, 32, 3)
    assert train.labels.bincount().tolist() == [8, 8, 8]
    assert load(str(photos), "train").fingerprint == train.fingerprint
    whole = load(str(photos), "all")
    kept = {image.numpy().tobytes() for image in (*train.images, *test.images)}
    assert kept == {image.numpy().tobytes() for image in whole.images}
    assert len(kept) == 30


def test_pixels_are_pillows(photos):
    one = load(str(photos), "all", size=20).images[0]
    file = Image.open(photos / "ant" / "0.png").convert("RGB")
    expected = np.asarray(file.resize((20, 20), Image.Resampling.BICUBIC))
    assert np.array_equal(one.numpy(), expected)


def test_a_class_of_two_has_one_for_each_split():
    assert sorted(held_in([0, 0])) == [False, True]
    assert held_in([0]) == [True]


@pytest.mark.parametrize("name", ["test", "val"])
def test_a_split_of_ones_own_stays(tmp_path, name):
    write_photographs(tmp_path / "set" / "train", 4)
    write_photographs(tmp_path / "set" / name, 2)
    assert len(load(f"{tmp_path}/set", "train")) == 12
    assert len(load(f"{tmp_path}/set", "test")) == 6
    (tmp_path / "set" / name / "dog").mkdir()
    with pytest.raises(DataError, match=r"the class 'dog', which has no training images"):
        load(f"{tmp_path}/set", "test")


def test_photographs_may_lie_deeper_and_in_other_formats(tmp_path, capsys):
    for name, suffix in (("a", ".webp"), ("b", ".tif")):
        (tmp_path / "set" / name / "2024" / "may").mkdir(parents=True)
        for number in range(2):
            file = tmp_path / "set" / name / "2024" / "may" / f"{number}{suffix}"
            coloured(number).save(file)
        (tmp_path / "set" / name / "notes.heic").write_text("no photograph")
        (tmp_path / "set" / name / ".DS_Store").write_text("")
    (tmp_path / "set" / "__MACOSX").mkdir()
    assert len(load(f"{tmp_path}/set", "all")) == 4
    said = capsys.readouterr().err
    assert "2 other files left out: notes.heic, notes.heic\n" in said


def test_masks_come_with_their_photographs(tmp_path):
    folder = write_photographs(tmp_path / "set", 5, masks=True)
    data = load(str(folder), "all", size=40)
    assert data.masks is not None and data.masks.shape == (15, 40, 40)
    assert data.masks[0].float().mean().item() == pytest.approx(0.25, abs=0.02)
    (folder / "bee" / "masks" / "3.png").unlink()
    with pytest.raises(DataError, match=r"3.png has no mask at .*bee/masks/3.png"):
        load(str(folder), "all")


def prepared(path, **changes):
    draw = np.random.default_rng(0)
    arrays = {
        "x_train": draw.integers(0, 255, (6, 24, 24, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 0, 1, 0, 1]),
        "x_test": draw.integers(0, 255, (2, 24, 24, 3), dtype=np.uint8),
        "y_test": np.array([0, 1]),
        "classes": np.array(["a", "b"]),
    }
    np.savez(path, **(arrays | changes))
    return str(path)


def test_a_prepared_file_of_ones_own(tmp_path):
    name = prepared(tmp_path / "mine.npz")
    assert load(name, "test").images.shape == (2, 24, 24, 3)
    assert load(name, "train", size=16).images.shape == (6, 16, 16, 3)
    whole = {"x_all": np.zeros((10, 8, 8, 3), np.uint8), "y_all": np.arange(10) % 2}
    np.savez(tmp_path / "whole.npz", classes=np.array(["a", "b"]), **whole)
    assert len(load(f"{tmp_path}/whole.npz", "train")) == 8
    assert len(load(f"{tmp_path}/whole.npz", "test")) == 2


@pytest.mark.parametrize(
    "changes, said",
    [  # 8: it was told to delete its file, "to fetch it again"
        ({"classes": np.array(["a", None], object)}, "Python objects.*save it as an array"),
        ({"y_train": np.zeros(6, int)}, "all 6 train labels are 0"),  # 9
        ({"x_train": np.zeros((6, 24, 32, 3), np.uint8)}, "are 24x32 pixels"),  # 9
        ({"y_train": np.arange(6)}, "labels run from 0 to 5, but there are 2 classes"),
        ({"x_train": np.zeros((6, 24, 24, 3))}, "must be uint8"),
    ],
)
def test_a_prepared_file_of_ones_own_that_is_wrong(tmp_path, changes, said):
    name = prepared(tmp_path / "mine.npz", **changes)
    with pytest.raises(DataError, match=said) as caught:
        load(name, "train")
    assert "fetch" not in str(caught.value) and "delete" not in str(caught.value)


def test_coarse_labels_are_not_cifar100(tmp_path):
    """9: the images are right, and a hundred classes are said to be there."""
    coarse = {
        "x_train": np.zeros((50000, 1, 1, 3), np.uint8),
        "y_train": np.arange(50000) % 20,
        "x_test": np.zeros((10000, 1, 1, 3), np.uint8),
        "y_test": np.arange(10000) % 20,
    }
    np.savez(tmp_path / "cifar100.npz", classes=np.arange(100).astype(str), **coarse)
    with pytest.raises(DataError, match=r"is not cifar100 as published.* and 20 classes"):
        load("cifar100", "test", tmp_path)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda folder: None, "there is no folder or .npz file"),
        (lambda folder: folder.mkdir(), "has no folders in it: make one per class"),
        (lambda folder: (folder / "a").mkdir(parents=True), "a has no photographs in it"),
    ],
)
def test_a_folder_that_is_no_data_set(tmp_path, make, said):
    make(tmp_path / "set")
    with pytest.raises(DataError, match=said):
        load(f"{tmp_path}/set", "train")


def test_one_class_cannot_be_trained_on(tmp_path, capsys):
    (tmp_path / "set" / "a").mkdir(parents=True)
    for number in range(3):
        coloured(number).save(tmp_path / "set" / "a" / f"{number}.png")
    assert "at least two class folders" in said_by(
        capsys, "train", "--dataset", f"{tmp_path}/set"
    )


def test_a_damaged_photograph_is_named_and_can_be_left_out(photos, tmp_path, capsys):
    """8: the advice was to unpack the set again."""
    whole = (photos / "bee" / "3.png").read_bytes()
    (photos / "bee" / "3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        DataError, match=r"bee/3.png cannot be read .*prepare FOLDER .*--sk"
    ):
        load(str(photos), "all")
    target = tmp_path / "photos.npz"
    said_by(capsys, "prepare", str(photos), str(target))
    assert not target.exists()
    assert main(["prepare", str(photos), str(target), "--skip"]) == 0
    out, err = capsys.readouterr()
    assert "29" in str(sum(int(n) for n in out.split() if n.isdigit()) - 1)
    assert "left out:" in err and "bee/3.png" in err
    assert len(load(str(target), "train")) + len(load(str(target), "test")) == 29


def test_a_photograph_of_200_megapixels_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # twice as many is an error
    coloured(0).save(tmp_path / "large.png")
    with pytest.raises(DataError, match=r"large.png cannot be read .*ordinary size"):
        read_photograph(tmp_path / "large.png")


def test_an_unknown_name_says_that_a_path_would_do(capsys):
    said = said_by(capsys, "train", "--dataset", "cifar11")
    assert "unknown data set 'cifar11'" in said and "the path of a folder" in said


def test_a_batch_larger_than_the_set_says_what_sets_it():
    images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"4 images.*--batch-size"):
        TrainLoader(images, torch.zeros(4, dtype=torch.int64), MeanStd(), 8)


# ------------------------------------------------------- training, weights, tasks, show


def small(photos, folder, *words):
    return [
        *("train", "--dataset", str(photos), "--width", "0.03125", "--epochs", "1"),
        *("--batch-size", "8", "--runs", str(folder / "runs"), "--device", "cpu"),
        *("--records", str(folder / "records.jsonl"), *words),
    ]


def test_own_photographs_train_ship_and_are_shown(photos, tmp_path, capsys, monkeypatch):
    """The next process reads the weights, and needs the photographs no more."""
    weights = tmp_path / "own.safetensors"
    assert main(small(photos, tmp_path, "--weights", str(weights), "--lr", "0.03")) == 0
    (record,) = read_records(tmp_path / "records.jsonl")
    assert record.spec.overrides == {"batch_size": 8, "lr": 0.03}
    assert record.recipe is not None and record.recipe["lr"] == 0.03
    assert record.fingerprints["train"] == load(str(photos), "train").fingerprint
    trained = load_trained(weights)
    assert trained.classes == list(CLASSES)
    assert trained.facts["dataset"] == str(photos)
    photos.rename(tmp_path / "elsewhere")
    figure = tmp_path / "figure.png"
    words = ["show", str(tmp_path / "elsewhere/ant/0.png"), "--weights", str(weights)]
    assert main([*words, "--out", str(figure)]) == 0
    assert Image.open(figure).size[0] > 500
    again = read_records(tmp_path / "records.jsonl")[0]
    assert again.identity == record.id == record.identity


def test_the_same_images_elsewhere_are_the_same_run():
    data = {"train": "a", "test": "b"}
    one = RunSpec(dataset="/data/one/photos", epochs=1)
    other = RunSpec(dataset="/mnt/other/photos", epochs=1)
    assert one.identity(data) == other.identity(data)
    assert one.identity(data) != other.identity(data | {"test": "c"})


def test_changed_recipes_are_not_pooled_with_the_unchanged(photos, tmp_path):
    plain = RunSpec(epochs=1)
    changed = RunSpec(epochs=1, overrides={"lr": 0.05})
    assert changed.identity({}) != plain.identity({})
    assert changed.recipe_label() == "fast, lr=0.05"
    main(small(photos, tmp_path))
    (record,) = read_records(tmp_path / "records.jsonl")
    assert records_frame([record]).recipe.tolist() == ["fast, batch_size=8"]


def test_a_name_says_what_is_changed_in_the_recipe():
    """As file names allow; a grid has several changes of one recipe beside each other."""
    base = {"network": "vgg", "dataset": "cifar10"}
    for overrides, said in (
        ({"sizes": [0.5, 1.0]}, "sizes=0.5-1.0"),
        ({"muon_lr": None}, "muon_lr=None"),
        ({"crop": 0, "flip": False}, "crop=0_flip=False"),
    ):
        spec = RunSpec(**base, overrides=overrides)
        assert spec.label() == f"vgg_cifar10_w0.25_fast_{said}_s0"
    many = dict.fromkeys(("lr", "momentum", "weight_decay", "lr_decay"), 0.12345)
    long = RunSpec(**base, overrides=many)
    assert re.fullmatch(r"vgg_cifar10_w0\.25_fast_own-[0-9a-f]{8}_s0", long.label())
    assert long.label() != RunSpec(**base, overrides=many | {"lr": 0.1}).label()


@pytest.mark.parametrize(
    ("stated", "usual"),
    [
        ({"overrides": {"flip": True, "lr": 0.02}}, {"overrides": {"lr": 0.02}}),
        (
            {"overrides": {"flip": False, "crop": 0}},
            {"overrides": {"crop": 0, "flip": False}},
        ),
        (
            {"overrides": {"flip": 0, "crop": 0.0}},
            {"overrides": {"crop": 0, "flip": False}},
        ),
        ({"overrides": {"sizes": (1,)}}, {"overrides": {"sizes": [1.0]}}),
        ({"overrides": {"epochs": 5}}, {"epochs": 5}),
        ({"overrides": {"epochs": 10}}, {}),
        ({"overrides": {"epochs": 5}, "epochs": 7}, {"epochs": 7}),
        ({"overrides": {"flip": True}}, {}),
    ],
    ids=str,
)
def test_a_training_has_one_name_however_it_is_stated(stated, usual):
    """Else it was trained twice, and its repetitions stood in two rows."""
    one, other = RunSpec(**stated), RunSpec(**usual)
    assert one == other
    assert one.identity({}) == other.identity({})
    assert (one.label(), condition(one)) == (other.label(), condition(other))
    assert RunSpec.model_validate_json(one.model_dump_json()) == one


def test_masked_photographs_of_ones_own_are_segmented(tmp_path, capsys):
    """It stopped with "not all of coseg"."""
    folder = write_photographs(tmp_path / "set", 5, masks=True)
    weights, lines = tmp_path / "own.safetensors", tmp_path / "measurements.jsonl"
    assert main(small(folder, tmp_path, "--weights", str(weights))) == 0
    words = ["--dataset", str(folder), "--measurements", str(lines)]
    one = ["--weights", str(weights), *words]
    assert main(["segment", *one, "--methods", "centre", "--split", "all"]) == 0
    assert main(["look", *one]) == 0
    assert main(["query", *one, "--pairs", "10", "--split", "all"]) == 0
    assert main(["attack", *one, "--epsilons", "4"]) == 0
    assert main(["transfer", *one, "--folds", "2", "--split", "all"]) == 0
    found = {(m.task, m.data.split): m for m in read_measurements(lines)}
    centre = found["segment", "all"]
    assert centre.data.images == 15 and centre.data.masks
    assert set(centre.metrics) == {"all", *CLASSES}
    assert found["look", "test"].data.images == 3  # what it was not trained on


def test_an_attached_network_trains_ships_and_is_loaded(photos, tmp_path, monkeypatch):
    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
            self.fc = nn.Linear(8, 10)

        def forward(self, x):
            return self.fc(self.second(self.first(x)).mean(dim=(2, 3)))

    monkeypatch.setitem(BACKBONES, "tiny", Tiny)
    weights, lines = tmp_path / "own.safetensors", tmp_path / "measurements.jsonl"
    words = small(photos, tmp_path, "--weights", str(weights), "--image-size", "24")
    words[words.index("--width") : words.index("--width") + 2] = []
    assert main([*words, "--attach", "tiny", "--layers", "first", "second"]) == 0
    (record,) = read_records(tmp_path / "records.jsonl")
    assert record.spec.network_label() == "tiny+first+second"
    assert main(["export", str(weights), str(tmp_path / "half.safetensors")]) == 0
    trained = load_trained(tmp_path / "half.safetensors")
    seen = trained.attend(load(str(photos), "test", size=24).images)
    assert seen.maps["first"].shape == (6, 12, 12)
    words = ["--weights", str(weights), "--dataset", str(photos)]
    assert main(["attack", *words, "--epsilons", "4", "--measurements", str(lines)]) == 0
    assert read_measurements(lines)[0].network == "tiny"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--attach", "resnet19", "--layers", "layer2"], "unknown backbone 'resnet19'"),
        (["--attach", "resnet18"], "attach.layers"),
        (["--layers", "layer2"], "--layers needs --attach"),
        (
            ["--attach", "resnet18", "--layers", "layer9", "--batch-size", "8"],
            "has no layer 'layer9'",
        ),
        (["--attach", "resnet18", "--layers", "layer2"], "128 exceeds .*--batch-size"),
        (["--network", "vgg", "--attach", "resnet18"], "contradict each other"),
        (["--set", "lr"], "write it as field=value"),
        (
            ["--set", "rate=1"],
            "no field 'rate' to set: choose one of epochs, batch_size, lr",
        ),
        (["--set", "lr=high"], "lr: .*valid number"),
        (["--lr", "-1"], "lr -1.0: give 1e-12 to 1000"),
        (["--set", "preprocess=none"], "unknown preprocessing 'none': choose one"),
        (["--set", "sizes=[2]"], r"sizes \(2.0,\): give shares"),
        (["--recipe", "no.yaml"], "recipe file no.yaml cannot be read"),
        (["--recipe", "slow"], "unknown recipe 'slow'"),
    ],
)
def test_what_cannot_be_trained_is_said(photos, tmp_path, capsys, words, said):
    given = ["train", "--dataset", str(photos), "--runs", str(tmp_path / "runs"), *words]
    assert re.search(said, said_by(capsys, *given))
    assert not (tmp_path / "runs").exists()


def test_a_recipe_of_ones_own_from_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("based_on: paper\nlr: 0.05\nmilestones: [[3, 0.1]]\nepochs: 5\n")
    base, overrides = read_recipe(file)
    spec = RunSpec(recipe=base, overrides=overrides)
    recipe = spec.chosen_recipe()
    assert (recipe.lr, recipe.milestones) == (0.05, ((3, 0.1),))
    assert spec.chosen_epochs() == 5
    assert recipe.momentum == 0.9 and recipe.preprocess == "yuv"
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


def test_the_options_that_are_off_change_no_identity():
    """Records of before keep theirs."""
    assert RunSpec(overrides={}) == RunSpec()  # the command line makes them so
    for record in read_records()[:10]:
        assert record.spec.attach is record.spec.overrides is record.spec.image_size is None
        if record.code is None:
            assert record.id == record.identity


def test_the_callback_gets_the_epoch(photos, tmp_path):
    seen = []
    spec = RunSpec(
        network="vgg",
        dataset=str(photos),
        width=1 / 32,
        epochs=2,
        overrides={"batch_size": 8},
    )
    record = run(spec, runs=tmp_path, progress=False, device="cpu", on_epoch=seen.append)
    assert seen == record.history


# --------------------------------------------------------------------- one photograph


def test_a_rotated_photograph_is_shown_upright(tmp_path):
    """4: a cat on its side was a frog."""
    upright = coloured(1, (40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    found = read_photograph(tmp_path / "a.png")
    assert np.array_equal(found.numpy(), np.asarray(upright))


def white_and_red():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0] = 255  # red where it is hidden
    pixels[:4, :, 3] = 255
    return pixels


@pytest.mark.parametrize(
    "photograph, expected",
    [
        (np.full((8, 8), 7, np.uint8), (7, 7, 7)),
        (np.full((8, 8, 1), 7, np.uint8), (7, 7, 7)),
        (torch.full((3, 8, 8), 7, dtype=torch.uint8), (7, 7, 7)),
        (torch.full((1, 8, 8), 0.2), (51, 51, 51)),
        (np.full((8, 8, 3), 1.0, np.float64), (255, 255, 255)),
        (np.full((8, 8, 3), 200, np.int32), (200, 200, 200)),
        (Image.fromarray(np.full((8, 8), 257 * 9, np.uint16)), (9, 9, 9)),
        (white_and_red()[4:], (255, 255, 255)),
        (Image.fromarray(white_and_red()[:4]), (255, 0, 0)),
    ],
)
def test_photographs_of_any_kind(photograph, expected):
    found = read_photograph(photograph)
    assert found.dtype == torch.uint8 and found.shape[2] == 3
    assert found.reshape(-1, 3).unique(dim=0).tolist() == [list(expected)]


@pytest.mark.parametrize(
    "photograph, said",
    [
        (np.full((8, 8, 3), 65535, np.int32), "from 65535 to 65535"),  # 3: it was taken
        (np.full((8, 8, 3), 127.0), "of floats must be in .* runs from 127 to 127"),
        (np.full((8, 8, 3), np.nan), "from nan to nan"),
        (
            np.zeros((2, 3, 8, 8), np.uint8),
            r"shape \(2, 3, 8, 8\) is not a photograph",
        ),
        (np.zeros((8, 8, 3), bool), "this one is bool"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\)"),
        ([[1, 2], [3, 4]], "got list"),
    ],
)
def test_what_is_no_photograph_is_refused(photograph, said):
    with pytest.raises(ValueError, match=said):
        read_photograph(photograph)


def random_network(name="vgg-att2-concat-pc") -> Trained:
    network = build_network(name, num_classes=3, width=1 / 32).eval()
    return Trained(network, MeanStd().eval(), list(CLASSES), {"network": name})


def test_a_figure_has_each_level_on_one_scale_and_the_probabilities():
    trained = random_network()
    figure = show([coloured(0, (451, 300)), np.asarray(coloured(1))], trained, ["x", "y"])
    axes = figure.axes
    assert len(axes) == 2 * 4 + 1  # photograph, two levels, bars; the scale
    scales = {image.get_clim() for a in axes for image in a.images[1:]}
    assert len(scales) == 1
    # Density, so that a map that is even everywhere is 1 everywhere.
    means = [image.get_array().mean() for a in axes for image in a.images[1:]]
    assert len(means) == 4 and np.allclose(means, 1, atol=1e-4)
    widths = [[bar.get_width() for bar in a.patches] for a in axes if a.patches]
    assert [sum(w) for w in widths] == pytest.approx([100, 100], abs=0.01)


def test_one_photograph_or_a_batch_is_shown_as_well(tmp_path):
    trained, rows = random_network(), 4  # axes a row
    coloured(0).save(tmp_path / "a.png")
    whole = torch.from_numpy(np.stack([np.asarray(coloured(n)) for n in range(3)]))
    for one in (tmp_path / "a.png", str(tmp_path / "a.png"), coloured(0), whole[0]):
        assert len(show(one, trained).axes) == rows + 1
    assert len(show(whole, trained).axes) == 3 * rows + 1
    for none in ([], whole[:0]):
        with pytest.raises(ValueError, match="no photographs to show"):
            show(none, trained)


def test_a_network_without_maps_is_shown_without_them():
    assert len(show([coloured(0)], random_network("vgg")).axes) == 2


@pytest.mark.parametrize(
    "words, said",
    [
        (["nowhere.jpg"], "there is no photograph or folder nowhere.jpg"),
        (["{photos}"], "has no photographs in it"),
        (["{photos}/ant/0.png", "--out", "a.txt"], "ends in .png, .svg or .pdf"),
        (["{photos}/ant/0.png", "--network", "vgg-att9"], "no weights of vgg-att9"),
        (["{photos}/ant", "{photos}/bee"], "20 photographs are too many"),
    ],
)
def test_what_cannot_be_shown_is_said(photos, capsys, words, said):
    assert said in said_by(capsys, "show", *(w.format(photos=photos) for w in words))


# --------------------------------------------- floats, strengths, precision (3, 5 and 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_only_whole_bytes_are_images(dtype):
    """3: floats in [0, 1] were read as 0 to 255, and divided in place."""
    images = torch.ones(1, 32, 32, 3, dtype=dtype)
    with pytest.raises(ValueError, match=r"uint8 \(B, H, W, 3\); got torch.(float|int)32"):
        random_network().attend(images)
    assert images.max() == 1


@pytest.mark.parametrize("eps", [8 / 255, 0.5, 0.999])
def test_a_strength_of_less_than_a_level_is_refused(eps):
    """5: eps=8/255 was 8/255 of a level, and any network looked robust."""
    images = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    with pytest.raises(
        ValueError, match=r"eps counts levels of 1/255, so give 8 for 8/255"
    ):
        fgsm(random_network(), images, torch.tensor([0]), eps)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        AttackSettings(epsilons=[eps])


@pytest.mark.parametrize("name", [n for n in list_networks() if not n.startswith("rn164")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_network_computes_in_half_precision(name, dtype):
    width = 1 / 16 if name.startswith("rn") else 1 / 32
    network = build_network(name, num_classes=3, width=width).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images).softmax(dim=1)
        found = network.to(dtype)(images.to(dtype)).float().softmax(dim=1)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


# ------------------------------------------------------------------- systems (7)


def test_a_user_without_a_home_is_told_what_to_name(monkeypatch, capsys):
    def nobody(uid):
        raise KeyError(uid)

    for name in ("HOME", "LPA_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(DataError, match=r"no home folder: set \$LPA_DATA to a folder"):
        data_folder()
    assert "$LPA_DATA" in said_by(capsys, "train", "--dataset", "cifar10")
    monkeypatch.setenv("LPA_DATA", "/data")
    assert data_folder() == Path("/data")


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def without_locks(monkeypatch, request):
    """A file system that has none; it was "error: [Errno 38]", and later it hung."""

    def refuses(file, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", refuses)
    provenance.has_locks.cache_clear()
    yield
    provenance.has_locks.cache_clear()


def test_a_file_system_without_locks_will_do(tmp_path, without_locks, capsys):
    for text in ('{"a": 1}', '{"a": 2}'):
        provenance.append_line(text, tmp_path / "lines.jsonl")
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and f"{tmp_path} is on a file system without locks" in said[0]
    with (
        provenance.exclusive_lock(tmp_path / "busy", "taken"),
        pytest.raises(provenance.RecordError, match="busy.held exists.*delete it"),
        provenance.exclusive_lock(tmp_path / "busy", "taken"),
    ):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["lines.jsonl"]
    texts = [json.dumps({"number": n}) for n in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda t: provenance.append_line(t, tmp_path / "x.jsonl"), texts))
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 20


def test_a_lock_left_behind_ends_in_one_line(tmp_path, without_locks, monkeypatch):
    monkeypatch.setattr(provenance, "SOFT_TIMEOUT", 0.2)
    left = tmp_path / ".lines.jsonl.lock.held"
    left.write_text(f"{os.getpid()}\nanother-machine\n")
    with pytest.raises(provenance.RecordError, match=rf"{left.name} exists.*delete it"):
        provenance.append_line('{"a": 1}', tmp_path / "lines.jsonl")
    assert not (tmp_path / "lines.jsonl").exists()


def test_threads_append_whole_lines(tmp_path):
    path = tmp_path / "lines.jsonl"
    texts = [json.dumps({"number": n, "long": "x" * 5000}) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: provenance.append_line(text, path), texts))
    found = {provenance.unseal(line)["number"] for line in path.read_text().splitlines()}
    assert found == set(range(40))


def test_a_system_without_fcntl_and_resource_will_do(tmp_path):
    """Windows has neither."""
    code = (
        "import sys; sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "import torch\n"
        "from pathlib import Path\n"
        "from lpa_core import provenance\n"
        "provenance.append_line('{\"a\": 1}', Path('lines.jsonl'))\n"
        "assert provenance.peak_memory(torch.device('cpu')) == 0\n"
    )
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    subprocess.run(command, check=True, cwd=tmp_path, env=env, timeout=120)
    assert (tmp_path / "lines.jsonl").read_text().count("digest") == 1
