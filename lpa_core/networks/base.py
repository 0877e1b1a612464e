"""The interface of all networks: `forward` gives logits, `attend` maps and features too."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lpa_core.attention import AttentionEstimator, QueryProjection
from lpa_core.shapes import Float

__all__ = [
    "AttentionHead",
    "AttentionOutput",
    "Network",
    "SinglePrecision",
    "average_gradient",
    "he_convolution",
    "scale_channels",
    "to_float32",
]


@dataclass
class AttentionOutput:
    """What a network computes for a batch of B images.

    Attributes:
        logits: (B, K); their softmax gives the class probabilities.
        maps: attention per layer, {"layer10": (B, h, w), …}; each map sums to one.
            Empty if a network has neither attention nor another kind of map.
        scores: the compatibility scores, before the softmax.
        descriptors: the weighted sums g_a per layer, {"layer10": (B, C), …}, of the layers
            that the classifier sees.
        features: (B, F), the input of the final linear layer.
        query: (B, D), the global feature g that the maps were computed with.
    """

    logits: Tensor
    features: Tensor
    query: Tensor
    maps: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)
    descriptors: dict[str, Tensor] = field(default_factory=dict)


class Network(nn.Module):
    """A classifier of `image_size` x `image_size` images, already normalised."""

    image_size: int

    def attend(
        self, images: Float[Tensor, "b 3 h w"], query: Tensor | None = None
    ) -> AttentionOutput:
        raise NotImplementedError

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        return self.attend(images).logits

    def __prepare_scriptable__(self):
        """Called by `torch.jit.script`, which cannot compile `attend`."""
        raise TypeError(
            f"torch.jit.script does not take {type(self).__name__}: use "
            "torch.export.export, torch.compile or torch.jit.trace"
        )

    def check_images(self, images: Tensor) -> None:
        """Check that images have `image_size` pixels per side, or at least half as many.

        The poolings round up, so that the last layer still has a position for smaller
        images. The fast recipe starts with them.
        """
        size = self.image_size
        fits = images.dim() == 4 and images.shape[1] == 3
        height, width = images.shape[-2:] if fits else (0, 0)
        if not (height == width and size / 2 <= width <= size):
            raise ValueError(
                f"this network takes images of shape (B, 3, {size}, {size}), or smaller "
                f"ones down to half that size; it got {tuple(images.shape)} (resize them, "
                "or build the network with another image_size)"
            )

    def check_query(self, query: Tensor | None, g: Tensor) -> Tensor:
        """The query to use: the one that is given, or else the network's own g."""
        if query is None:
            return g
        if query.shape != g.shape:
            raise ValueError(
                f"the query for these images must have shape {tuple(g.shape)}; "
                f"got {tuple(query.shape)}"
            )
        return query


def scale_channels(channels: int, width: float) -> int:
    """`channels` at the given width; a width that leaves no channel is an error."""
    if not 0 < width <= 8:
        raise ValueError(f"width {width!r}: give a number above 0 and up to 8")
    count = round(channels * width)
    if count < 1:
        raise ValueError(
            f"width {width!r} leaves no channels in a layer of {channels}: "
            f"give at least {1 / channels:g}"
        )
    return count


def to_channels_last(network: "Network") -> "Network":
    """The network with channels-last weights, which train faster.

    A network with a convolution from one channel to one is not changed: with channels
    last, its backward pass crashes the process (PyTorch 2.15 on a CPU).
    """
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    if any(m.in_channels == m.out_channels == 1 for m in convolutions):
        return network
    return network.to(memory_format=torch.channels_last)


