"""The VGG networks of the paper, without and with attention (section 4, A.2).

All share thirteen 3x3 convolutions, between which the baseline pools five times. The
attention networks move the first two poolings after two more convolutions at the end, so
that layers 7, 10 and 13 keep 32x32, 16x16 and 8x8 positions to attend to.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from lpa_core.attention import AttentionEstimator
from lpa_core.networks.base import (
    AttentionHead,
    AttentionOutput,
    Network,
    SinglePrecision,
    average_gradient,
    he_convolution,
    scale_channels,
    to_float32,
)
from lpa_core.shapes import Float, Int

__all__ = [
    "ATTENDED_LAYERS",
    "IMAGE_SIZES",
    "VGG",
    "AttentionVGG",
    "GlobalPoolVGG",
    "HighResVGG",
    "ProgressiveVGG",
]

IMAGE_SIZES = (32, 80)

# Channels of convolution 1 … 15, and the dropout rate after its activation.
CHANNELS = [64, 64, 128, 128, 256, 256, 256] + [512] * 8
DROPOUT = [0.3, 0, 0.4, 0, 0.4, 0.4, 0, 0.4, 0.4, 0, 0.4, 0.4, 0, 0.4, 0.4]

# After which convolutions the baseline pools, and by which factor, for each image size.
BASELINE_POOLS = {
    32: {2: 2, 4: 2, 7: 2, 10: 2, 13: 2},
    80: {2: 2, 4: 2, 7: 2, 10: 2, 12: 2, 13: 3},
}

ATTENDED_LAYERS = {1: (13,), 2: (10, 13), 3: (7, 10, 13)}


def check_size(image_size: int) -> None:
    if image_size not in IMAGE_SIZES:
        raise ValueError(
            f"image_size {image_size!r}: the VGG networks take "
            f"{' or '.join(map(str, IMAGE_SIZES))} pixels per side (the paper's sizes)"
        )


def convolution(number: int, width: float, dropout: float | None) -> nn.Sequential:
    """Layer `number` (1 … 15): conv 3x3 -> BatchNorm -> ReLU -> dropout.

    See `he_convolution` for how the weights are drawn.
    """
    inputs = 3 if number == 1 else scale_channels(CHANNELS[number - 2], width)
    outputs = scale_channels(CHANNELS[number - 1], width)
    rate = DROPOUT[number - 1] if dropout is None else 0
    layer: OrderedDict[str, nn.Module] = OrderedDict(
        conv=he_convolution(inputs, outputs, size=3),
        norm=nn.BatchNorm2d(outputs, eps=1e-3),
        relu=nn.ReLU(inplace=True),
    )
    if rate:
        layer["dropout"] = nn.Dropout(rate)
    return nn.Sequential(layer)


def pool(size: int = 2) -> nn.MaxPool2d:
    return nn.MaxPool2d(size, stride=size, ceil_mode=True)


def coarse_trunk(
    width: float, dropout: float | None, pools: dict[int, int]
) -> nn.Sequential:
    """Convolutions 1 … 13 of the baseline; `pools` maps some of them to a pooling."""
    trunk: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, 14):
        trunk[f"layer{number}"] = convolution(number, width, dropout)
        if number in pools:
            trunk[f"pool{number}"] = pool(pools[number])
    return nn.Sequential(trunk)


def fine_trunk(width: float, dropout: float | None, image_size: int) -> nn.Sequential:
    """Convolutions 1 … 13 of the attention networks, which pool after 7 and 10."""
    pools = {7: pool(image_size // 16), 10: pool()}
    trunk: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, 14):
        if number - 1 in pools:
            trunk[f"pool{number - 1}"] = pools[number - 1]
        trunk[f"layer{number}"] = convolution(number, width, dropout)
    return nn.Sequential(trunk)


def global_branch(width: float, dropout: float | None, first_pool: int) -> nn.Sequential:
    """Local features (B, 512, H, W) to the global feature g (B, 512): layers 14 … 16.

    There is neither normalisation nor activation after layer 16.
    """
    branch: OrderedDict[str, nn.Module] = OrderedDict(pool13=pool(first_pool))
    for number in (14, 15):
        branch[f"layer{number}"] = convolution(number, width, dropout)
        branch[f"pool{number}"] = pool()
    channels = scale_channels(512, width)
    branch["flat"] = nn.Flatten()
    branch["dropout16"] = nn.Dropout(0.5 if dropout is None else 0)
    branch["layer16"] = nn.Linear(channels, channels)
    return nn.Sequential(branch)


def no_query(query: Tensor | None) -> None:
    if query is not None:
        raise ValueError("this network has no attention, so it takes no query")


class VGG(Network):
    """The baseline, `vgg`: 13 convolutions, 2 fully connected layers (about 0.31 GMAC).

    Args:
        num_classes: K.
        width: factor on every channel count; 1 is the paper's.
        image_size: 32 or 80 pixels a side.
        dropout: None for the paper's rates after the convolutions and in the
            classifier; a number for that rate only before the last layer.
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        image_size: int = 32,
        dropout: float | None = None,
    ):
        super().__init__()
        check_size(image_size)
        self.image_size = image_size
        self.trunk = coarse_trunk(width, dropout, BASELINE_POOLS[image_size])
        channels = scale_channels(512, width)
        self.hidden = nn.Sequential(
            nn.Dropout(0.5 if dropout is None else 0),
            nn.Linear(channels, channels),
            nn.BatchNorm1d(channels),
            nn.ReLU(),
            nn.Dropout(0.5 if dropout is None else dropout),
        )
        self.classifier = nn.Linear(channels, num_classes)

    def attend(
        self, images: Float[Tensor, "b 3 h w"], query: Tensor | None = None
    ) -> AttentionOutput:
        """Logits and features; the baseline has no maps and takes no query."""
        no_query(query)
        self.check_images(images)
        g = self.trunk(images).flatten(1)
        features = self.hidden(g)
        return AttentionOutput(self.classifier(features), features, query=g)


