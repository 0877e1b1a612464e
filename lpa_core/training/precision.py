"""The number types that a device computes in, chosen for its hardware, with the reason.

A GPU that only emulates bfloat16 (Colab's T4, a V100) is faster in float16. Its range is
small, so gradients are scaled (`torch.amp.GradScaler`, in `Optimiser`).
"""

from contextlib import nullcontext

import torch

from lpa_core.provenance import device_name

__all__ = ["autocast", "choose_precision", "newton_schulz_type", "precision_and_reason"]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
TENSOR_CORES = (7, 0)  # the first compute capability with fast float16 products


def precision_and_reason(precision: str, device: torch.device) -> tuple[str, str]:
    """The precision to use on a device, and one line that gives the reason."""
    if precision != "auto":
        found, why = precision, "as it was asked for"
    elif device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        fast = capability >= TENSOR_CORES
        if native:
            found, why = "bfloat16", "the card computes in it"
        elif fast:
            found, why = "float16", "the card has no bfloat16 of its own"
        else:
            found, why = "float32", "the card is fast in nothing shorter"
    elif device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        found, why = "bfloat16", "the processor has instructions for it"
    elif device.type == "cpu":
        found, why = "float32", "the processor has no bfloat16 instructions"
    else:
        found, why = "float32", "nothing shorter has been tried on this kind of device"
    return found, f"{device_name(device)}, {found}: {why}"


def choose_precision(precision: str, device: torch.device) -> str:
    """The precision to use; "auto" is the shortest type that the hardware supports."""
    return precision_and_reason(precision, device)[0]


def newton_schulz_type(device: torch.device) -> torch.dtype:
    """The type of Muon's products; `torch.optim.Muon` uses bfloat16 on every device."""
    return DTYPES[choose_precision("auto", device)]


def autocast(precision: str, device: torch.device):
    """The context in which a network's forward pass runs."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])
