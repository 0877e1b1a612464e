"""Attention on any convolutional network: `attach` adds the paper's estimator to it.

The network needs no changes: layers are addressed by their names. The linear layer that
runs last is removed and its input becomes the global feature g. A new classifier sees only
the descriptors of the attended layers, as in the paper's networks.
"""

import copy
import difflib
import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from lpa_core.networks.base import AttentionHead, AttentionOutput, Network, to_float32
from lpa_core.networks.hooks import evaluating
from lpa_core.shapes import Float

__all__ = [
    "BACKBONES",
    "AttachedNetwork",
    "Attachment",
    "attach",
    "build_attached",
    "check_backbone",
]

# Your own backbones: name -> a function without arguments that builds one.
# torchvision's classifiers need no entry.
BACKBONES: dict[str, Callable[[], nn.Module]] = {}


class Attachment(BaseModel):
    """Where and how attention is added to a backbone: the arguments of `attach`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    layers: Annotated[list[str], Field(min_length=1)]
    compatibility: Literal["pc", "dp", "tanh", "mean"] = "pc"
    fusion: Literal["concat", "indep"] = "concat"
    query: str | None = None
    tokens: bool = False


def check_backbone(name: str) -> str:
    """`name` itself, if there is such a backbone.

    Raises:
        ValueError: neither `BACKBONES` nor torchvision has it.
    """
    from torchvision import models

    known = [*BACKBONES, *models.list_models(module=models)]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5, cutoff=0.4) or known[:8]
        raise ValueError(
            f"unknown backbone {name!r}: choose one of torchvision's, such as "
            f"{', '.join(close)}, or add your own to "
            "lpa_core.networks.attach.BACKBONES"
        )
    return name


def build_attached(
    name: str,
    attachment: Attachment,
    num_classes: int,
    image_size: int,
    dropout: float | None = None,
) -> "AttachedNetwork":
    """A backbone by its name, freshly initialised, with attention.

    Args:
        dropout: None for the paper's rate, 0.5.

    Raises:
        ValueError: unknown backbone, or attention cannot be attached to it like this.
    """
    from torchvision import models

    check_backbone(name)
    backbone = BACKBONES[name]() if name in BACKBONES else models.get_model(name)
    return attach(
        backbone,
        num_classes=num_classes,
        image_size=image_size,
        dropout=0.5 if dropout is None else dropout,
        **attachment.model_dump(),
    )


def attach(
    backbone: nn.Module,
    layers: list[str],
    num_classes: int,
    compatibility: str = "pc",
    fusion: str = "concat",
    image_size: int = 224,
    query: str | None = None,
    dropout: float = 0.5,
    tokens: bool = False,
) -> "AttachedNetwork":
    """A copy of `backbone` with attention at some of its layers.

    Args:
        backbone: any network of images (B, 3, H, W) with spatial maps inside, such as
            torchvision's.
        layers: names of the layers to attend to, lowest first, as `named_modules` of the
            backbone gives them: ["layer2", "layer3"].
        num_classes: K.
        compatibility, fusion, dropout: as in `AttentionHead`.
        image_size: pixels per side of the image that is used to find the shapes. The
            network takes every size that the backbone takes.
        query: name of the layer whose output is the global feature g (averaged over its
            positions, if it has any); None takes the input of the linear layer that runs
            last.
        tokens: the layers give tokens (B, N, C), like those of a vision transformer. A
            class token in front is dropped; the others form a square map, row by row.

    Returns:
        A network with `forward` and `attend`; its maps are named after the layers.

    Raises:
        ValueError: a layer does not exist, does not run, runs more than once, or has no
            spatial map with channels first; the backbone does not take images of that
            size; the backbone has no linear layer and `query` is not given.
    """
    if not layers or isinstance(layers, str) or len(set(layers)) != len(layers):
        raise ValueError(
            f"layers {layers!r}: give a list of at least one layer name, without duplicates"
        )
    for name in [*layers, *([] if query is None else [query])]:
        check_layer(backbone, name)
    backbone = copy.deepcopy(backbone)
    if query is None:
        query = replace_last_linear(backbone, image_size)
    shapes, channels = probe(backbone, layers, query, image_size, tokens)
    head = AttentionHead(
        {key(name): shape[0] for name, shape in shapes.items()},
        query_channels=channels,
        num_classes=num_classes,
        compatibility=compatibility,
        fusion=fusion,
        dropout=dropout,
        projection_dropout=dropout,
    )
    # On the backbone's device and in its precision.
    head = head.to(to_float32(parameter_like(backbone)))
    return AttachedNetwork(backbone, layers, query, head, image_size, tokens)


class AttachedNetwork(Network):
    """A backbone with an attention head; made by `attach`."""

    def __init__(
        self,
        backbone: nn.Module,
        layers: list[str],
        query: str,
        head: AttentionHead,
        image_size: int,
        tokens: bool = False,
    ):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.layers, self.query_layer = list(layers), query
        self.image_size, self.tokens = image_size, tokens
        self.taps = Taps(backbone, [*layers, query])

    def attend(
        self, images: Float[Tensor, "b 3 h w"], query: Tensor | None = None
    ) -> AttentionOutput:
        """Logits, maps and features; `query` (B, D) replaces the network's own g.

        Raises:
            ValueError: the query's shape differs from that of g.
        """
        outputs = self.taps.run(self.backbone, images)
        own = {name: calls[0] for name, calls in outputs.items()}
        g = self.check_query(query, flat(own[self.query_layer]))
        local = {name: own[name] for name in self.layers}
        if self.tokens:
            local = {name: laid_out(x) for name, x in local.items()}
        seen = self.head({key(name): x for name, x in local.items()}, g)
        for part in (seen.maps, seen.scores, seen.descriptors):
            named = {name: part[key(name)] for name in self.layers}
            part.clear()
            part.update(named)
        return seen


def key(name: str) -> str:
    """A layer's name as a key of a ModuleDict, which allows no dots.

    The leading slash avoids clashes with methods, such as a layer called "values".
    """
    return "/" + name.replace(".", "/")


def flat(g: Tensor) -> Tensor:
    """A global feature (B, D), averaged over its positions, if it has any."""
    return g.mean(dim=(2, 3)) if g.dim() == 4 else g


def laid_out(tokens: Tensor) -> Tensor:
    """Tokens (B, N, C) as a map (B, C, H, W), without a class token in front."""
    side = math.isqrt(tokens.shape[1])
    return tokens[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


def parameter_like(backbone: nn.Module) -> Tensor:
    """A tensor on the backbone's device and in its precision."""
    return next(backbone.parameters(), torch.empty(0))


