"""What CONTRIBUTING.md says is enough to add something is enough, for all but a chapter."""

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lpa_core import build_network, list_networks
from lpa_core.data import SOURCES, Source, list_datasets, load
from lpa_core.networks.vgg import AttentionVGG
from lpa_core.networks.zoo import ZOO
from lpa_core.results import read_measurements
from lpa_core.training import RunSpec
from lpa_core.training.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]


def test_a_network_is_one_entry(monkeypatch):
    toy = partial(AttentionVGG, levels=1, compatibility="tanh")
    monkeypatch.setitem(ZOO, "toy-network", toy)
    assert "toy-network" in list_networks()
    network = build_network("toy-network", num_classes=3, width=1 / 32)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert RunSpec(network="toy-network").network == "toy-network"


def test_a_data_set_is_one_entry(monkeypatch, tmp_path):
    source = Source(splits=("train", "test"), origin="made here", class_count=2)
    monkeypatch.setitem(SOURCES, "toy-set", source)
    images, labels = np.zeros((4, 32, 32, 3), np.uint8), np.array([0, 1, 0, 1])
    arrays = {f"x_{split}": images for split in source.splits}
    arrays |= {f"y_{split}": labels for split in source.splits}
    np.savez(tmp_path / "toy-set.npz", classes=np.array(["a", "b"]), **arrays)
    assert "toy-set" in list_datasets()
    assert load("toy-set", "train", tmp_path).labels.tolist() == [0, 1, 0, 1]
    assert RunSpec(network="vgg", dataset="toy-set").dataset == "toy-set"


def test_a_recipe_is_one_entry(monkeypatch):
    toy = RECIPES["fast"].model_copy(update={"name": "toy-recipe", "epochs": 3})
    monkeypatch.setitem(RECIPES, "toy-recipe", toy)
    assert RunSpec(network="vgg", recipe="toy-recipe").chosen_epochs() == 3


TOY_TASK = """
from lpa_core.tasks.base import Metrics, Settings, Task, register


class ToySettings(Settings):
    def cases(self, dataset, networks):
        return [(None, self)]


class ToyMetrics(Metrics):
    images: int


def count_images(trained, data, settings, progress):
    return ToyMetrics(images=len(data))


register(
    Task(
        name="toy-task",
        summary="how many images there are",
        dataset="embedded",
        options=ToySettings,
        settings=ToySettings,
        metrics=ToyMetrics,
        run=count_images,
        say=lambda metrics, settings: f"{metrics.images} images",
        needs_weights=False,
    )
)
"""


def test_a_task_is_one_file_of_the_package(tmp_path):
    """And its entry in the book's reference, which test_reference.py asks for."""
    package = tmp_path / "lpa_core"
    shutil.copytree(ROOT / "lpa_core", package, ignore=lambda *_: ["__pycache__"])
    (package / "tasks/toy.py").write_text(TOY_TASK)

    words = ["toy-task", "--images", "7", "--measurements", "measured.jsonl"]
    done = subprocess.run(
        [sys.executable, "-m", "lpa_core", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "toy-task on 7 of embedded test: 7 images" in done.stdout
    (measured,) = read_measurements(tmp_path / "measured.jsonl")
    assert measured.metrics == {"images": 7}


@pytest.mark.parametrize(
    "what, most",
    {"network": 2, "data set": 1, "recipe": 1, "task": 2, "chapter": 6}.items(),
)
def test_an_addition_touches_few_files(what, most):
    """Each of a list's steps is one file, and its title says how many there are."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"### … a {what} \((\d) files?\)\n(.+?)(?=\n#)", text, re.DOTALL)
    said, steps = int(found[0]), re.findall(r"^\d\. ", found[1], re.MULTILINE)
    assert said == len(steps) <= most


@pytest.mark.parametrize("name", ["network", "dataset", "recipe"])
def test_what_was_not_added_is_refused(name):
    with pytest.raises(ValueError, match="toy-"):
        RunSpec(**({"network": "vgg"} | {name: f"toy-{name}"}))


def test_the_lists_name_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:lpa_core|tests|tools|book)/[\w/]+\.\w+)`", text)
    paths = [path for path in paths if "NAME" not in path]
    assert len(set(paths)) >= 6
    assert [path for path in set(paths) if not (ROOT / path).exists()] == []
