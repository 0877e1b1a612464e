"""Weights on disk: safetensors, with their facts in a JSON file beside them.

The JSON is written last and carries the weights' checksum: weights without it, or with
another checksum, are half-written or altered, and are never loaded.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from lpa_core.data import Preprocess, build_preprocess
from lpa_core.data.loaders import to_network_input
from lpa_core.networks import AttentionOutput, Network, build_network
from lpa_core.provenance import write_whole

__all__ = [
    "Trained",
    "WeightsError",
    "copy_pair",
    "export_weights",
    "load_trained",
    "read_pair",
    "start_from",
    "write_pair",
]


class WeightsError(RuntimeError):
    """Weights are missing, incomplete, altered, or not for this network."""


def write_pair(path: Path, tensors: dict[str, Tensor], facts: dict) -> str:
    """Write tensors to `path`, then `facts` and their checksum to its .json; returns it."""
    content = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    path.with_suffix(".json").unlink(missing_ok=True)
    write_whole(path, content)
    text = json.dumps(facts | {"sha256": digest}, indent=1) + "\n"
    write_whole(path.with_suffix(".json"), text.encode())
    return digest


def copy_pair(source: Path, target: Path) -> None:
    """Weights and their JSON, byte for byte.

    Raises:
        WeightsError: those at `source` are missing, incomplete or altered.
    """
    read_pair(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".json").unlink(missing_ok=True)
    for suffix in (".safetensors", ".json"):
        write_whole(target.with_suffix(suffix), source.with_suffix(suffix).read_bytes())


def read_pair(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and facts that `write_pair` wrote.

    Raises:
        WeightsError: a file is missing, incomplete or altered.
    """
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise WeightsError(f"no whole weights at {path} ({error})") from error
    found = hashlib.sha256(content).hexdigest()
    if found != facts.get("sha256"):
        raise WeightsError(
            f"{path} is incomplete or altered: its sha256 is {found}, "
            f"{path.with_suffix('.json').name} says {facts.get('sha256')}"
        )
    return load(content), facts


@dataclass(frozen=True)
class Trained:
    """A trained network with the normalisation that it was trained with.

    Attributes:
        network, preprocess: in evaluation mode.
        classes: names of its classes.
        facts: what the JSON beside the weights says.
    """

    network: Network
    preprocess: Preprocess
    classes: list[str]
    facts: dict

    @torch.no_grad()
    def attend(self, images: Tensor, query: Tensor | None = None) -> AttentionOutput:
        """`attend` for uint8 images (B, H, W, 3), resized to what the network takes."""
        x = to_network_input(images, self.preprocess, self.network.image_size)
        return self.network.attend(x, query)


def load_trained(path: str | Path) -> Trained:
    """A trained network from its weights.

    Raises:
        WeightsError: the weights are missing, incomplete, altered or of another network.
    """
    path = Path(path)
    tensors, facts = read_pair(path)
    try:
        network = build_network(
            facts["network"],
            num_classes=len(facts["classes"]),
            width=facts["width"],
            image_size=facts["image_size"],
            dropout=facts["dropout"],
            add_log_probabilities=facts.get("add_log_probabilities", False),
        )
        preprocess = build_preprocess(facts["preprocess"])
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{path.with_suffix('.json')} does not describe a network: {error!r}"
        ) from error
    for module, prefix in ((network, "network."), (preprocess, "preprocess.")):
        own = {
            name.removeprefix(prefix): full(tensor)
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise WeightsError(
                f"{path} does not fit {facts['network']} of width {facts['width']} with "
                f"{len(facts['classes'])} classes: {error}"
            ) from error
    network = network.to(memory_format=torch.channels_last).eval()
    return Trained(network, preprocess.eval(), facts["classes"], facts)


def start_from(network: Network, path: str | Path, facts: dict) -> str:
    """Give a network the weights of a trained one, all but the classifier.

    Args:
        network: takes them over; its classifier stays as it was initialised.
        path: weights.safetensors of a run, or shipped weights.
        facts: what the weights must be of: {"network": …, "width": …, "dataset": …}.

    Returns:
        The weights' sha256.

    Raises:
        WeightsError: they are missing, incomplete or altered, or of something else.
    """
    tensors, found = read_pair(Path(path))
    for name, wanted in facts.items():
        if found.get(name) != wanted:
            raise WeightsError(
                f"{path} cannot be started from: its {name} is {found.get(name)!r}, the "
                f"run's is {wanted!r}"
            )
    prefix = "network."
    kept = {
        name.removeprefix(prefix): full(tensor)
        for name, tensor in tensors.items()
        if name.startswith(prefix) and "classifier" not in name
    }
    own = network.state_dict()
    fresh = {name for name in own if "classifier" in name}
    if set(kept) != set(own) - fresh or any(kept[k].shape != own[k].shape for k in kept):
        raise WeightsError(f"{path} does not fit {facts['network']}: it has other layers")
    network.load_state_dict(kept, strict=False)
    return found["sha256"]


def full(tensor: Tensor) -> Tensor:
    """In full precision, where it has one."""
    return tensor.float() if tensor.is_floating_point() else tensor


def export_weights(source: str | Path, target: str | Path) -> str:
    """A run's weights in half precision, for shipping; returns their sha256.

    Raises:
        WeightsError: the weights at `source` are missing, incomplete or altered.
    """
    tensors, facts = read_pair(Path(source))
    half = {k: t.half() if t.is_floating_point() else t for k, t in tensors.items()}
    facts["exported_from"] = facts.pop("sha256")
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    return write_pair(Path(target), half, facts)
