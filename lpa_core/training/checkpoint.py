"""Weights and checkpoints on disk: safetensors, with facts in a JSON file beside them.

The JSON is written last. It contains the sha256 of the tensors' file and of its own facts,
so that incomplete or altered files are never loaded.
"""

import hashlib
import json
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from lpa_core.data import Preprocess, build_preprocess
from lpa_core.data.loaders import check_uint8, to_network_input
from lpa_core.networks import (
    Attachment,
    AttentionOutput,
    Network,
    build_attached,
    build_network,
)
from lpa_core.networks.base import to_channels_last
from lpa_core.provenance import check_appendable, write_whole
from lpa_core.training.config import (
    RunSpec,
    explain,
    network_version,
    training_version,
)
from lpa_core.training.optim import Optimiser
from lpa_core.training.record import Progress

__all__ = [
    "CheckpointWriter",
    "Trained",
    "WeightsError",
    "check_target",
    "copy_pair",
    "export_weights",
    "load_checkpoint",
    "load_trained",
    "read_pair",
    "run_folder",
    "save_checkpoint",
    "save_weights",
    "seal_pair",
    "start_from",
    "write_pair",
]


def run_folder(runs: Path, label: str, identity: str) -> Path:
    """The folder of a run's files: `runs`/`label`_`identity`.

    A folder with this identity is the run's whatever it is called: labels have changed
    since some were begun.
    """
    return min(runs.glob(f"*_{identity}"), default=runs / f"{label}_{identity}")


class WeightsError(RuntimeError):
    """Weights are missing, incomplete, altered, or not for this network."""


# ------------------------------------------------------------------- tensors and facts


def facts_path(path: Path) -> Path:
    """The JSON beside weights.

    Raises:
        WeightsError: the name does not end in .safetensors; otherwise "a.b" and "a.c"
            would share one JSON.
    """
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: a file of weights must end in .safetensors")
    return path.with_suffix(".json")


def facts_digest(facts: dict[str, Any]) -> str:
    """sha256 of facts, including the tensors' sha256, independent of the JSON's layout."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def write_facts(path: Path, facts: dict[str, Any]) -> None:
    text = json.dumps(facts | {"facts_sha256": facts_digest(facts)}, indent=1) + "\n"
    write_whole(facts_path(path), text.encode())


def write_pair(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> str:
    """Write tensors to `path`, then `facts` to its .json; returns the tensors' sha256.

    Raises:
        WeightsError: the path does not end in .safetensors.
        OSError: they cannot be written; the error names the file.
    """
    facts_path(path).unlink(missing_ok=True)
    content = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    write_whole(path, content)
    digest = hashlib.sha256(content).hexdigest()
    write_facts(path, facts | {"sha256": digest})
    return digest


def check_target(path: Path) -> None:
    """Check before hours of training that weights can be written to `path` at the end.

    Raises:
        WeightsError: the name does not end in .safetensors.
        RecordError: the path cannot be written.
    """
    check_appendable(facts_path(path))
    check_appendable(path)


def copy_pair(source: Path, target: Path) -> None:
    """Copy weights and their JSON, byte for byte.

    Raises:
        WeightsError: the weights at `source` are missing, incomplete or altered, or a name
            does not end in .safetensors.
    """
    read_pair(source)
    check_target(target)
    facts_path(target).unlink(missing_ok=True)
    write_whole(target, source.read_bytes())
    write_whole(facts_path(target), facts_path(source).read_bytes())


def read_facts(path: Path) -> dict[str, Any]:
    """The facts in the JSON beside weights, whether it is sealed or not."""
    file = facts_path(path)
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"no whole weights at {path} ({error})") from error
    if not isinstance(facts, dict):
        raise WeightsError(f"{file} is incomplete or altered: it is not a JSON object")
    return facts


def read_tensors(path: Path, sha256: Any) -> dict[str, Tensor]:
    """Tensors of a file that has this sha256."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"no whole weights at {path} ({error})") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise WeightsError(
            f"{path} is incomplete or altered: its sha256 is {digest}, but "
            f"{facts_path(path).name} says {sha256}"
        )
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is no safetensors file: {error}") from error