def check_layer(backbone: nn.Module, name: str) -> None:
    names = [n for n, _ in backbone.named_modules() if n]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=5, cutoff=0.5) or names[:8]
        raise ValueError(
            f"{type(backbone).__name__} has no layer {name!r}; it has, among others, "
            f"{', '.join(close)} (all: dict(backbone.named_modules()))"
        )


def replace_last_linear(backbone: nn.Module, image_size: int) -> str:
    """Replace the linear layer that runs last by an identity; returns its name."""
    names = [n for n, m in backbone.named_modules() if isinstance(m, nn.Linear) and n]
    ran = [n for n, calls in try_out(backbone, names, image_size).items() if calls]
    if not ran:
        raise ValueError(
            f"{type(backbone).__name__} has no linear layer whose input could be the "
            "global feature: name a layer whose output is that feature (query=…)"
        )
    parent, _, last = ran[-1].rpartition(".")
    setattr(backbone.get_submodule(parent), last, nn.Identity())
    return ran[-1]


class Running(threading.local):
    """The outputs that the forward passes of this thread have collected, by their taps."""

    def __init__(self):
        self.outputs: dict[Taps, dict[str, list]] = {}


RUNNING = Running()


class Taps:
    """Reads the outputs of named layers of a backbone in a forward pass.

    The hooks stay on the layers. Each passes its output to the forward pass that runs in
    its own thread, so that threads and replicas may share one backbone. Outside of `run`
    they do nothing.
    """

    def __init__(self, backbone: nn.Module, names: list[str]):
        self.names = list(dict.fromkeys(names))
        self.hooks = [
            backbone.get_submodule(name).register_forward_hook(partial(keep, self, name))
            for name in self.names
        ]

    def run(self, backbone: nn.Module, images: Tensor) -> dict[str, list]:
        """Run a forward pass; returns each layer's outputs, tensors or not, call by call.

        The layers are sorted by their last call; those that did not run come first.
        """
        outputs: dict[str, list] = {name: [] for name in self.names}
        RUNNING.outputs[self] = outputs
        try:
            backbone(images)
        finally:
            RUNNING.outputs.pop(self, None)
        return outputs

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()


