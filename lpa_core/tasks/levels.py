"""Where each level looks: the descriptions of figures 3, 4 and 7 as numbers (claim 7).

The paper says that maps are "sharp" and "diverse", and that lower levels look at
surroundings and parts, higher ones at the object. Each statement becomes a number here,
which is compared with a uniform map and with the activation-based map of the same layer.
`lpa_core.tasks.parts` measures what the paper says about birds.
"""

import pandas as pd
import torch
from pydantic import Field, RootModel
from torch import Tensor
from tqdm.auto import tqdm

from lpa_core.data import Dataset
from lpa_core.data.loaders import to_network_input
from lpa_core.maps import (
    activation_maps,
    density_on,
    diversity,
    entropy,
    similarity,
)
from lpa_core.shapes import Float, UInt8
from lpa_core.tasks.base import Metrics, Settings, Task, nested, register
from lpa_core.training import Trained

__all__ = [
    "TASK",
    "LevelMetrics",
    "LookMetrics",
    "LookSettings",
    "all_maps",
    "describe_levels",
]


def all_maps(
    trained: Trained,
    images: UInt8[Tensor, "n h w 3"],
    batch_size: int = 250,
    progress: bool = True,
    activation: bool = True,
) -> dict[tuple[str, str], Float[Tensor, "n _ _"]]:
    """Attention and activation-based maps of each level, by kind and layer, on the CPU.

    Args:
        activation: False skips the activation-based maps and their forward pass.

    Raises:
        ValueError: the network has no attention, there are no images, or batch_size is
            below 1.
    """
    if not len(images):
        raise ValueError("there are no images to look at")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: give at least 1")
    device = next(trained.preprocess.buffers()).device
    found: dict[tuple[str, str], list[Tensor]] = {}
    parts = images.split(batch_size)
    for part in tqdm(parts, desc="maps", unit="batch", disable=not progress):
        part = part.to(device)
        maps = trained.attend(part).maps
        if not maps:
            raise ValueError(
                "this network has no attention, so it has no levels to compare"
            )
        kinds = {"attention": maps}
        if activation:
            x = to_network_input(part, trained.preprocess, trained.network.image_size)
            kinds["activation"] = activation_maps(trained.network, x, list(maps))
        for kind, layers in kinds.items():
            for layer, values in layers.items():
                found.setdefault((kind, layer), []).append(values.float().cpu())
    return {key: torch.cat(values) for key, values in found.items()}


def describe_levels(
    trained: Trained, data: Dataset, batch_size: int = 250, progress: bool = True
) -> pd.DataFrame:
    """One row for each kind of map and layer of a network, over a whole set.

    Columns:
        kind: "attention", or "activation" for the activation-based map.
        layer, positions: the layer, and the number of positions of its map.
        entropy, entropy sem: mean over the images and its standard error; 1 is flat.
        diversity: how much the maps of different images differ (`maps.diversity`).
        likeness: mean correlation of attention with the activation-based map of the layer.
        density, density sem: with masks, the attention on the object as a multiple of what
            a uniform map puts there. Images with an empty mask are left out.

    Raises:
        ValueError: as in `all_maps`.
    """
    maps = all_maps(trained, data.images, batch_size, progress)
    rows = []
    for (kind, layer), values in maps.items():
        spread = entropy(values)
        row = {
            "kind": kind,
            "layer": layer,
            "positions": values[0].numel(),
            "entropy": spread.mean().item(),
            "entropy sem": sem(spread),
            "diversity": diversity(values),
        }
        if kind == "attention":
            likeness = similarity(values, maps["activation", layer])
            row["likeness"] = likeness.nanmean().item()
        if data.masks is not None:
            density = density_on(values, data.masks)
            density = density[~density.isnan()]
            row |= {"density": density.mean().item(), "density sem": sem(density)}
        rows.append(row)
    return pd.DataFrame(rows)


def sem(values: Tensor) -> float:
    """Standard error of the mean; nan for a single value."""
    return (values.double().std() / len(values) ** 0.5).item()


# ------------------------------------------------------------------------------ the task


class LookSettings(Settings):
    """This task has no settings."""


class LevelMetrics(Metrics):
    """A row of `describe_levels`; missing values are None."""

    positions: float
    entropy: float
    entropy_sem: float | None = Field(default=None, alias="entropy sem")
    diversity: float
    likeness: float | None = None
    density: float | None = None
    density_sem: float | None = Field(default=None, alias="density sem")


class LookMetrics(RootModel[dict[str, dict[str, LevelMetrics]]]):
    """By kind of map, "attention" or "activation", and by layer."""


def measure_look(
    trained: Trained, data: Dataset, settings: LookSettings, progress: bool
) -> LookMetrics:
    table = describe_levels(trained, data, progress=progress)
    return LookMetrics.model_validate(nested(table, "kind", "layer"))


def say(metrics: LookMetrics, settings: LookSettings) -> str:
    levels = metrics.root["attention"].items()
    flat = ", ".join(f"{numbers.entropy:.3f} at {layer}" for layer, numbers in levels)
    return f"entropy of the maps {flat}"


TASK = register(
    Task(
        name="look",
        summary="measure where each level looks, as in figures 3, 4 and 7",
        dataset="coseg",
        options=LookSettings,
        settings=LookSettings,
        metrics=LookMetrics,
        run=measure_look,
        say=say,
        masks="optional",
    )
)