def he_convolution(
    inputs: int, outputs: int, size: int, stride: int = 1, bias: bool = True
) -> nn.Conv2d:
    """Weights are drawn from N(0, sqrt(2 / (k * k * C_out))), biases are zero."""
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=bias)
    nn.init.normal_(conv.weight, std=(2 / (size * size * outputs)) ** 0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class SinglePrecision(nn.Module):
    """A module that computes in float32, even after `.half()` or `.bfloat16()`."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        def at_least_float32(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            narrow = changed.is_floating_point() and changed.dtype.itemsize < 4
            return tensor.to(changed.device) if narrow else changed

        return super()._apply(at_least_float32, recurse)


class AttentionHead(SinglePrecision):
    """Estimators at several layers, and the classifier on their descriptors (§3.1).

    Args:
        channels: C of each attended layer, {"layer10": 512, …}, lowest layer first.
        query_channels: D of the global feature g.
        compatibility: one of `lpa_core.attention.COMPATIBILITIES`.
        fusion: "concat" classifies the concatenated descriptors; "indep" classifies each
            and averages the class probabilities, as the paper's text says.
        dropout: rate in front of each linear layer of the classifier.
        projection_dropout: rate in the projection of g (where C and D differ).
        add_log_probabilities: with "indep", add the levels' log-probabilities instead of
            averaging their probabilities, as the authors' scripts do.
        average_gradients: where branches of the graph meet, propagate the mean of their
            gradients instead of the sum, as the authors' scripts do.

    Raises:
        ValueError: an option that does not exist or does not apply to this head.
    """

    def __init__(
        self,
        channels: dict[str, int],
        query_channels: int,
        num_classes: int,
        compatibility: str = "pc",
        fusion: str = "concat",
        dropout: float = 0.5,
        projection_dropout: float = 0.5,
        add_log_probabilities: bool = False,
        average_gradients: bool = False,
    ):
        super().__init__()
        if fusion not in ("concat", "indep"):
            raise ValueError(f"unknown fusion {fusion!r}: choose one of concat, indep")
        if add_log_probabilities and fusion != "indep":
            raise ValueError(
                f"add_log_probabilities needs fusion='indep'; this head uses {fusion!r}, "
                "which has no class probabilities per level"
            )
        if fusion == "indep" and num_classes < 2:
            raise ValueError(
                f"fusion 'indep' averages class probabilities, and with "
                f"num_classes={num_classes} the only one is always 1: give at least 2 "
                "classes, or fusion='concat'"
            )
        self.fusion = fusion
        self.add_log_probabilities = add_log_probabilities
        self.average_gradients = average_gradients
        self.estimators = nn.ModuleDict(
            {name: AttentionEstimator(c, compatibility) for name, c in channels.items()}
        )
        # One projection per number of channels, shared by all layers that have it (§4).
        self.projections = nn.ModuleDict(
            {
                str(c): QueryProjection(query_channels, c, projection_dropout)
                for c in sorted(set(channels.values()) - {query_channels})
            }
        )
        self.prepare = nn.ModuleDict(
            {
                name: nn.Sequential(nn.BatchNorm1d(c), nn.ReLU(), nn.Dropout(dropout))
                for name, c in channels.items()
            }
        )
        inputs = {"concat": sum(channels.values())} if fusion == "concat" else channels
        self.classifiers = nn.ModuleDict(
            {name: nn.Linear(c, num_classes) for name, c in inputs.items()}
        )

    def forward(self, local: dict[str, Tensor], g: Tensor) -> AttentionOutput:
        """Local features per layer (B, C, H, W), g (B, D) -> all of `AttentionOutput`."""
        if self.average_gradients:
            for x in local.values():  # two branches: the next layer and this head
                average_gradient(x, branches=2)
            g = g.view_as(g)  # the hook must not stay on the caller's query
            average_gradient(g, branches=len(local))
        # The scores are exponentiated, so the head computes in float32 even if the
        # convolutions do not; it is a small part of the cost.
        with torch.autocast(g.device.type, enabled=False):
            return self.attend(
                {name: to_float32(x) for name, x in local.items()}, to_float32(g)
            )

    def attend(self, local: dict[str, Tensor], g: Tensor) -> AttentionOutput:
        projected = {name: project(g) for name, project in self.projections.items()}
        scores, maps, descriptors, prepared = {}, {}, {}, {}
        for name, estimator in self.estimators.items():
            assert isinstance(estimator, AttentionEstimator)
            query = projected.get(str(estimator.channels), g)
            scores[name] = estimator.scores(local[name], query)
            descriptors[name], maps[name] = estimator.weigh(local[name], scores[name])
            prepared[name] = self.prepare[name](descriptors[name])
        features = torch.cat(list(prepared.values()), dim=1)
        logits = self.classify(prepared, features)
        return AttentionOutput(logits, features, g, maps, scores, descriptors)

    def classify(self, prepared: dict[str, Tensor], features: Tensor) -> Tensor:
        if self.fusion == "concat":
            return self.classifiers["concat"](features)
        each = torch.stack(
            [self.classifiers[name](x).log_softmax(dim=1) for name, x in prepared.items()]
        )
        if self.add_log_probabilities:
            return each.sum(dim=0)
        # The logarithm of the mean probability: its softmax is that mean again.
        return torch.logsumexp(each, dim=0) - math.log(len(each))


def to_float32(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def average_gradient(x: Tensor, branches: int) -> None:
    """Average the gradient that reaches `x` over its branches; autograd sums it."""
    if x.requires_grad:
        x.register_hook(lambda gradient: gradient / branches)