def keep(taps: Taps, name: str, module: nn.Module, inputs: tuple, output: object) -> None:
    """The hook of one layer."""
    outputs = RUNNING.outputs.get(taps)
    if outputs is not None:
        # A copy: the next layer may overwrite it (in-place activations).
        output = output.clone() if torch.is_tensor(output) else output
        outputs[name] = [*outputs.pop(name), output]


def check_sizes(network: AttachedNetwork, sizes: set[int]) -> None:
    """Check that the network takes images of all these sizes and has positions left.

    Raises:
        ValueError: it does not for one of the sizes.
    """
    for size in sorted(sizes):
        probe(network.backbone, network.layers, network.query_layer, size, network.tokens)


def try_out(backbone: nn.Module, names: list[str], image_size: int) -> dict[str, list]:
    """The layers' outputs for one black image, in evaluation mode, without side effects."""
    image = torch.zeros(1, 3, image_size, image_size).to(parameter_like(backbone))
    taps = Taps(backbone, names)
    try:
        # Batch normalisation cannot be trained on one image.
        with evaluating(backbone), torch.no_grad():
            return taps.run(backbone, image)
    except Exception as error:  # a backbone may raise anything for a wrong size
        raise ValueError(
            f"an image of {image_size} x {image_size} pixels does not go through "
            f"{type(backbone).__name__} ({error}): give another image_size"
        ) from error
    finally:
        taps.remove()


def probe(
    backbone: nn.Module, layers: list[str], query: str, image_size: int, tokens: bool
) -> tuple[dict[str, tuple[int, ...]], int]:
    """Shapes (C, H, W) of the attended layers and D of the query, from one image."""
    outputs = try_out(backbone, [*layers, query], image_size)
    for name, calls in outputs.items():
        if len(calls) != 1:
            raise ValueError(
                f"layer {name!r} runs {len(calls)} times for an image, but must run once"
            )
    shapes = {name: spatial(name, outputs[name][0], image_size, tokens) for name in layers}
    g = outputs[query][0]
    if not torch.is_tensor(g) or g.dim() not in (2, 4):
        raise ValueError(f"the output of layer {query!r} is no vector to use as the query")
    return shapes, g.shape[1]


def spatial(name: str, output, image_size: int, tokens: bool) -> tuple[int, ...]:
    """(C, H, W) of a layer's output, if it is a map with more than one position."""
    sequence = torch.is_tensor(output) and output.dim() == 3
    if sequence and math.isqrt(output.shape[1]) ** 2 < output.shape[1] - 1:
        raise ValueError(
            f"layer {name!r} gives {output.shape[1]} tokens of {output.shape[2]} channels, "
            "which do not fill a square, with or without a class token: choose another "
            "layer"
        )
    if sequence != tokens:
        given = "tokens (N, C)" if sequence else "no tokens (N, C)"
        raise ValueError(
            f"layer {name!r} gives {given}: to get a map (C, H, W) from it, set tokens="
            f"{sequence} (--tokens on the command line)"
        )
    output = laid_out(output) if tokens else output
    shape = tuple(output.shape[1:]) if torch.is_tensor(output) else type(output).__name__
    if not isinstance(shape, tuple) or len(shape) != 3 or shape[1] * shape[2] < 2:
        raise ValueError(
            f"layer {name!r} has no spatial map to attend to: for {image_size} x "
            f"{image_size} pixels it gives {shape}, but must give (C, H, W) with more "
            "than one position (choose an earlier layer or larger images)"
        )
    if shape[0] == shape[1] != shape[2]:  # a square image gives a square map
        raise ValueError(
            f"layer {name!r} gives {shape}, which looks like (H, W, C): attention needs "
            "channels first, (C, H, W) (choose a layer after which they are permuted)"
        )
    return shape