def read_pair(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts that `write_pair` wrote.

    Raises:
        WeightsError: a file is missing, incomplete or altered.
    """
    facts = read_facts(path)
    sealed = facts.pop("facts_sha256", None)
    if sealed is None and "sha256" in facts:
        raise WeightsError(
            f"{facts_path(path)} is incomplete or altered: it has no facts_sha256. Earlier "
            "versions wrote none: if you trust the file, call "
            "lpa_core.training.checkpoint.seal_pair once with the path of the weights"
        )
    if sealed != facts_digest(facts):
        raise WeightsError(
            f"{facts_path(path)} is incomplete or altered: the sha256 of its facts is "
            f"{facts_digest(facts)}, but it says {sealed}"
        )
    return read_tensors(path, facts.get("sha256")), facts


def seal_pair(path: str | Path) -> None:
    """Add a digest to the facts of weights that an earlier version wrote.

    Raises:
        WeightsError: the files are incomplete or have a digest already.
    """
    facts = read_facts(Path(path))
    if "facts_sha256" in facts:
        raise WeightsError(f"{path} has a digest already")
    read_tensors(Path(path), facts.get("sha256"))
    write_facts(Path(path), facts)


# -------------------------------------------------------------------------- checkpoints


class CheckpointWriter:
    """Writes a run's checkpoints in a thread, while the device computes the next epoch.

    A checkpoint is due 20 seconds after the last one, or $LPA_CHECKPOINT_SECONDS. Leaving
    the context waits for the one that is being written.

    Raises:
        WeightsError, OSError: the last checkpoint failed; raised when the next one is
            saved or the context is left.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.seconds = float(os.environ.get("LPA_CHECKPOINT_SECONDS", "20"))
        self.last = time.monotonic()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.written: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.thread.shutdown(wait=True)
        if error is None:
            self.check()

    def is_due(self) -> bool:
        """Whether enough time has passed since the last checkpoint."""
        return time.monotonic() - self.last >= self.seconds

    def save(self, progress: Progress, network: nn.Module, optimiser: Optimiser) -> None:
        """Copy network, optimiser and progress in memory, and write that copy."""
        self.check()
        tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
        tensors |= {f"momentum.{k}": v for k, v in optimiser.state_dict().items()}
        copies = {k: t.detach().to("cpu", copy=True) for k, t in tensors.items()}
        progress = progress.model_copy(deep=True)
        self.written = self.thread.submit(save_checkpoint, self.folder, progress, copies)
        self.last = time.monotonic()

    def check(self) -> None:
        """Wait for the last checkpoint, and raise its error, if any."""
        if self.written is not None:
            self.written.result()


def save_checkpoint(folder: Path, progress: Progress, tensors: dict[str, Tensor]) -> None:
    """Write the checkpoint of an epoch; keep only it and the one before it.

    Raises:
        WeightsError: reading it back gives something else.
    """
    path = checkpoint_path(folder, progress.epoch)
    write_pair(path, tensors, progress.model_dump(mode="json"))
    read_pair(path)  # verify it before an older one is deleted
    found = {old.stem for old in folder.glob("checkpoint-*")}
    kept = sorted(stem for stem in found if stem <= path.stem)[-2:]
    for stem in found - set(kept):
        for old in folder.glob(f"{stem}.*"):
            old.unlink(missing_ok=True)


def checkpoint_path(folder: Path, epoch: int) -> Path:
    return folder / f"checkpoint-{epoch:04d}.safetensors"


def load_checkpoint(folder: Path, network: nn.Module, optimiser: Optimiser) -> Progress:
    """Load the newest complete checkpoint, if there is one.

    A damaged checkpoint is skipped, and a line on stderr names it.

    Returns:
        The progress of the run.

    Raises:
        WeightsError: a checkpoint is complete, but belongs to another network.
    """
    for left in folder.glob(".*.part"):  # of a run that was killed while writing
        left.unlink(missing_ok=True)
    for path in sorted(folder.glob("checkpoint-*.safetensors"), reverse=True):
        try:
            tensors, facts = read_pair(path)
            progress = Progress.model_validate(facts)
        except (WeightsError, ValidationError) as error:
            reason = explain(error) if isinstance(error, ValidationError) else error
            print(f"checkpoint left out: {path}: {reason}", file=sys.stderr, flush=True)
            continue
        try:
            network.load_state_dict(with_prefix("network.", tensors))
        except RuntimeError as error:
            raise WeightsError(
                f"{path} belongs to another network, delete it: {error}"
            ) from error
        optimiser.load_state_dict(with_prefix("momentum.", tensors))
        return progress.model_copy(update={"sessions": progress.sessions + 1})
    return Progress()


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, which is removed."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


# ------------------------------------------------------------------------------ weights


def save_weights(
    folder: Path,
    spec: RunSpec,
    network: Network,
    preprocess: Preprocess,
    classes: list[str],
    identity: str,
) -> str:
    """Write the final weights of a run; returns their sha256."""
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"preprocess.{k}": v for k, v in preprocess.state_dict().items()}
    facts = {
        "network": spec.network,
        "width": spec.width,
        "image_size": network.image_size,
        "dropout": spec.chosen_recipe().dropout,
        "add_log_probabilities": spec.add_log_probabilities,
        "classes": classes,
        "preprocess": spec.chosen_recipe().preprocess,
        "dataset": spec.dataset,
        "run": identity,
        "training_version": training_version(spec),
        "trained": spec.trained(),
    }
    if spec.beginning():
        facts["beginning"] = spec.beginning()
    if spec.attach:
        facts["attach"] = spec.attach.model_dump(mode="json")
    return write_pair(folder / "weights.safetensors", tensors, facts)


