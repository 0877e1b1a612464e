"""The data of the book's interactive pages: networks, local features, photographs.

    python tools/lab.py _build/lab

writes scripts that contain bytes, because a page opened as a file can only load scripts:

* `data/networks/NAME.js`: the ONNX files of shipped networks (`export --format onnx`);
* `data/explorer/*.js`: six photographs and the networks' features, in half precision;
* `data/catalogue.js`: a list of these files and their sizes;
* `data/*.png`: pictures for readers without JavaScript;
* `expected.json`: torch's logits and maps, for the tests. It is not part of the book.

The same code, weights and libraries produce the same bytes.
"""

import argparse
import base64
import gzip
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lpa_core.data import count_images, load, load_photographs, photograph_masks
from lpa_core.data.loaders import to_network_input
from lpa_core.networks import build_network
from lpa_core.provenance import write_whole
from lpa_core.results import shipped
from lpa_core.training import Trained, export_onnx, load_trained

# For the page on readers' own photographs; networks without shipped weights are left out.
ON_PHOTOGRAPHS = [
    ("vgg-att3-concat-pc", "cifar10"),
    ("vgg-att2-concat-dp", "cifar10"),
    ("vgg-att3-concat-pc", "cifar100"),
]
LARGEST = 12_000_000  # bytes that a reader may download in total
EXPLORED = ["vgg-att3-concat-pc", "vgg-att2-concat-dp", "vgg-att2-concat-tanh"]
STATES = ["trained", "pytorch", "scripts"]
SEED = 0
TEST_IMAGES = 200
SIDE = 256  # pixels per side of a displayed photograph


def script(name: str, content: bytes) -> bytes:
    """A script that passes the compressed content to the page under a name."""
    packed = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
    return f"lpaData({json.dumps(name)}, {json.dumps(packed)});\n".encode()


def weights_of(network: str, dataset: str) -> Path | None:
    found = sorted(shipped("weights").glob(f"{network}_{dataset}_*.safetensors"))
    return found[0] if found else None


# ------------------------------------------------------------- a reader's own photograph


def write_networks(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Trained]]:
    """Write the networks' scripts; returns their catalogue entries, and the networks."""
    entries, networks = [], {}
    for network, dataset in ON_PHOTOGRAPHS:
        weights = weights_of(network, dataset)
        if weights is None:
            continue
        with tempfile.TemporaryDirectory() as work:
            file = Path(work, "network.onnx")
            export_onnx(weights, file)
            content = script(f"networks/{weights.stem}", file.read_bytes())
        write_whole(folder / f"networks/{weights.stem}.js", content)
        trained = load_trained(weights)
        networks[weights.stem] = trained
        entries.append(
            {
                "file": weights.stem,
                "network": network,
                "dataset": dataset,
                "classes": trained.classes,
                "bytes": len(content),
            }
        )
    total = sum(entry["bytes"] for entry in entries)
    if total > LARGEST:
        raise SystemExit(f"error: the networks take {total} bytes, more than {LARGEST}")
    return entries, networks


def expected(networks: dict[str, Trained]) -> dict[str, Any]:
    """Torch's logits and maps for the photographs, and for test images of two sets.

    The embedded set is always available; CIFAR is not downloaded for this.
    """
    numbers: dict[str, Any] = {}
    for name, trained in networks.items():
        sets = {
            "photographs": load_photographs(trained.network.image_size)[1],
            "embedded": load("embedded", split="test").images[:TEST_IMAGES],
        }
        if count_images(own := trained.facts["dataset"]).get("test"):
            sets[own] = load(own, split="test").images[:TEST_IMAGES]
        numbers[name] = {label: seen_by(trained, images) for label, images in sets.items()}
    return numbers


def seen_by(trained: Trained, images: Tensor) -> dict[str, Any]:
    seen = trained.attend(images)
    return {"logits": seen.logits.tolist(), "maps": flat(seen.maps)}


