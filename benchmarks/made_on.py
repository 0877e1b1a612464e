"""On what a benchmark was made: what its lines in results/ say beside the numbers."""

import torch

from lpa_core.provenance import device_name, git_state, now, versions


def made_on(device: torch.device) -> dict:
    """Device, threads, versions, commit, and when it ended."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "git": git_state().model_dump(),
        "finished": now().isoformat(),
    }
