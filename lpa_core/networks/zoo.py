"""The paper's names for its networks, and how each is built."""

from functools import partial

from lpa_core.networks.base import Network
from lpa_core.networks.vgg import VGG, AttentionVGG

__all__ = ["build_network", "list_networks"]


def attention_vggs() -> dict[str, partial]:
    """Every level x join x compatibility; a single level has nothing to join."""
    vggs = {}
    for compatibility in ("dp", "pc"):
        vggs[f"vgg-att-{compatibility}"] = partial(
            AttentionVGG, levels=1, compatibility=compatibility
        )
        for levels in (2, 3):
            for join in ("indep", "concat"):
                vggs[f"vgg-att{levels}-{join}-{compatibility}"] = partial(
                    AttentionVGG, levels=levels, join=join, compatibility=compatibility
                )
    return vggs


ZOO = {"vgg": VGG} | dict(sorted(attention_vggs().items()))


def list_networks() -> list[str]:
    """Every name that `build_network` knows, as the paper writes them."""
    return list(ZOO)


def check_network(name: str) -> str:
    """`name` itself, if there is such a network."""
    if name not in ZOO:
        raise ValueError(
            f"unknown network {name!r}: choose one of {', '.join(ZOO)} "
            "(lpa_core.list_networks())"
        )
    return name


def build_network(
    name: str,
    num_classes: int,
    width: float = 1.0,
    image_size: int = 32,
    dropout: float | None = None,
) -> Network:
    """A freshly initialised network of the paper.

    Args:
        name: as the paper writes it, e.g. "vgg-att2-concat-pc" (`list_networks()`).
        num_classes: K, at least 1.
        width: factor on every channel count; 1 is the paper's.
        image_size: pixels a side.
        dropout: None for the paper's rates; a number for that rate in front of the
            classifier alone (the `fast` recipe's).

    Raises:
        ValueError: unknown name, or a size the network cannot have.
    """
    check_network(name)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes {num_classes!r}: give a whole number, at least 1")
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(f"dropout {dropout!r}: give a rate from 0 up to, not including, 1")
    return ZOO[name](
        num_classes=num_classes, width=width, image_size=image_size, dropout=dropout
    )
