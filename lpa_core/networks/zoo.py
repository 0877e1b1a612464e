"""The paper's names for its networks, and how each is built."""

from functools import partial

from lpa_core.networks.base import Network
from lpa_core.networks.initialise import Initialisation, initialise
from lpa_core.networks.resnet import AttentionResNet, ResNet
from lpa_core.networks.vgg import (
    VGG,
    AttentionVGG,
    GlobalPoolVGG,
    HighResVGG,
    ProgressiveVGG,
)

__all__ = ["CONTROLS", "build_network", "check_network", "check_options", "list_networks"]


def attention_vggs() -> dict[str, partial]:
    """Every level x fusion x compatibility; one level needs no fusion."""
    vggs = {}
    for compatibility in ("dp", "pc"):
        vggs[f"vgg-att-{compatibility}"] = partial(
            AttentionVGG, levels=1, compatibility=compatibility
        )
        for levels in (2, 3):
            for fusion in ("indep", "concat"):
                vggs[f"vgg-att{levels}-{fusion}-{compatibility}"] = partial(
                    AttentionVGG, levels=levels, fusion=fusion, compatibility=compatibility
                )
    return dict(sorted(vggs.items()))


def resnets(depth: int) -> dict[str, partial]:
    return {f"rn{depth}": partial(ResNet, depth=depth)} | {
        f"rn{depth}-att{suffix}": partial(AttentionResNet, depth=depth, levels=levels)
        for levels, suffix in ((1, ""), (2, "2"))
    }


# Controls that the paper lacks: attention against resolution, and pc against the form that
# it simplifies. Also GAP on the baseline's grid, called vgg-gap before training version 2.
CONTROLS = {
    "vgg-hires": HighResVGG,
    "vgg-gap-coarse": partial(GlobalPoolVGG, fine=False),
    "vgg-mean2": partial(AttentionVGG, levels=2, compatibility="mean"),
    "vgg-mean3": partial(AttentionVGG, levels=3, compatibility="mean"),
    "vgg-att2-concat-tanh": partial(AttentionVGG, levels=2, compatibility="tanh"),
}

ZOO = (
    {"vgg": VGG, "vgg-gap": GlobalPoolVGG, "vgg-pan": ProgressiveVGG}
    | attention_vggs()
    | resnets(164)
    | CONTROLS
    | resnets(20)  # the same with two blocks per stage, for short runs
)


def list_networks() -> list[str]:
    """All names that `build_network` knows, as the paper writes them."""
    return list(ZOO)


def check_network(name: str) -> str:
    """`name` itself, if there is such a network."""
    if name not in ZOO:
        raise ValueError(
            f"unknown network {name!r}: choose one of {', '.join(ZOO)} "
            "(lpa_core.list_networks())"
        )
    return name


def check_options(
    name: str,
    add_log_probabilities: bool = False,
    average_gradients: bool = False,
    query_std: float | None = None,
) -> None:
    """Check that these options apply to a network."""
    if add_log_probabilities and "-indep-" not in name:
        raise ValueError(
            f"add_log_probabilities applies to the indep networks; {name} has no "
            "class probabilities per level"
        )
    attends = "-att" in name or name == "vgg-pan"
    if average_gradients and not (attends or "-mean" in name):
        raise ValueError(
            f"average_gradients applies to the attention networks; {name} has no attended "
            "layers, where gradients meet"
        )
    if query_std is not None and (not attends or name.endswith("-dp")):
        raise ValueError(
            f"query_std applies to the networks that learn a query u (pc, tanh, vgg-pan "
            f"and the residual ones with attention); {name} has none"
        )


def build_network(
    name: str,
    num_classes: int,
    width: float = 1.0,
    image_size: int = 32,
    dropout: float | None = None,
    add_log_probabilities: bool = False,
    average_gradients: bool = False,
    initialisation: Initialisation = "pytorch",
    query_std: float | None = None,
) -> Network:
    """A freshly initialised network of the paper.

    Args:
        name: as the paper writes it, e.g. "vgg-att2-concat-pc" (`list_networks()`).
        num_classes: K, at least 1.
        width: factor on every channel count; 1 is the paper's.
        image_size: pixels a side.
        dropout: None for the paper's rates; a number for that rate only before the
            classifier (as in the `fast` recipe).
        add_log_probabilities: indep networks add their levels' log-probabilities, as the
            authors' scripts do; the paper's text averages the probabilities.
        average_gradients: where branches meet, attention networks propagate the mean of
            the gradients instead of their sum, as the authors' scripts do.
        initialisation, query_std: how parameters are initialised, see `initialise`.

    Raises:
        ValueError: unknown name, a size that the network cannot have, or an option that
            does not apply to it.
    """
    check_network(name)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes {num_classes!r}: give a whole number, at least 1")
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(f"dropout {dropout!r}: give a rate from 0 up to, not including, 1")
    check_options(name, add_log_probabilities, average_gradients, query_std)
    options = {
        "add_log_probabilities": add_log_probabilities,
        "average_gradients": average_gradients,
    }
    network = ZOO[name](
        num_classes=num_classes,
        width=width,
        image_size=image_size,
        dropout=dropout,
        **{option: True for option, wanted in options.items() if wanted},
    )
    initialise(network, initialisation, query_std)
    return network
