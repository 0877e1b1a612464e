"""The attention estimator: section 3 of Jetley et al. 2018, on one page.

An intermediate layer gives local features L = {l_1 … l_n}, one vector of C numbers for
each of the n = H * W positions; the end of the network gives one global feature g. The
estimator scores every position against g, normalises the scores, and sums the local
features with the result as weights. The classifier sees only that weighted sum, so the
weights have to select what matters.

Symbols: `local` is L, `g` is g, `scores` c, `attention` a, `descriptor` g_a.
"""

import torch
from torch import Tensor, nn

from lpa_core.shapes import Float

__all__ = [
    "COMPATIBILITIES",
    "Additive",
    "AttentionEstimator",
    "DotProduct",
    "Parametrised",
    "QueryProjection",
    "Uniform",
]


class DotProduct(nn.Module):
    """Dot-product compatibility, "dp": c_i = <l_i, g>  (Jetley et al. 2018, eq. 3).

    No parameters and no scale factor.
    """

    def __init__(self, channels: int):
        super().__init__()

    def forward(
        self, local: Float[Tensor, "b c h w"], g: Float[Tensor, "b c"]
    ) -> Float[Tensor, "b h w"]:
        return torch.einsum("bchw,bc->bhw", local, g)


class Parametrised(nn.Module):
    """Parametrised compatibility, "pc": c_i = <u, l_i + g>  (Jetley et al. 2018, eq. 2).

    u is learned: a 1x1 convolution from C channels to one, with a bias, as in the
    authors' scripts.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.u = nn.Conv2d(channels, 1, kernel_size=1)

    def forward(
        self, local: Float[Tensor, "b c h w"], g: Float[Tensor, "b c"]
    ) -> Float[Tensor, "b h w"]:
        return self.u(local + g[:, :, None, None]).squeeze(1)


class Additive(nn.Module):
    """Additive compatibility, "tanh": c_i = <u, tanh(l_i + g)>  (Bahdanau et al. 2014).

    The form that the paper's eq. 2 simplifies. Because of the tanh between the sum and u,
    g does not cancel in the softmax, so the query matters.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.u = nn.Conv2d(channels, 1, kernel_size=1)

    def forward(
        self, local: Float[Tensor, "b c h w"], g: Float[Tensor, "b c"]
    ) -> Float[Tensor, "b h w"]:
        return self.u(torch.tanh(local + g[:, :, None, None])).squeeze(1)


class Uniform(nn.Module):
    """No compatibility, "mean": c_i = 0, so that a_i = 1/n and g_a is the mean.

    The control that the paper lacks: the same network without attention.
    """

    def __init__(self, channels: int):
        super().__init__()

    def forward(
        self, local: Float[Tensor, "b c h w"], g: Float[Tensor, "b c"]
    ) -> Float[Tensor, "b h w"]:
        return torch.zeros_like(local[:, 0])


COMPATIBILITIES = {"dp": DotProduct, "pc": Parametrised, "tanh": Additive, "mean": Uniform}


class AttentionEstimator(nn.Module):
    """Local features and a query in, their weighted sum and the weights out (eq. 1-3).

    Args:
        channels: C, the channels of the local features and of the query.
        compatibility: how a position is scored against the query: "pc" or "dp", the
            paper's; "tanh" or "mean", this book's controls.

    `QueryProjection` first projects a query of another size to C channels.
    """

    def __init__(self, channels: int, compatibility: str = "pc"):
        super().__init__()
        if compatibility not in COMPATIBILITIES:
            allowed = ", ".join(COMPATIBILITIES)
            raise ValueError(
                f"unknown compatibility {compatibility!r}: choose one of {allowed}"
            )
        self.channels = channels
        self.score = COMPATIBILITIES[compatibility](channels)

    def scores(
        self, local: Float[Tensor, "b c h w"], g: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b h w"]:
        """The compatibility scores c, before the softmax."""
        if local.shape[1] != self.channels or g.shape[1] != self.channels:
            raise ValueError(
                f"this estimator takes local features and a query of {self.channels} "
                f"channels; it got {local.shape[1]} and {g.shape[1]} (project the query "
                "to the channels of the local features with QueryProjection)"
            )
        return self.score(local, g)  # c_i, eq. 2 or 3   (B, H, W)

    def weigh(
        self, local: Float[Tensor, "b c h w"], scores: Float[Tensor, "b h w"]
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b h w"]]:
        """Scores to attention (eq. 1), and the sum of the local features under it."""
        attention = scores.flatten(1).softmax(dim=-1)  # a_i, eq. 1   (B, n)
        descriptor = torch.einsum(  # g_a          (B, C)
            "bn,bcn->bc", attention, local.flatten(2)
        )
        return descriptor, attention.view_as(scores)

    def forward(
        self, local: Float[Tensor, "b c h w"], g: Float[Tensor, "b d"]
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b h w"]]:
        """Descriptor g_a (B, C) and attention map a (B, H, W), which sums to one.

        Raises:
            ValueError: `local` or `g` has another number of channels than the estimator.
        """
        return self.weigh(local, self.scores(local, g))


class QueryProjection(nn.Sequential):
    """Projects g from D to C channels, where the two differ (section 4).

    The paper says "project g to the lower-dimensional space of the local features"; the
    authors' scripts do so by BatchNorm -> ReLU -> Dropout -> Linear.
    """

    def __init__(self, query_channels: int, channels: int, dropout: float = 0.5):
        super().__init__(
            nn.BatchNorm1d(query_channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(query_channels, channels),
        )