class GlobalPoolVGG(Network):
    """`vgg-gap` (Zhou et al. 2016): classifies the mean of layer 13's output.

    It has the attention networks' convolutions 1 … 13 with their two poolings, then global
    average pooling and one linear layer. Its map is the class activation map of the
    predicted class, with 8x8 positions at 32x32 pixels and at 80x80.

    Args:
        fine: False takes the baseline's convolutions without their last pooling. This is
            the control `vgg-gap-coarse`, whose map has 2x2 positions (3x3 at 80x80 pixels).
            Before training version 2, that network was called `vgg-gap` here.
        num_classes, width, image_size, dropout: as in `VGG`; the paper's rates have no
            dropout before the classifier.
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        image_size: int = 32,
        dropout: float | None = None,
        fine: bool = True,
    ):
        super().__init__()
        check_size(image_size)
        self.image_size = image_size
        if fine:
            self.trunk = fine_trunk(width, dropout, image_size)
        else:
            pools = {k: v for k, v in BASELINE_POOLS[image_size].items() if k != 13}
            self.trunk = coarse_trunk(width, dropout, pools)
        self.dropout = nn.Dropout(dropout or 0)
        self.classifier = nn.Linear(scale_channels(512, width), num_classes)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        return self.classify(self.local_features(images))[0]

    def attend(
        self, images: Float[Tensor, "b 3 h w"], query: Tensor | None = None
    ) -> AttentionOutput:
        """Logits, features and the class activation map.

        `scores` is the raw map: the channels of layer 13, weighted with the classifier's
        weights for the predicted class and summed. In `maps` it is shifted so that its
        minimum is zero and scaled to sum to one.
        """
        no_query(query)
        local = self.local_features(images)
        logits, features = self.classify(local)
        scores = self.class_scores(local, logits.argmax(dim=1))
        maps = {"layer13": shifted(scores)}
        return AttentionOutput(logits, features, features, maps, {"layer13": scores})

    def class_map(
        self, images: Float[Tensor, "b 3 h w"], classes: Int[Tensor, " b"]
    ) -> Float[Tensor, "b i j"]:
        """The class activation map of a given class for each image; each sums to one."""
        return shifted(self.class_scores(self.local_features(images), classes))

    def class_scores(self, local: Tensor, classes: Tensor) -> Tensor:
        """The channels, weighted for one class per image and summed."""
        weights = to_float32(self.classifier.weight[classes])  # (B, C)
        return torch.einsum("bchw,bc->bhw", to_float32(local), weights)

    def local_features(self, images: Tensor) -> Float[Tensor, "b c h w"]:
        self.check_images(images)
        return self.trunk(images)

    def classify(self, local: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and features (B, F)."""
        features = self.dropout(local.mean(dim=(2, 3)))
        return self.classifier(features), features


