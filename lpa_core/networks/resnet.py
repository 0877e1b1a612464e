"""The residual networks of the paper, without and with attention (A.2).

Pre-activation bottleneck networks (He et al. 2016) with 9n + 2 layers: n = 18 gives the
paper's 164. Three stages compute at 32x32, 16x16 and 8x8 positions; attention reads the
raw outputs of the last one or two, and the head after them is replaced.
"""

from collections import OrderedDict

from torch import Tensor, nn

from lpa_core.networks.base import (
    AttentionHead,
    AttentionOutput,
    Network,
    he_convolution,
    scale_channels,
)
from lpa_core.networks.vgg import no_query, pool
from lpa_core.shapes import Float

__all__ = ["AttentionResNet", "Bottleneck", "ResNet"]

IMAGE_SIZE = 32
STEM = 16
STAGES = {"stage1": 64, "stage2": 128, "stage3": 256}  # channels of each stage's output
ATTENDED_STAGES = {1: ("stage3",), 2: ("stage2", "stage3")}


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, like all in the trunk."""
    return he_convolution(inputs, outputs, size, stride, bias=False)


class Bottleneck(nn.Module):
    """BatchNorm, ReLU, 1x1; BatchNorm, ReLU, 3x3; BatchNorm, ReLU, 1x1; plus the input.

    If the number of channels changes, the shortcut has a 1x1 convolution after the first
    BatchNorm and ReLU, which both branches then share. A stride applies to the first 1x1
    convolution and to the shortcut's, as in the authors' scripts.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, width: float):
        super().__init__()
        # Rounded separately: a quarter of a rounded number may be fractional.
        inner = scale_channels(outputs // 4, width)
        inputs, outputs = scale_channels(inputs, width), scale_channels(outputs, width)
        self.first = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.branch = nn.Sequential(
            convolution(inputs, inner, 1, stride),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            convolution(inner, inner, 3),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            convolution(inner, outputs, 1),
        )
        changes = stride > 1 or inputs != outputs
        self.shortcut = convolution(inputs, outputs, 1, stride) if changes else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        active = self.first(x)
        kept = x if self.shortcut is None else self.shortcut(active)
        return self.branch(active) + kept


def trunk(depth: int, width: float) -> nn.Sequential:
    """The first convolution and the three stages, (9 * blocks + 2 = depth) layers deep."""
    blocks, rest = divmod(depth - 2, 9)
    if rest or blocks < 1:
        raise ValueError(f"depth {depth}: give 9 n + 2 for some n, such as 20 or 164")
    stem = convolution(3, scale_channels(STEM, width), 3)
    stages: OrderedDict[str, nn.Module] = OrderedDict(stem=stem)
    channels = STEM
    for name, outputs in STAGES.items():
        stage = []
        for block in range(blocks):
            stride = 2 if block == 0 and name != "stage1" else 1
            stage.append(Bottleneck(channels, outputs, stride, width))
            channels = outputs
        stages[name] = nn.Sequential(*stage)
    return nn.Sequential(stages)


def check_size(image_size: int) -> None:
    if image_size != IMAGE_SIZE:
        raise ValueError(
            f"image_size {image_size!r}: the residual networks take {IMAGE_SIZE} pixels "
            "per side (the paper's size for them)"
        )


class ResNet(Network):
    """`rn164`: 164 layers; with ten classes, 1,703,258 parameters.

    Args:
        num_classes: K.
        width: factor on every channel count; 1 is the paper's.
        image_size: 32.
        dropout: rate in front of the classifier; the paper has none there (None).
        depth: 9 n + 2 layers.
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        image_size: int = IMAGE_SIZE,
        dropout: float | None = None,
        depth: int = 164,
    ):
        super().__init__()
        check_size(image_size)
        self.image_size = image_size
        self.trunk = trunk(depth, width)
        channels = scale_channels(STAGES["stage3"], width)
        self.hidden = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),  # 8x8 positions at the paper's size
            nn.Flatten(),
            nn.Dropout(dropout or 0),
        )
        self.classifier = nn.Linear(channels, num_classes)

    def attend(
        self, images: Float[Tensor, "b 3 h w"], query: Tensor | None = None
    ) -> AttentionOutput:
        """Logits and features; the network has no maps and takes no query."""
        no_query(query)
        self.check_images(images)
        features = self.hidden(self.trunk(images))
        return AttentionOutput(self.classifier(features), features, query=features)


class AttentionResNet(Network):
    """`rn164-att`, `rn164-att2`: attention to the last one or two stages.

    The head after the last stage is replaced by BatchNorm, ReLU, pooling, a 3x3
    convolution, pooling and a linear layer that gives g (A.2 and the authors' scripts).
    The fusion is concat, the compatibility is pc.

    Args:
        levels: 1 attends to the last stage, 2 to the last two.
        average_gradients: as in `AttentionHead`.
        num_classes, width, image_size, dropout, depth: as in `ResNet`; dropout None
            gives the authors' rates.
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        image_size: int = IMAGE_SIZE,
        dropout: float | None = None,
        depth: int = 164,
        levels: int = 2,
        average_gradients: bool = False,
    ):
        super().__init__()
        check_size(image_size)
        self.image_size = image_size
        self.attended = ATTENDED_STAGES[levels]
        self.trunk = trunk(depth, width)
        channels = scale_channels(STAGES["stage3"], width)
        self.end = nn.Sequential(
            OrderedDict(
                # Not in place: the input is what the estimator attends to.
                norm=nn.BatchNorm2d(channels),
                relu=nn.ReLU(),
                pool=pool(),
                conv=he_convolution(channels, channels, size=3),
                conv_norm=nn.BatchNorm2d(channels, eps=1e-3),
                conv_relu=nn.ReLU(inplace=True),
                conv_dropout=nn.Dropout(0.4 if dropout is None else 0),
                last_pool=nn.AdaptiveMaxPool2d(1),  # 4x4 positions at the paper's size
                flat=nn.Flatten(),
                dropout=nn.Dropout(0.5 if dropout is None else 0),
                linear=nn.Linear(channels, channels),
            )
        )
        self.head = AttentionHead(
            {name: scale_channels(STAGES[name], width) for name in self.attended},
            query_channels=channels,
            num_classes=num_classes,
            dropout=0.3 if dropout is None else dropout,
            projection_dropout=0.5 if dropout is None else 0,
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
        for name, stage in self.trunk.named_children():
            x = stage(x)
            if name in self.attended:
                local[name] = x
        g = self.check_query(query, self.end(x))
        return self.head(local, g)
