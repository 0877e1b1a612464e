"""Checks that an installed lpa_core works; CI runs it on each Python, outside of the clone.

    pip install lpa_core-….whl ipykernel papermill && python tools/confidence.py

It draws, trains, measures and executes a chapter's first cells in a temporary folder. It
takes a few minutes on two cores and needs no internet.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

# Wrong types and parameters must stop a chapter on every Python.
CELLS = [
    ("profile: str = 'smoke'  # the size\nseed: int = 0  # of all", ["parameters"]),
    ("from lpa_core import notebook\nsettings = notebook.begin(globals())", []),
    ("assert settings.parameters == {'profile': 'smoke', 'seed': 0}", []),
    ("mine: 'Whatever' = print", []),
    ("assert notebook.begin(globals()).parameters == settings.parameters", []),
]


def lpa(*words: str) -> str:
    command = [sys.executable, "-m", "lpa_core", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


def photographs(folder: Path) -> None:
    """Two classes of photographs, bright at the top or at the bottom, with masks."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for name, rows in (("above", slice(0, 24)), ("below", slice(24, 48))):
        for kind in ("images", "masks"):
            (folder / name / kind).mkdir(parents=True)
        for number in range(20):
            mask = np.zeros((48, 60), bool)
            mask[rows, 10:50] = True
            image = draw.integers(0, 90, (48, 60, 3)) + 160 * mask[..., None]
            Image.fromarray(image.astype(np.uint8)).save(
                folder / name / "images" / f"{number}.jpg"
            )
            Image.fromarray(mask).save(folder / name / "masks" / f"{number}.png")


def check_commands() -> None:
    """Train on own photographs, show, segment; an attached network; the records."""
    photographs(Path("photos"))
    small = ["--dataset", "photos", "--epochs", "4", "--batch-size", "8"]
    files = ["--records", "records.jsonl", "--weights"]
    lpa("train", *small, "--width", "0.0625", *files, "own.safetensors")
    attached = ["--attach", "resnet18", "--layers", "layer1", "layer2"]
    lpa("train", *attached, *small, *files, "attached.safetensors")
    for weights in ("own.safetensors", "attached.safetensors"):
        lpa("show", "photos/above/images/0.jpg", "--weights", weights)
        measured = ["--measurements", "measurements.jsonl"]
        lpa("segment", "--dataset", "photos", "--weights", weights, *measured)
    lines = Path("records.jsonl").read_text(encoding="utf-8").splitlines()
    errors = [json.loads(line)["metrics"]["test_error"] for line in lines]
    if min(errors) > 25:
        sys.exit(f"no network separates bright top from bright bottom: {errors} % wrong")


def check_threads() -> None:
    import torch
    from torchvision.models import resnet18

    from lpa_core.networks import attach

    network = attach(resnet18(), ["layer2"], num_classes=3, image_size=32).eval()
    batches = [torch.rand(2, 3, 32, 32) for _ in range(16)]
    expected = [network(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(network, batches))
    if not all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)):
        sys.exit("threads that share a network interfere with each other")


def notebook(cells: list[tuple[str, list[str]]]) -> dict:
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {
                "name": "python3",
                "display_name": "Python 3",
                "language": "python",
            }
        },
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell-{number}",
                "metadata": {"tags": tags},
                "execution_count": None,
                "outputs": [],
                "source": source,
            }
            for number, (source, tags) in enumerate(cells)
        ],
    }


def check_chapter() -> None:
    """A chapter's parameters are found and checked, from papermill and from readers."""
    Path("chapter.ipynb").write_text(json.dumps(notebook(CELLS)), encoding="utf-8")
    for words, stops in (([], False), (["-p", "seed", "no"], True)):
        command = [sys.executable, "-m", "papermill", "chapter.ipynb", "out.ipynb", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        said = done.stderr[-2000:]
        if bool(done.returncode) != stops or (stops and "ParameterError" not in said):
            sys.exit(f"the chapter with {words} ended with {done.returncode}: {said}")


def main() -> None:
    import lpa_core

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        check_threads()
        check_commands()
        check_chapter()
        os.chdir("/")
    print(f"lpa_core {lpa_core.__version__} works on Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
