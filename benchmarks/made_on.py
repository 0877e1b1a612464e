"""The machine and versions of a benchmark, for its lines in results/."""

import torch

from lpa_core.provenance import device_name, loaded_git, now, versions

loaded_git()  # at once: a benchmark asks again when it has ended


def made_on(device: torch.device) -> dict:
    """Device, threads, versions, commit, and when it ended."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "git": loaded_git().model_dump(),
        "finished": now().isoformat(),
    }
