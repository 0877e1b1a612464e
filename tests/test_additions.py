"""What CONTRIBUTING.md says is enough to add something is enough."""

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest
import readme
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


def test_a_chapter_is_a_notebook_and_two_entries(tmp_path):
    """The README, the opening page and the chapter before it then know it."""
    for name in ("_toc.yml", "_config.yml", "notebooks", "teaching"):
        there = ROOT / name
        (shutil.copytree if there.is_dir() else shutil.copy)(there, tmp_path / name)
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    first, second, *_ = re.findall(r"- file: (notebooks/\w+)", toc)
    head = nbformat.v4.new_markdown_cell(
        "# Toys\n\n| profile | what runs | time and hardware |\n|---|---|---|\n"
        "| smoke, laptop, gpu, paper | toys | seconds, any CPU |"
    )
    last = nbformat.v4.new_markdown_cell(f"**Next:** [on]({Path(second).name}.ipynb)")
    toy = nbformat.v4.new_notebook(cells=[head, last])
    nbformat.write(toy, tmp_path / "notebooks/99_toys.ipynb")
    name_it(tmp_path, first)
    with pytest.raises(ValueError, match="chapters.yml has no entry for notebooks/99_toys"):
        readme.contents(tmp_path)
    with (tmp_path / "teaching/chapters.yml").open("a") as taught:
        taught.write("99_toys:\n  afterwards: play\n  exercises: {}\n  questions: []\n")
    assert "| 2 | {doc}`../notebooks/99_toys` | play |" in readme.contents(tmp_path)
    row = "| [2 Toys](notebooks/99_toys.ipynb) | play | seconds, any CPU |"
    assert row in readme.chapters(tmp_path)
    ((path, stored),) = readme.lead_on(tmp_path).items()
    assert path == tmp_path / f"{first}.ipynb"
    assert "**Next:** [Toys](99_toys.ipynb)" in nbformat.reads(stored, 4).cells[-1].source
    path.write_text(stored, encoding="utf-8")
    assert readme.lead_on(tmp_path) == {}


def name_it(root: Path, before: str) -> None:
    """Put the chapter into the contents, after another one."""
    toc = (root / "_toc.yml").read_text(encoding="utf-8")
    entry = re.search(rf"^ *- file: {before}\n", toc, re.MULTILINE)[0]
    added = toc.replace(entry, entry + entry.replace(before, "notebooks/99_toys"))
    (root / "_toc.yml").write_text(added, encoding="utf-8")


def test_every_chapter_leads_to_the_one_after_it():
    assert readme.lead_on(ROOT) == {}


@pytest.mark.parametrize(
    "what, most",
    {"network": 2, "data set": 1, "recipe": 1, "task": 2, "chapter": 3}.items(),
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
