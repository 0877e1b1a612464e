"""The VGG of the paper, without and with attention (section 4).

Both networks share thirteen 3x3 convolutions. The baseline pools five times on the way;
the attention networks move the first two poolings behind two more convolutions at the
end, so that layers 7, 10 and 13 keep 32x32, 16x16 and 8x8 positions to attend to.
"""

from collections import OrderedDict

from torch import Tensor, nn

from lpa_core.networks.base import Attended, AttentionHead, Network, scaled
from lpa_core.shapes import Float

__all__ = ["ATTENDED_LAYERS", "IMAGE_SIZES", "VGG", "AttentionVGG"]

IMAGE_SIZES = (32, 80)

# Channels of convolution 1 … 15, and the dropout rate after its activation.
CHANNELS = [64, 64, 128, 128, 256, 256, 256] + [512] * 8
DROPOUT = [0.3, 0, 0.4, 0, 0.4, 0.4, 0, 0.4, 0.4, 0, 0.4, 0.4, 0, 0.4, 0.4]

# After which convolution the baseline pools, and by what, at each image size.
BASELINE_POOLS = {
    32: {2: 2, 4: 2, 7: 2, 10: 2, 13: 2},
    80: {2: 2, 4: 2, 7: 2, 10: 2, 12: 2, 13: 3},
}

ATTENDED_LAYERS = {1: (13,), 2: (10, 13), 3: (7, 10, 13)}


def check_size(image_size: int) -> None:
    if image_size not in IMAGE_SIZES:
        raise ValueError(
            f"image_size {image_size!r}: the VGG networks take "
            f"{' or '.join(map(str, IMAGE_SIZES))} pixels a side (the paper's sizes)"
        )


def convolution(number: int, width: float, dropout: float | None) -> nn.Sequential:
    """Layer `number` (1 … 15): conv 3x3 -> BatchNorm -> ReLU -> dropout.

    Weights are drawn from N(0, sqrt(2 / (k * k * C_out))), biases are zero.
    """
    inputs = 3 if number == 1 else scaled(CHANNELS[number - 2], width)
    outputs = scaled(CHANNELS[number - 1], width)
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
    nn.init.normal_(conv.weight, std=(2 / (9 * outputs)) ** 0.5)
    nn.init.zeros_(conv.bias)
    rate = DROPOUT[number - 1] if dropout is None else 0
    layer = OrderedDict(
        conv=conv, norm=nn.BatchNorm2d(outputs, eps=1e-3), relu=nn.ReLU(inplace=True)
    )
    if rate:
        layer["dropout"] = nn.Dropout(rate)
    return nn.Sequential(layer)


def pool(size: int = 2) -> nn.MaxPool2d:
    return nn.MaxPool2d(size, stride=size, ceil_mode=True)


class VGG(Network):
    """The baseline, `vgg`: 13 convolutions, 2 fully connected layers (about 0.31 GMAC).

    Args:
        num_classes: K.
        width: factor on every channel count; 1 is the paper's.
        image_size: 32 or 80 pixels a side.
        dropout: None for the paper's rates after the convolutions and in the
            classifier; a number for that rate in front of the last layer alone.
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
        trunk = OrderedDict()
        for number in range(1, 14):
            trunk[f"layer{number}"] = convolution(number, width, dropout)
            if number in BASELINE_POOLS[image_size]:
                trunk[f"pool{number}"] = pool(BASELINE_POOLS[image_size][number])
        self.trunk = nn.Sequential(trunk)
        channels = scaled(512, width)
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
    ) -> Attended:
        """Logits and features; the baseline has no maps and takes no query."""
        if query is not None:
            raise ValueError("this network has no attention, so it takes no query")
        self.check_images(images)
        g = self.trunk(images).flatten(1)
        features = self.hidden(g)
        return Attended(self.classifier(features), features, query=g)


class AttentionVGG(Network):
    """`vgg-att`, `vgg-att2`, `vgg-att3`: 15 convolutions, attention at 1-3 layers.

    Args:
        levels: 1 attends at layer 13; 2 at 10 and 13; 3 at 7, 10 and 13.
        compatibility, join: as in `AttentionHead`.
        num_classes, width, image_size, dropout: as in `VGG`. At 80x80 the first pooling
            is 5x5, so that layers 10 and 13 keep 16x16 and 8x8 positions.

    About 3.8 GMAC an image at 32x32: twelve times the baseline's.
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        image_size: int = 32,
        dropout: float | None = None,
        levels: int = 2,
        compatibility: str = "pc",
        join: str = "concat",
    ):
        super().__init__()
        check_size(image_size)
        self.image_size = image_size
        self.attended = [f"layer{number}" for number in ATTENDED_LAYERS[levels]]
        pools = {7: pool(image_size // 16), 10: pool(), 13: pool()}
        trunk, end = OrderedDict(), OrderedDict()
        for number in range(1, 14):
            if number - 1 in pools:
                trunk[f"pool{number - 1}"] = pools[number - 1]
            trunk[f"layer{number}"] = convolution(number, width, dropout)
        end["pool13"] = pools[13]
        for number in (14, 15):
            end[f"layer{number}"] = convolution(number, width, dropout)
            end[f"pool{number}"] = pool()
        channels = scaled(512, width)
        rate = 0.5 if dropout is None else 0
        end["flat"] = nn.Flatten()
        end["dropout16"] = nn.Dropout(rate)
        end["layer16"] = nn.Linear(channels, channels)  # its output is g
        self.trunk, self.end = nn.Sequential(trunk), nn.Sequential(end)
        self.head = AttentionHead(
            {f"layer{n}": scaled(CHANNELS[n - 1], width) for n in ATTENDED_LAYERS[levels]},
            query_channels=channels,
            num_classes=num_classes,
            compatibility=compatibility,
            join=join,
            dropout=0.5 if dropout is None else dropout,
            projection_dropout=rate,
        )

    def attend(
        self, images: Float[Tensor, "b 3 h w"], query: Tensor | None = None
    ) -> Attended:
        """All the network saw; `query` (B, D) takes the place of its own g.

        Raises:
            ValueError: images or query have a shape that the network does not take.
        """
        self.check_images(images)
        local, x = {}, images
        for name, layer in self.trunk.named_children():
            x = layer(x)
            if name in self.attended:
                local[name] = x
        g = self.check_query(query, self.end(x))
        return self.head(local, g)
