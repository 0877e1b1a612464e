"""Query-driven maps: does another image's query move the attention? (A.5, figure 10)

The local features come from a *target* image, the global feature g, the query, from a
*query* image of an object; the map under that query is compared with the target's own.
With the dot product (dp) it moves. With the parametrised compatibility (pc) it cannot:
<u, l_i + g> adds <u, g> to every score alike, and the softmax does not see it. The paper
reports that as an observation; it is an identity, and is measured here as one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lpa_core.maps import mass_on
from lpa_core.shapes import Bool, Float, Int, UInt8
from lpa_core.training import Trained

__all__ = [
    "Steered",
    "draw_pairs",
    "query_effect",
    "relative_change",
    "steer",
    "summarise_effect",
]


@dataclass(frozen=True)
class Steered:
    """Attention of B target images, under their own query and under another's.

    Attributes:
        original: (B, h, w), each summing to one.
        steered: the same under the query images' g.
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

        From 0, nothing, to 1, all of it. It cannot be blown up by a position that had
        next to no attention before, as the relative change is.
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
    """The attention on each target, under its own query and under its partner's.

    Args:
        trained: a network with attention.
        targets, queries: uint8 images; the i-th query belongs to the i-th target.
        layer: whose map; the paper shows layer 10.

    Raises:
        ValueError: there is not one query a target, or the layer has no attention.
    """
    if len(targets) != len(queries):
        raise ValueError(f"{len(targets)} targets, but {len(queries)} queries")
    own = trained.attend(targets)
    if layer not in own.maps:
        raise ValueError(
            f"this network has no attention at {layer!r}; "
            f"it has it at {', '.join(own.maps) or 'no layer'}"
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
        Positions of the targets and of their queries; no image is its own query. The same
        targets stand in both halves, so that only the query differs between them.

    Raises:
        ValueError: count is below 1, there is one class only, or every class has but one
            image.
    """
    if count < 1:
        raise ValueError(f"count {count}: give at least 1 pair")
    same = labels[:, None] == labels
    usable = ((same.sum(dim=1) > 1) & ~same.all(dim=1)).nonzero()[:, 0]
    if not len(usable):
        raise ValueError("pairs need two classes, and one of two images at least")
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
    """What another image's query does to the attention, over many pairs.

    Args:
        trained, layer: as in `steer`.
        images: targets and queries.
        pairs: positions of the targets and of their queries (`draw_pairs`).
        masks: of the object in each image, for the attention that lies on it.
        classes: name of each image's class, to tell whether target and query share it.
        batch_size: pairs at a time.
        progress: show a bar.

    Returns:
        One row a pair: `target`, `query` (positions); `change`, the mean absolute relative
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


def summarise_effect(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the pairs, with their standard errors; by `contains` where it is known.

    `change` comes with its median as well: a single position that had next to no attention
    can raise its mean at will.
    """
    numbers = ["change", "moved", "before", "after", "gained"]
    numbers = [name for name in numbers if name in table]
    groups = (
        table.groupby("contains")
        if "contains" in table
        else table.groupby(pd.Series("all pairs", index=table.index))
    )
    summary = groups[numbers].agg(["mean", "sem"])
    summary[("change", "median")] = groups["change"].median()
    summary[("pairs", "count")] = groups.size()
    return summary