def flat(maps: dict[str, Tensor]) -> dict[str, list[list[float]]]:
    return {name: one.flatten(1).tolist() for name, one in maps.items()}


# ------------------------------------------------------------------------- the explorer


def beginning(trained: Trained, state: str, images: Tensor) -> Trained:
    """The untrained network, initialised by PyTorch or like the authors' scripts.

    The convolutions are drawn alike. The scripts draw u with standard deviation sqrt(2)
    and BatchNorm's gains from U(0, 1); PyTorch draws a small u, and its gains are 1.
    BatchNorm's statistics are those of the six photographs, as in a first training step.
    """
    torch.manual_seed(SEED)
    facts = trained.facts
    network = build_network(
        facts["network"],
        num_classes=len(trained.classes),
        width=facts["width"],
        image_size=facts["image_size"],
        dropout=0.0,
    )
    begin(network, state)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
    with torch.no_grad():
        network(to_network_input(images, trained.preprocess, network.image_size))
    return Trained(network.eval(), trained.preprocess, trained.classes, facts)


def begin(network: Any, state: str) -> None:
    """Draw u and BatchNorm's gains like PyTorch or like the scripts."""
    for estimator in network.head.estimators.values():
        if not hasattr(estimator.score, "u"):
            continue
        u = estimator.score.u
        if state == "scripts":
            nn.init.normal_(u.weight, std=2**0.5)
            nn.init.zeros_(u.bias)
        else:
            u.reset_parameters()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            (nn.init.uniform_ if state == "scripts" else nn.init.ones_)(module.weight)


@torch.no_grad()
def explore(trained: Trained, images: Tensor) -> tuple[bytes, dict[str, Any]]:
    """The data from which the page computes the maps, and torch's maps.

    Torch's: each photograph with its own query, and with that of the next one. The page
    gets four bytes of length, JSON, then the local features (photographs, C, n) of each
    level in half precision.
    """
    network: Any = trained.network
    x = to_network_input(images, trained.preprocess, network.image_size)
    local, parts = {}, []
    for name, layer in network.trunk.named_children():
        x = layer(x)
        if name in network.attended:
            local[name] = x
    seen = trained.attend(images)
    levels = []
    for name, features in local.items():
        estimator = network.head.estimators[name]
        projection = network.head.projections
        channels = estimator.channels
        g = (
            projection[str(channels)](seen.query)
            if str(channels) in projection
            else seen.query
        )
        u = getattr(estimator.score, "u", None)
        levels.append(
            {
                "name": name,
                "channels": channels,
                "side": features.shape[-1],
                "g": [[round(v, 6) for v in row] for row in g.tolist()],
                "u": None if u is None else u.weight.flatten().tolist(),
                "b": 0 if u is None else u.bias.item(),
            }
        )
        parts.append(features.contiguous().numpy().astype("<f2").tobytes())
    score = trained.facts["network"].rsplit("-", 1)[-1]
    head = json.dumps({"score": score, "levels": levels}).encode()
    head += b" " * (-len(head) % 4)
    content = len(head).to_bytes(4, "little") + head + b"".join(parts)
    turned = trained.attend(images, query=seen.query.roll(-1, dims=0))
    return content, {"own": flat(seen.maps), "next": flat(turned.maps)}


