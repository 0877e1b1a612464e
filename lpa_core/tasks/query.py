"""Query-driven maps: does another image's query move the attention? (A.5, figure 10)

The local features come from a *target* image, the global feature g, the query, from a
*query* image of an object; the map under that query is compared with the target's own.
With the dot product (dp) it moves. With the parametrised compatibility (pc) it cannot:
<u, l_i + g> adds the same <u, g> to every score, which the softmax cancels. The paper
reports this as an observation, but it is an identity, and is tested as one here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor
from tqdm.auto import tqdm

from lpa_core.data import Dataset
from lpa_core.maps import mass_on
from lpa_core.shapes import Bool, Float, Int, UInt8
from lpa_core.tasks.base import Metrics, Seed, Settings, Task, mean_and_error, register
from lpa_core.training import Trained

__all__ = [
    "TASK",
    "Effect",
    "PairMetrics",
    "QueryMetrics",
    "QuerySettings",
    "Steered",
    "draw_pairs",
    "query_effect",
    "relative_change",
    "steer",
]


@dataclass(frozen=True)
class Steered:
    """Attention of B target images, with their own query and with another image's.

    Attributes:
        original: (B, h, w), each summing to one.
        steered: the same with the query images' g.
        change: (new - old) / old at each position.
    """

    original: Tensor
    steered: Tensor
    change: Tensor

    @property
    def mean_change(self) -> Tensor:
        """(B,), the mean over positions of the absolute relative change."""
        return self.change.abs().mean(dim=(1, 2))

    @property
    def moved(self) -> Tensor:
        """(B,), the share of the attention that has moved: the total variation distance.

        From 0 (nothing) to 1 (all of it). Unlike the relative change, it is not dominated
        by positions that had almost no attention before.
        """
        return (self.steered - self.original).abs().sum(dim=(1, 2)) / 2


def relative_change(
    old: Float[Tensor, "b h w"], new: Float[Tensor, "b h w"]
) -> Float[Tensor, "b h w"]:
    """(new - old) / old at each position, in double precision; zero where both are zero."""
    old, new = old.double(), new.double()
    return (new - old) / old.clamp_min(torch.finfo(torch.float32).tiny)


def steer(
    trained: Trained,
    targets: UInt8[Tensor, "b h w 3"],
    queries: UInt8[Tensor, "b _ _ 3"],
    layer: str = "layer10",
) -> Steered:
    """The attention on each target, with its own query and with its partner's.

    Args:
        trained: a network with attention.
        targets, queries: uint8 images; the i-th query belongs to the i-th target.
        layer: the layer of the map; the paper shows layer 10.

    Raises:
        ValueError: the numbers of targets and queries differ, or the layer has no
            attention.
    """
    if len(targets) != len(queries):
        raise ValueError(f"{len(targets)} targets, but {len(queries)} queries")
    own = trained.attend(targets)
    if layer not in own.maps:
        raise ValueError(
            f"this network has no attention at {layer!r}; "
            f"it has it at {', '.join(own.maps) or 'no layer'} (--layer)"
        )
    g = trained.attend(queries).query
    original = own.maps[layer].double()
    steered = trained.attend(targets, query=g).maps[layer].double()
    return Steered(original, steered, relative_change(original, steered))


def draw_pairs(
    labels: Int[Tensor, " n"], count: int, seed: int = 0
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """`count` pairs with a query of the target's class, then `count` of another class.

    Returns:
        Indices of the targets and of their queries; no image is its own query. Both halves
        have the same targets, so that only the query differs between them.

    Raises:
        ValueError: count is below 1, there is only one class, or no class has two images.
    """
    if count < 1:
        raise ValueError(f"count {count}: give at least 1 pair")
    same = labels[:, None] == labels
    usable = ((same.sum(dim=1) > 1) & ~same.all(dim=1)).nonzero()[:, 0]
    if not len(usable):
        raise ValueError("pairs need two classes, one of them with at least two images")
    random = torch.Generator().manual_seed(seed)
    targets = usable[torch.randint(len(usable), (count,), generator=random)]
    alike = same[targets].double()
    alike[torch.arange(count), targets] = 0
    unlike = (~same[targets]).double()
    queries = [torch.multinomial(w, 1, generator=random)[:, 0] for w in (alike, unlike)]
    return targets.repeat(2), torch.cat(queries)


def query_effect(
    trained: Trained,
    images: UInt8[Tensor, "n h w 3"],
    pairs: tuple[Int[Tensor, " m"], Int[Tensor, " m"]],
    layer: str = "layer10",
    masks: Bool[Tensor, "n s s"] | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """The effect of another image's query on the attention, over many pairs.

    Args:
        trained, layer: as in `steer`.
        images: targets and queries.
        pairs: indices of the targets and of their queries (`draw_pairs`).
        masks: of the object in each image, to measure the attention on it.
        classes: name of each image's class, to see whether target and query share it.
        batch_size: pairs at a time.
        progress: show a progress bar.

    Returns:
        One row per pair: `target`, `query` (indices); `change`, the mean absolute relative
        change; `moved`, the total variation distance. With masks also `before`, `after`
        (the share of the attention on the target's object) and `gained`, their difference.
        With classes also `target class`, `query class`, and `contains`: whether the target
        contains the query's object.

    Raises:
        ValueError: images, masks and classes differ in number.
    """
    for name, given in (("masks", masks), ("classes", classes)):
        if given is not None and len(given) != len(images):
            raise ValueError(f"{len(images)} images, but {len(given)} {name}")
    rows = []
    parts = zip(*(p.split(batch_size) for p in pairs), strict=True)
    with tqdm(total=len(pairs[0]), unit="pair", disable=not progress) as bar:
        for target, query in parts:
            seen = steer(trained, images[target], images[query], layer)
            row = {
                "target": target.tolist(),
                "query": query.tolist(),
                "change": seen.mean_change.tolist(),
                "moved": seen.moved.tolist(),
            }
            if masks is not None:
                object_of = masks[target]
                row["before"] = mass_on(seen.original, object_of).tolist()
                row["after"] = mass_on(seen.steered, object_of).tolist()
            rows.append(pd.DataFrame(row))
            bar.update(len(target))
    table = pd.concat(rows, ignore_index=True)
    if masks is not None:
        table["gained"] = table["after"] - table["before"]
    if classes is not None:
        table["target class"] = [classes[i] for i in table["target"]]
        table["query class"] = [classes[i] for i in table["query"]]
        table["contains"] = table["target class"] == table["query class"]
    return table


# ------------------------------------------------------------------------------ the task


class QuerySettings(Settings):
    """Attributes: as the arguments of `draw_pairs` and `query_effect`."""

    pairs: Annotated[int, Field(ge=1, le=1_000_000, description="of each kind")] = 1000
    layer: Annotated[str, Field(description="layer of the map")] = "layer10"
    seed: Annotated[Seed, Field(description="for drawing the pairs")] = 0


class Effect(Metrics):
    """Mean over the pairs and its standard error; the median if the mean misleads."""

    mean: float
    sem: float | None = None
    median: float | None = None


class PairMetrics(Metrics):
    """The number of pairs, and the mean of each column of `query_effect` over them."""

    pairs: int
    change: Effect
    moved: Effect
    before: Effect
    after: Effect
    gained: Effect


class QueryMetrics(Metrics):
    """Pairs with a query of the target's class, and of another class."""

    same: PairMetrics = Field(alias="same class")
    other: PairMetrics = Field(alias="other class")


def measure_query(
    trained: Trained, data: Dataset, settings: QuerySettings, progress: bool
) -> QueryMetrics:
    assert data.masks is not None  # the task requires them
    device = next(trained.preprocess.buffers()).device
    table = query_effect(
        trained,
        data.images.to(device),
        draw_pairs(data.labels, settings.pairs, settings.seed),
        settings.layer,
        data.masks.to(device),
        [data.classes[label] for label in data.labels],
        progress=progress,
    )
    return QueryMetrics.model_validate(
        {
            "same class": pair_metrics(table.query("contains")),
            "other class": pair_metrics(table.query("not contains")),
        }
    )


def pair_metrics(rows: pd.DataFrame) -> PairMetrics:
    # It is a number for a column, but pandas' type stubs do not say so.
    median = float(rows["change"].median())  # pyright: ignore[reportArgumentType]
    return PairMetrics(
        pairs=len(rows),
        change=effect(rows, "change", median=median),
        moved=effect(rows, "moved"),
        before=effect(rows, "before"),
        after=effect(rows, "after"),
        gained=effect(rows, "gained"),
    )


def effect(rows: pd.DataFrame, column: str, median: float | None = None) -> Effect:
    mean, error = mean_and_error(rows, column)
    return Effect(mean=mean, sem=error, median=median)


def say(metrics: QueryMetrics, settings: QuerySettings) -> str:
    same, other = metrics.same.moved.mean, metrics.other.moved.mean
    return (
        f"share of the attention moved {same:.3f} (same class), {other:.3f} (other class)"
    )


TASK = register(
    Task(
        name="query",
        summary="measure attention with another image's query",
        dataset="coseg",
        options=QuerySettings,
        settings=QuerySettings,
        metrics=QueryMetrics,
        run=measure_query,
        say=say,
        masks="required",
    )
)