def shifted(scores: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Scores of any sign as a map with minimum zero and sum one."""
    raised = scores - scores.amin(dim=(1, 2), keepdim=True)
    total = raised.sum(dim=(1, 2), keepdim=True)
    even = torch.full_like(scores, 1 / scores[0].numel())  # for a constant map
    # Avoid 0 / 0 even in the branch that is not used: its gradient would be NaN.
    return torch.where(total > 0, raised / torch.where(total > 0, total, 1), even)


class HighResVGG(Network):
    """`vgg-hires`, a control that the paper lacks: the same trunk without attention.

    It has the attention networks' fifteen convolutions at their resolution, so it costs
    the same. g is classified as in the baseline (BatchNorm, ReLU, Dropout, Linear).
    Arguments as in `VGG`.
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        image_size: int = 32,
        dropout: float | None = None,
    ):
        super().__init__()
        check_size(image_size)
        self.image_size = image_size
        self.trunk = fine_trunk(width, dropout, image_size)
        self.end = global_branch(width, dropout, first_pool=2)
        channels = scale_channels(512, width)
        self.hidden = nn.Sequential(
            nn.BatchNorm1d(channels),
            nn.ReLU(),
            nn.Dropout(0.5 if dropout is None else dropout),
        )
        self.classifier = nn.Linear(channels, num_classes)

    def attend(
        self, images: Float[Tensor, "b 3 h w"], query: Tensor | None = None
    ) -> AttentionOutput:
        """Logits and features; the network has no maps and takes no query."""
        no_query(query)
        self.check_images(images)
        g = self.end(self.trunk(images))
        features = self.hidden(g)
        return AttentionOutput(self.classifier(features), features, query=g)


class AttentionVGG(Network):
    """`vgg-att`, `vgg-att2`, `vgg-att3`: 15 convolutions, attention at 1-3 layers.

    Args:
        levels: 1 attends at layer 13; 2 at 10 and 13; 3 at 7, 10 and 13.
        compatibility, fusion, add_log_probabilities, average_gradients: as in
            `AttentionHead`.
        num_classes, width, image_size, dropout: as in `VGG`. At 80x80 the first pooling
            is 5x5, so that layers 10 and 13 keep 16x16 and 8x8 positions; layer 7 is
            pooled by 2.5, so that its attention map has 32x32 positions.

    About 3.8 GMAC per image at 32x32: twelve times as many as the baseline.
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        image_size: int = 32,
        dropout: float | None = None,
        levels: int = 2,
        compatibility: str = "pc",
        fusion: str = "concat",
        add_log_probabilities: bool = False,
        average_gradients: bool = False,
    ):
        super().__init__()
        check_size(image_size)
        self.image_size = image_size
        self.attended = [f"layer{number}" for number in ATTENDED_LAYERS[levels]]
        self.trunk = fine_trunk(width, dropout, image_size)
        self.end = global_branch(width, dropout, first_pool=2)  # its output is g
        self.head = AttentionHead(
            {
                f"layer{n}": scale_channels(CHANNELS[n - 1], width)
                for n in ATTENDED_LAYERS[levels]
            },
            query_channels=scale_channels(512, width),
            num_classes=num_classes,
            compatibility=compatibility,
            fusion=fusion,
            dropout=0.5 if dropout is None else dropout,
            projection_dropout=0.5 if dropout is None else 0,
            add_log_probabilities=add_log_probabilities,
            average_gradients=average_gradients,
        )

    def attend(
        self, images: Float[Tensor, "b 3 h w"], query: Tensor | None = None
    ) -> AttentionOutput:
        """Logits, maps and features; `query` (B, D) replaces the network's own g.

        Raises:
            ValueError: images or query have a shape that the network does not take.
        """
        self.check_images(images)
        local, x = {}, images
        for name, layer in self.trunk.named_children():
            x = layer(x)
            if name in self.attended:
                local[name] = x
        if "layer7" in local and self.image_size == 80:
            local["layer7"] = pool_by_two_and_a_half(local["layer7"])
        g = self.check_query(query, self.end(x))
        return self.head(local, g)


def pool_by_two_and_a_half(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
    """80x80 positions to 32x32: each is the maximum of a window of 2.5 x 2.5 pixels.

    Windows are rounded outwards to three pixels, which may overlap. Two by two windows
    cover what the trunk's own 5x5 pooling sees, so layers 8 and up do not change.
    """
    side = 2 * -(-x.shape[-1] // 5)
    return nn.functional.adaptive_max_pool2d(x, side)


class Gate(SinglePrecision, AttentionEstimator):
    """The estimator of `vgg-pan`'s layer 10, which is not part of a head."""


