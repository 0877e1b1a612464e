"""Several runs, one after the other in one process that loads the data once.

Importing libraries, initialising a GPU and loading a set take longer than an epoch of a
small network. A run that fails is reported and does not stop the others; finished runs are
reported too. After a kill, starting the same list again resumes it.
"""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lpa_core.provenance import choose_device
from lpa_core.training.config import Profile, RunSpec
from lpa_core.training.distributed import several
from lpa_core.training.inputs import Data, data_key, load_data
from lpa_core.training.loop import check_options, run, tqdm
from lpa_core.training.precision import precision_and_reason
from lpa_core.training.record import Record

__all__ = ["Outcome", "run_several"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one of several runs.

    Attributes:
        spec: the spec of the run.
        record: None if the run failed.
        trained: whether anything was left to train.
        error: why it failed, in one line; "" if it did not.
    """

    spec: RunSpec
    record: Record | None
    trained: bool
    error: str = ""


def run_several(
    specs: Sequence[RunSpec],
    *,
    runs: str | Path = "runs",
    records: str | Path | None = None,
    profile: Profile = "smoke",
    data_root: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    compile: bool | None = None,
) -> Iterator[Outcome]:
    """Train one run after the other, each as `run` does; equal specs only once.

    Runs that differ only in network or seed share their data on the device.

    Args:
        runs, records, profile, data_root, device, compile: as in `run`.
        progress: whether to show a progress bar over all runs.

    Returns:
        The outcomes, each as soon as it is known.

    Raises:
        ValueError, RecordError: before training starts.
        ValueError: later, if the GPU stops working for this process.
    """
    check_options(profile, records)
    if several():
        raise ValueError(
            "torchrun shares one run among its processes: give it one network and one "
            "seed, or start several runs without it"
        )
    target = choose_device(device)
    options = {
        "runs": runs,
        "records": records,
        "profile": profile,
        "data_root": data_root,
        "device": device,
        "compile": compile,
    }
    # By comparison: a spec with overrides (a dictionary) is not hashable.
    once = [spec for n, spec in enumerate(specs) if spec not in specs[:n]]
    return outcomes(once, target, progress, options)


def outcomes(
    specs: list[RunSpec], device: torch.device, progress: bool, options: dict
) -> Iterator[Outcome]:
    """See `run_several`."""
    data: Data | None = None
    with tqdm(total=len(specs), unit="run", disable=not progress) as bar:
        for precision in dict.fromkeys(spec.precision for spec in specs):
            if progress:
                tqdm.write(precision_and_reason(precision, device)[1])
        for spec in specs:
            begun: list[int] = []

            def callback(done: int, network, spec=spec, begun=begun) -> None:
                begun.append(done)
                bar.set_description(f"{spec.label()}, epoch {done}/{spec.chosen_epochs()}")

            record, error = None, ""
            try:
                if data is None or data.key != data_key(spec, device):
                    data = None  # frees its memory before the next set is loaded
                    data = load_data(spec, device, options["data_root"])
                record = run(spec, data=data, progress=False, callback=callback, **options)
            except Exception as failure:  # a driver and a disk raise different types
                said = " ".join(str(failure).split())
                plain = isinstance(failure, ValueError | ArithmeticError | OSError)
                error = said if plain and said else f"{type(failure).__name__}: {said}"
            bar.update()
            yield Outcome(spec, record, bool(begun), error)
            make_room(device, after_failure=bool(error))


def make_room(device: torch.device, after_failure: bool) -> None:
    """Free a run's GPU memory for the next one.

    Raises:
        ValueError: the GPU no longer works for this process.
    """
    if device.type != "cuda":
        return
    if after_failure:
        try:
            choose_device(str(device))
        except ValueError as error:
            raise ValueError(
                f"{error}; a new process may be able to use it: run the same command "
                "again to continue with the remaining runs"
            ) from error
    gc.collect()
    torch.cuda.empty_cache()
