"""Removing the branch that a pc network does not need.

With pc, the query cancels in the softmax. So nothing after the last attended layer affects
the output, and a trained network works without it.
"""

import copy

from torch import Tensor, nn

from lpa_core.attention import Parametrised, Uniform
from lpa_core.networks.base import AttentionHead, Network

__all__ = ["drop_query_branch"]

BLIND = (Parametrised, Uniform)  # scores whose softmax does not depend on the query


class NoQuery(nn.Module):
    """A query of zeros that replaces the branch that computes one."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.channels)


def drop_query_branch(network: Network) -> Network:
    """A copy of a network without the branch that computes g: same logits, same maps.

    Args:
        network: an attention network all of whose scores are pc (or mean).

    Raises:
        ValueError: the network has no such branch, or its maps do depend on g.
    """
    head, end = getattr(network, "head", None), getattr(network, "end", None)
    if not isinstance(head, AttentionHead) or not isinstance(end, nn.Sequential):
        raise ValueError(
            "this network has no branch that computes a query: give an attention network"
        )
    scores = [estimator.score for estimator in head.estimators.values()]
    if hasattr(network, "gate") or not all(isinstance(score, BLIND) for score in scores):
        raise ValueError(
            "the maps of this network depend on its query, so it needs that branch: "
            "give a network that uses only pc and has no gates"
        )
    pruned = copy.deepcopy(network)
    query_layer, pruned_head = end[-1], pruned.get_submodule("head")
    assert isinstance(query_layer, nn.Linear) and isinstance(pruned_head, AttentionHead)
    pruned.end = NoQuery(query_layer.out_features)
    for name in head.projections:
        pruned_head.projections[name] = NoQuery(int(name))
    return pruned