class ProgressiveVGG(Network):
    """`vgg-pan`, progressive attention (Seo et al. 2016; A.2) on the trunk of VGG-att2.

    Layer 10 is scored by pc, and a sigmoid turns each score into a gate: layer 11 gets
    a_i * l_i at every position. Layer 13 has attention as in VGG-att, and only its
    descriptor is classified. Each level has its own global branch. Nothing cancels in a
    sigmoid, so the gates of layer 10 do depend on their query.

    Args:
        average_gradients: as in `AttentionHead`; branches meet after layers 10 and 13.
        num_classes, width, image_size, dropout: as in `VGG`.
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        image_size: int = 32,
        dropout: float | None = None,
        average_gradients: bool = False,
    ):
        super().__init__()
        check_size(image_size)
        self.image_size = image_size
        self.average_gradients = average_gradients
        self.trunk = fine_trunk(width, dropout, image_size)
        self.early_end = global_branch(width, dropout, first_pool=4)
        self.end = global_branch(width, dropout, first_pool=2)
        channels = scale_channels(512, width)
        self.gate = Gate(channels, "pc")
        self.head = AttentionHead(
            {"layer13": channels},
            query_channels=channels,
            num_classes=num_classes,
            dropout=0.5 if dropout is None else dropout,
            average_gradients=average_gradients,
        )

    def attend(
        self, images: Float[Tensor, "b 3 h w"], query: Tensor | None = None
    ) -> AttentionOutput:
        """Logits, maps and features.

        `query` (B, 2D) is the concatenation of the global features of layers 10 and 13.
        In `maps`, layer 10's gates are scaled to sum to one; the gates themselves are the
        sigmoid of `scores`.

        Raises:
            ValueError: images or query have a shape that the network does not take.
        """
        self.check_images(images)
        early, late, scores = None, None, None
        if query is not None:
            own = images.new_zeros(len(images), 2 * self.gate.channels)
            early, late = self.check_query(query, own).chunk(2, dim=1)
        x = images
        for name, layer in self.trunk.named_children():
            x = layer(x)
            if name == "layer10":
                if self.average_gradients:  # its branches: the gates and early_end
                    average_gradient(x, branches=2)
                early = self.early_end(x) if early is None else early
                with torch.autocast(x.device.type, enabled=False):
                    scores = self.gate.scores(to_float32(x), to_float32(early))  # c_i
                x = scores.sigmoid()[:, None].to(x.dtype) * x  # a_i l_i
        assert early is not None and scores is not None  # the trunk has a layer 10
        late = self.end(x) if late is None else late
        seen = self.head({"layer13": x}, late)
        # sigmoid(c_i) / sum_j sigmoid(c_j), stable for scores of any size.
        shares = nn.functional.logsigmoid(scores).flatten(1).softmax(dim=1)
        seen.maps = {"layer10": shares.view_as(scores)} | seen.maps
        seen.scores = {"layer10": scores} | seen.scores
        seen.query = torch.cat([early, late], dim=1)
        return seen
