"""Where each level looks: the words of figures 3, 4 and 7, as numbers (claim 7).

The paper says that maps are "sharp" and "diverse", that lower levels look at surroundings
and parts and higher ones at the object, and that on birds layer 10 looks at eyes and beaks
and layer 13 at plumage and feet. Here each of it is a number beside what a uniform map
has, and beside the activation-based map of the same layer.
"""

import pandas as pd
import torch
from pydantic import Field, RootModel
from torch import Tensor
from tqdm.auto import tqdm

from lpa_core.data import Dataset, Parts
from lpa_core.data.loaders import to_network_input
from lpa_core.maps import (
    activation_maps,
    density_near,
    density_on,
    diversity,
    entropy,
    similarity,
)
from lpa_core.shapes import Float, UInt8
from lpa_core.tasks.base import Metrics, Settings, Task, register
from lpa_core.training import Trained

__all__ = [
    "HEAD",
    "PLUMAGE",
    "TASK",
    "LevelMetrics",
    "LookMetrics",
    "LookSettings",
    "all_maps",
    "describe_levels",
    "describe_parts",
]

# The parts of CUB-200-2011 that the paper's sentence names, by their names there. Its
# fifteen parts have no feet: the legs stand for them.
HEAD = ("beak", "left eye", "right eye")
PLUMAGE = ("back", "belly", "breast", "crown", "left leg", "right leg", "left wing",
           "right wing", "tail")  # fmt: skip

KINDS = ("attention", "activation")


def all_maps(
    trained: Trained,
    images: UInt8[Tensor, "n h w 3"],
    batch_size: int = 250,
    progress: bool = True,
) -> dict[tuple[str, str], Float[Tensor, "n _ _"]]:
    """Attention and activation-based maps of each level, by kind and layer, on the CPU.

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
            raise ValueError("this network has no attention, so no levels to compare")
        x = to_network_input(part, trained.preprocess, trained.network.image_size)
        active = activation_maps(trained.network, x, list(maps))
        for kind, layers in zip(KINDS, (maps, active), strict=True):
            for layer, values in layers.items():
                found.setdefault((kind, layer), []).append(values.float().cpu())
    return {key: torch.cat(values) for key, values in found.items()}


def describe_levels(
    trained: Trained, data: Dataset, batch_size: int = 250, progress: bool = True
) -> pd.DataFrame:
    """A row for each kind of map and layer of a network, over a whole set.

    Columns:
        kind: "attention", or "activation" for what is active there, whatever for.
        layer, positions: where, and how many positions a map has.
        entropy, entropy sem: mean over the images and its standard error; 1 is flat.
        diversity: how much the maps of different images differ (`maps.diversity`).
        likeness: mean correlation of attention with the activation-based map of the layer.
        density, density sem: with masks, how many times as much attention the object has
            as it would have of a uniform map. Images with an empty mask are left out.

    Raises:
        ValueError: as `all_maps`.
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


def describe_parts(
    trained: Trained,
    images: UInt8[Tensor, "n h w 3"],
    parts: Parts,
    radius: float = 0.1,
    batch_size: int = 250,
    progress: bool = True,
) -> pd.DataFrame:
    """Attention around each part of a bird: a row for each layer and part.

    Columns: layer, part, images (in which the part is seen), density (as in
    `maps.density_near`: 1 is what a uniform map has) and its standard error, "density sem".
    The parts that the paper names come once more as two groups, "eyes and beak" and
    "plumage and legs".

    Raises:
        ValueError: as `all_maps`, or parts and images differ in number.
    """
    if len(images) != len(parts.points):
        raise ValueError(f"{len(images)} images, but parts of {len(parts.points)}")
    maps = all_maps(trained, images, batch_size, progress)
    rows = []
    for (kind, layer), values in maps.items():
        if kind != "attention":
            continue
        near = torch.full(parts.visible.shape, torch.nan, dtype=torch.float64)
        for column in range(len(parts.names)):
            seen = parts.visible[:, column]
            if seen.any():
                points = parts.points[seen, column]
                near[seen, column] = density_near(values[seen], points, radius).double()
        groups = {name: (name,) for name in parts.names}
        groups |= {"eyes and beak": HEAD, "plumage and legs": PLUMAGE}
        for name, members in groups.items():
            columns = [i for i, part in enumerate(parts.names) if part in members]
            density = near[:, columns].nanmean(dim=1)
            density = density[~density.isnan()]
            if len(density):
                rows.append(
                    {
                        "layer": layer,
                        "part": name,
                        "images": len(density),
                        "density": density.mean().item(),
                        "density sem": sem(density),
                    }
                )
    return pd.DataFrame(rows)


def sem(values: Tensor) -> float:
    """Standard error of the mean; nan of a single value."""
    return (values.double().std() / len(values) ** 0.5).item()


# ------------------------------------------------------------------------------ the task


class LookSettings(Settings):
    """There is nothing to set."""


class LevelMetrics(Metrics):
    """A row of `describe_levels`; what a row does not have is None."""

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
    kinds: dict[str, dict[str, dict[str, float]]] = {}
    for _, row in table.iterrows():
        numbers = row.drop(["kind", "layer"]).dropna().to_dict()
        kinds.setdefault(row["kind"], {})[row["layer"]] = numbers
    return LookMetrics.model_validate(kinds)


def say(metrics: LookMetrics, settings: LookSettings) -> str:
    levels = metrics.root["attention"].items()
    flat = ", ".join(f"{numbers.entropy:.3f} at {layer}" for layer, numbers in levels)
    return f"entropy of the maps {flat}"


TASK = register(
    Task(
        name="look",
        summary="where each level looks, as figures 3, 4 and 7",
        dataset="coseg",
        options=LookSettings,
        settings=LookSettings,
        metrics=LookMetrics,
        run=measure_look,
        say=say,
        masks="optional",
    )
)
