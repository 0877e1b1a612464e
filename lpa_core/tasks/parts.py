"""Which parts of a bird each level attends to: figure 4, as numbers (claim 7).

The paper says that for birds, layer 10 looks at eyes and beaks, and layer 13 at plumage
and feet. CUB-200-2011 annotates fifteen parts of each bird with points; here a part is a
disc around its point. The share of the attention on a part is compared with the share of
the image that the part covers.
"""

from typing import Annotated

import pandas as pd
from pydantic import Field, RootModel
from torch import Tensor

from lpa_core.data import Dataset, Parts
from lpa_core.maps import discs, mass_on
from lpa_core.shapes import UInt8
from lpa_core.tasks.base import (
    Metrics,
    Settings,
    Task,
    mean_and_error,
    nested,
    register,
)
from lpa_core.tasks.levels import all_maps
from lpa_core.training import Trained

__all__ = [
    "GROUPS",
    "TASK",
    "PartMetrics",
    "PartsMetrics",
    "PartsSettings",
    "describe_parts",
]

# The paper's words, as parts of CUB's list, which has legs instead of feet.
GROUPS = {
    "eyes and beak": ("beak", "left eye", "right eye"),
    "plumage": ("back", "belly", "breast", "left wing", "right wing"),
    "feet": ("left leg", "right leg"),
}


def describe_parts(
    trained: Trained,
    images: UInt8[Tensor, "n h w 3"],
    parts: Parts,
    radius: float = 0.1,
    batch_size: int = 250,
    progress: bool = True,
) -> pd.DataFrame:
    """Attention on the parts of birds: a row for each layer and part, and each of `GROUPS`.

    A part is a disc around its point; a group is the union of the discs of its visible
    parts. Images that show none of them are left out.

    Columns: layer, part, images (how many show it), share (mean share of the attention on
    it, 0 to 1), area (mean share of the image that it covers, which is also the share of a
    uniform map), density (mean of share / area), and the standard errors over the images
    "share sem" and "density sem".

    Args:
        radius: of a disc, as a share of the image's side.

    Raises:
        ValueError: the network has no attention, parts and images differ in number, there
            are no images, or the radius holds no pixel.
    """
    if len(images) != len(parts.points):
        raise ValueError(f"{len(images)} images, but parts for {len(parts.points)}")
    maps = all_maps(trained, images, batch_size, progress, False)
    groups = {name: (name,) for name in parts.names} | GROUPS
    rows = []
    for name, members in groups.items():
        columns = [i for i, part in enumerate(parts.names) if part in members]
        visible = parts.visible[:, columns]
        seen = visible.any(dim=1)
        if not seen.any():
            continue
        masks = discs(parts.points[seen][:, columns], visible[seen], radius)
        area = masks.flatten(1).double().mean(dim=1)
        for (_, layer), values in maps.items():
            share = mass_on(values[seen].double(), masks)
            found = pd.DataFrame({"share": share, "density": share / area})
            row = {"layer": layer, "part": name, "images": len(found)}
            row["area"] = area.mean().item()
            for column in found:
                row[column], row[f"{column} sem"] = mean_and_error(found, column)
            rows.append(row)
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------ the task


class PartsSettings(Settings):
    """The settings of the parts.

    Attributes:
        radius: of the disc around a part's point, as a share of the image's side.
    """

    radius: Annotated[float, Field(ge=0.02, le=0.5)] = 0.1


class PartMetrics(Metrics):
    """A row of `describe_parts`."""

    images: int
    area: float
    share: float
    share_sem: float | None = Field(default=None, alias="share sem")
    density: float
    density_sem: float | None = Field(default=None, alias="density sem")


class PartsMetrics(RootModel[dict[str, dict[str, PartMetrics]]]):
    """By layer, and by part or group of parts."""


def measure_parts(
    trained: Trained, data: Dataset, settings: PartsSettings, progress: bool
) -> PartsMetrics:
    if data.parts is None:
        raise ValueError("these images have no part annotations")
    table = describe_parts(
        trained, data.images, data.parts, settings.radius, progress=progress
    )
    return PartsMetrics.model_validate(nested(table, "layer", "part"))


def say(metrics: PartsMetrics, settings: PartsSettings) -> str:
    said = []
    for layer, rows in metrics.root.items():
        found = [
            f"{100 * rows[name].share:.1f} % on {name} ({100 * rows[name].area:.1f} % of "
            "the area)"
            for name in GROUPS
            if name in rows
        ]
        said.append(f"{layer}: {', '.join(found)}")
    return "; ".join(said)


TASK = register(
    Task(
        name="parts",
        summary="measure which parts of birds each level attends to, as in figure 4",
        dataset="cub200",
        options=PartsSettings,
        settings=PartsSettings,
        metrics=PartsMetrics,
        run=measure_parts,
        say=say,
        parts=True,
    )
)