class WeightsFacts(BaseModel):
    """The facts that are needed to build a network for weights; others are allowed."""

    network: str
    width: Annotated[float, Field(gt=0, le=8)]
    image_size: int
    dropout: float | None
    add_log_probabilities: bool = False
    classes: Annotated[list[str], Field(min_length=1)]
    preprocess: str
    training_version: int = 1  # missing in older weights
    attach: Attachment | None = None

    def build(self) -> Network:
        """The untrained network."""
        count = len(self.classes)
        if self.attach:
            return build_attached(
                self.network, self.attach, count, self.image_size, self.dropout
            )
        return build_network(
            self.network,
            num_classes=count,
            width=self.width,
            image_size=self.image_size,
            dropout=self.dropout,
            add_log_probabilities=self.add_log_probabilities,
        )


@dataclass(frozen=True)
class Trained:
    """A trained network with the normalisation that it was trained with.

    Attributes:
        network, preprocess: in evaluation mode.
        classes: names of its classes.
        facts: the contents of the JSON beside the weights.
    """

    network: Network
    preprocess: Preprocess
    classes: list[str]
    facts: dict

    @torch.no_grad()
    def attend(self, images: Tensor, query: Tensor | None = None) -> AttentionOutput:
        """`attend` for uint8 images (B, H, W, 3), resized to the network's image size.

        Raises:
            ValueError: the images have another type or shape, for example floats.
        """
        check_uint8(images)
        x = to_network_input(images, self.preprocess, self.network.image_size)
        for parameter in self.network.parameters():  # float16 after .half()
            x = x.to(parameter.dtype)
            break
        return self.network.attend(x, query)


def load_trained(path: str | Path) -> Trained:
    """A trained network from its weights.

    Raises:
        WeightsError: the weights are missing, incomplete, altered, or do not fit.
    """
    path = Path(path)
    tensors, facts = read_pair(path)
    if facts.keys() >= Progress.model_fields.keys():
        raise WeightsError(
            f"{path} is a checkpoint, from which a run resumes: the weights are in "
            f"{path.with_name('weights.safetensors')} once the run has finished"
        )
    try:
        said = WeightsFacts.model_validate(facts, strict=True)
        if said.training_version < (now := network_version(said.network)):
            raise ValueError(
                f"{said.network} changed in training version {now}, but these weights are "
                f"from version {said.training_version}: train it again"
            )
        network = said.build()
        preprocess = build_preprocess(said.preprocess)
    except ValueError as error:
        reason = explain(error) if isinstance(error, ValidationError) else error
        raise WeightsError(
            f"{facts_path(path)} does not describe a network: {reason}"
        ) from error
    for module, prefix in ((network, "network."), (preprocess, "preprocess.")):
        own = {name: full(tensor) for name, tensor in with_prefix(prefix, tensors).items()}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise WeightsError(
                f"{path} does not fit {said.network} of width {said.width} with "
                f"{len(said.classes)} classes: {error}"
            ) from error
    network = to_channels_last(network).eval()
    return Trained(network, preprocess.eval(), said.classes, facts)


def start_from(network: Network, path: str | Path, facts: dict) -> str:
    """Load a trained network's weights into a network, except for the classifier.

    Args:
        network: receives the weights; its classifier keeps its initialisation.
        path: weights.safetensors of a run, or shipped weights.
        facts: what the weights' facts must say: {"network": …, "width": …, "dataset": …}.

    Returns:
        The weights' sha256.

    Raises:
        WeightsError: they are missing, incomplete or altered, or their facts differ.
    """
    tensors, given = read_pair(Path(path))
    for name, expected in facts.items():
        if given.get(name) != expected:
            raise WeightsError(
                f"a run cannot start from {path}: its {name} is {given.get(name)!r}, but "
                f"the run's is {expected!r}"
            )
    kept = {
        name: full(tensor)
        for name, tensor in with_prefix("network.", tensors).items()
        if "classifier" not in name
    }
    own = network.state_dict()
    fresh = {name for name in own if "classifier" in name}
    if set(kept) != set(own) - fresh or any(kept[k].shape != own[k].shape for k in kept):
        raise WeightsError(f"{path} does not fit {facts['network']}: it has other layers")
    network.load_state_dict(kept, strict=False)
    return given["sha256"]


def full(tensor: Tensor) -> Tensor:
    """A floating-point tensor in float32; other tensors as they are."""
    return tensor.float() if tensor.is_floating_point() else tensor


def export_weights(source: str | Path, target: str | Path) -> str:
    """A run's weights in half precision, for shipping; returns their sha256.

    Raises:
        WeightsError: the weights at `source` are missing, incomplete or altered, or the
            target does not end in .safetensors.
        RecordError: the target cannot be written.
    """
    check_target(Path(target))
    tensors, facts = read_pair(Path(source))
    half = {k: t.half() if t.is_floating_point() else t for k, t in tensors.items()}
    facts["exported_from"] = facts.pop("sha256")
    return write_pair(Path(target), half, facts)
