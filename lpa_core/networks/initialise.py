"""How a network is initialised: like PyTorch, or like the authors' Torch7 scripts.

Both initialise convolutions (`he_convolution`) and linear layers alike. Two things differ:
the gains of batch normalisation, and u, the learned query of an estimator, which
determines how sharp the first maps are.
"""

from typing import Literal

import torch
from torch import nn

from lpa_core.attention import Additive, Parametrised

__all__ = ["Initialisation", "initialise"]

Initialisation = Literal["pytorch", "scripts"]

# The scripts draw each convolution from N(0, sqrt(2 / (k * k * C_out))), and u is a 1x1
# convolution with one output.
SCRIPTS_QUERY_STD = 2**0.5


@torch.no_grad()
def initialise(
    network: nn.Module,
    initialisation: Initialisation = "pytorch",
    query_std: float | None = None,
) -> None:
    """Redraw the parameters that differ from PyTorch's defaults; the others are kept.

    Args:
        initialisation: "scripts" draws the gains of batch normalisation from U(0, 1),
            Torch7's default, and u from N(0, sqrt(2)), with a bias of zero. "pytorch" has
            gains of one and draws u as `nn.Conv2d` does: uniformly, with a standard
            deviation of 1 / sqrt(3 C), 0.026 for 512 channels.
        query_std: draw u with this standard deviation instead, with a bias of zero.
    """
    scripts = initialisation == "scripts"
    std = query_std if query_std is not None else SCRIPTS_QUERY_STD if scripts else None
    for module in network.modules():
        if scripts and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
        if std is not None and isinstance(module, Parametrised | Additive):
            nn.init.normal_(module.u.weight, std=std)
            if module.u.bias is not None:
                nn.init.zeros_(module.u.bias)
