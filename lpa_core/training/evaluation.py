"""Loss and error of a network on a data set."""

import torch
import torch.nn.functional as F
from torch import nn

from lpa_core.data import EvalLoader
from lpa_core.training.distributed import ALONE, DistributedContext
from lpa_core.training.precision import autocast

__all__ = ["evaluate"]


@torch.no_grad()
def evaluate(
    network: nn.Module,
    batches: EvalLoader,
    precision: str = "float32",
    context: DistributedContext = ALONE,
) -> tuple[float, float]:
    """Mean cross-entropy, and top-1 error in per cent, over all processes' batches.

    It synchronises with the device only once, at the end.
    """
    network.eval()
    losses, wrong, count = [], [], 0.0
    for images, labels in batches:
        with autocast(precision, images.device):
            logits = network(images)
        losses.append(F.cross_entropy(logits.float(), labels, reduction="sum"))
        wrong.append((logits.argmax(dim=1) != labels).sum())
        count += len(labels)
    totals = [float(sum(torch.stack(x).tolist())) if x else 0.0 for x in (losses, wrong)]
    sums = context.all_reduce_sum([*totals, count], batches.labels.device)
    return sums[0] / sums[2], 100 * sums[1] / sums[2]