def write_photographs(folder: Path) -> None:
    """The six photographs, and the object's coverage of each of 32x32 cells."""
    from PIL import Image

    names, images = load_photographs(SIDE)
    masks = photograph_masks(SIDE).numpy()
    shown = []
    for name, image, mask in zip(names, images, masks, strict=True):
        jpeg = io.BytesIO()
        Image.fromarray(image.numpy()).save(jpeg, "JPEG", quality=82)
        cells = mask.reshape(32, SIDE // 32, 32, SIDE // 32).mean(axis=(1, 3))
        shown.append(
            {
                "name": name,
                "jpeg": base64.b64encode(jpeg.getvalue()).decode(),
                "covered": [round(v, 4) for v in cells.flatten().tolist()],
            }
        )
    content = script("explorer/photographs", json.dumps(shown).encode())
    write_whole(folder / "explorer/photographs.js", content)


def write_explorer(folder: Path) -> dict[str, Any]:
    """The explorer's scripts; returns torch's maps, for the tests."""
    write_photographs(folder)
    _, images = load_photographs()
    numbers: dict[str, Any] = {}
    for network in EXPLORED:
        weights = weights_of(network, "cifar10")
        assert weights is not None, f"no weights of {network} ship with the book"
        trained = load_trained(weights)
        for state in STATES:
            at = trained if state == "trained" else beginning(trained, state, images)
            content, maps = explore(at, images)
            name = f"explorer/{network}-{state}"
            write_whole(folder / f"{name}.js", script(name, content))
            numbers[f"{network}-{state}"] = maps
    return numbers


# ------------------------------------------------------------------ without JavaScript


def write_pictures(folder: Path) -> None:
    """Static pictures: nine positions with two queries; a photograph under its maps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(6.4, 2.2), layout="constrained")
    for axis, (title, weights) in zip(axes, nine_positions().items(), strict=True):
        axis.imshow(weights, cmap="inferno", vmin=0, vmax=0.5)
        for (y, x), value in np.ndenumerate(weights.numpy()):
            ink = "black" if value > 0.3 else "white"
            axis.text(x, y, f"{value:.2f}", ha="center", va="center", color=ink)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    write_picture(folder / "score.png", figure)

    _, images = load_photographs()
    _, large = load_photographs(SIDE)
    weights = weights_of("vgg-att3-concat-pc", "cifar10")
    assert weights is not None
    seen = load_trained(weights).attend(images[:1])
    figure, axes = plt.subplots(1, 4, figsize=(8, 2.3), layout="constrained")
    axes[0].imshow(large[0])
    axes[0].set_title("photograph")
    for axis, (name, attention) in zip(axes[1:], seen.maps.items(), strict=True):
        axis.imshow(large[0])
        extent = (0, SIDE, SIDE, 0)
        axis.imshow(attention[0], cmap="inferno", alpha=0.7, extent=extent)
        axis.set_title(name.replace("layer", "layer "))
    for axis in axes:
        axis.set_axis_off()
    write_picture(folder / "maps.png", figure)


def nine_positions() -> dict[str, Tensor]:
    """The weights of chapter 2's nine features: dp with two queries, pc with any query."""
    furry = torch.tensor([[0, 0.5, 0], [0.5, 2, 1], [0, 1, 0]])
    green = torch.tensor([[1, 1, 1], [1, 0, 0.5], [1, 0.5, 1]])
    g, u = torch.tensor([1, -0.5]), torch.tensor([1.0, 0])
    scores = {
        "dp, query g": g[0] * furry + g[1] * green,
        "dp, query −g": -g[0] * furry - g[1] * green,
        "pc, any query": u[0] * furry + u[1] * green,
    }
    return {k: c.flatten().softmax(0).view(3, 3) for k, c in scores.items()}


def write_picture(path: Path, figure: Any) -> None:
    content = io.BytesIO()
    figure.savefig(content, dpi=100, metadata={"Software": None})
    write_whole(path, content.getvalue())


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What the interactive pages load.")
    parser.add_argument("folder", type=Path, help="where to write, such as _build/lab")
    out = parser.parse_args(words).folder
    shutil.rmtree(out, ignore_errors=True)
    data = out / "data"
    for inner in ("networks", "explorer"):
        (data / inner).mkdir(parents=True)
    write_pictures(data)
    explorer = write_explorer(data)
    entries, networks = write_networks(data)
    catalogue = f"window.lpaCatalogue = {json.dumps(entries)};\n"
    write_whole(data / "catalogue.js", catalogue.encode())
    said = {"networks": expected(networks), "explorer": explorer}
    write_whole(out / "expected.json", json.dumps(said).encode())


if __name__ == "__main__":
    main()
