"""The machine and versions of a benchmark, for its lines in results/."""

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
