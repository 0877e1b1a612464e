"""The inputs of a run: its data on the device, and its network before training."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lpa_core.data import (
    Dataset,
    EvalLoader,
    Preprocess,
    TrainLoader,
    build_preprocess,
    load,
)
from lpa_core.networks import Network, build_attached, build_network
from lpa_core.networks.attach import check_sizes
from lpa_core.training.checkpoint import start_from
from lpa_core.training.config import RunSpec
from lpa_core.training.distributed import ALONE, DistributedContext

__all__ = ["Data", "data_key", "initial_network", "load_data", "subset"]


class Data(NamedTuple):
    """Training and test data of a run, on the device; the splits' fingerprints; and the
    `data_key` of the runs that can use them."""

    train: TrainLoader
    test: EvalLoader
    preprocess: Preprocess
    classes: list[str]
    fingerprints: dict[str, str]
    key: tuple = ()


def data_key(spec: RunSpec, device: torch.device) -> tuple:
    """What a run's data depend on: runs with the same key can share them.

    The seed only counts if it selects a subset of the training set.
    """
    seed = None if spec.train_images is None else spec.seed
    recipe = spec.chosen_recipe().model_dump_json()
    return spec.dataset, spec.image_size, recipe, spec.train_images, seed, device


def load_data(
    spec: RunSpec,
    device: torch.device,
    data_root: str | Path | None = None,
    context: DistributedContext = ALONE,
) -> Data:
    """Load, normalise and batch the data of a run; each process takes its own slices."""
    recipe = spec.chosen_recipe()
    batch_slice = context.batch_slice(recipe.batch_size)
    with context.main_first():  # the main process downloads and prepares the set
        train = load(spec.dataset, "train", data_root, spec.image_size)
        test = load(spec.dataset, "test", data_root, spec.image_size)
        images, labels = subset(train, spec.train_images, spec.seed)
        preprocess = build_preprocess(recipe.preprocess).fit(images).to(device)
    return Data(
        train=TrainLoader(
            images.to(device),
            labels.to(device),
            preprocess,
            batch_size=recipe.batch_size,
            flip=recipe.flip and (train.mirrors or recipe.flip_digits),
            flip_half=recipe.flip_half,
            crop=recipe.crop,
            batch_slice=batch_slice,
        ),
        test=EvalLoader(
            test.images.to(device),
            test.labels.to(device),
            preprocess,
            batch_size=250 if device.type == "cpu" else 2000,
            first=context.rank,
            every=context.world_size,
        ),
        preprocess=preprocess,
        classes=train.classes,
        fingerprints={"train": train.fingerprint, "test": test.fingerprint},
        key=data_key(spec, device),
    )


def subset(data: Dataset, count: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """All images, or `count` of them, drawn evenly from the classes."""
    if count is None:
        return data.images, data.labels
    if count > len(data):
        raise ValueError(
            f"train_images {count}: the set has {len(data)}; give at most that many"
        )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    labels = data.labels[order]
    # The rank of each image within its class: the lowest ranks are spread evenly.
    rank = torch.zeros_like(labels)
    for label in range(len(data.classes)):
        rank[labels == label] = torch.arange(int((labels == label).sum()))
    chosen = order[rank.argsort(stable=True)[:count]]
    return data.images[chosen], data.labels[chosen]


def initial_network(spec: RunSpec, data: Data) -> tuple[Network, dict[str, str]]:
    """The network before training, on the CPU; the fingerprints of all its inputs."""
    recipe = spec.chosen_recipe()
    torch.manual_seed(spec.seed)
    if spec.attach:
        size = data.train.size
        network = build_attached(
            spec.network, spec.attach, len(data.classes), size, recipe.dropout
        )
        check_sizes(network, {round(size * share) for share in recipe.sizes})
        return network, data.fingerprints
    network = build_network(
        spec.network,
        num_classes=len(data.classes),
        width=spec.width,
        image_size=data.train.size,
        dropout=recipe.dropout,
        add_log_probabilities=spec.add_log_probabilities,
        average_gradients=spec.average_gradients,
        initialisation=spec.chosen_initialisation(),
        query_std=spec.query_std,
    )
    if spec.initial is None:
        return network, data.fingerprints
    expected = {"network": spec.network, "width": spec.width}
    expected |= {"dataset": recipe.start} if recipe.start else {}
    digest = start_from(network, spec.initial, expected)
    return network, data.fingerprints | {"initial": digest}
