"""One training loop for every network: resumable, on the CPU, a GPU or several.

Read it from top to bottom: `run` checks its arguments, loads the data and builds the
network; `train` makes the optimiser, resumes from the newest checkpoint, trains the
remaining epochs, saving checkpoints, and writes weights and record. The step itself, and
how a GPU replays it, is in `training/step.py`.

A run is a function of its `RunSpec`, the data and the training version. Each epoch is
seeded by its number, and each checkpoint is written whole or not at all: a run that was
killed resumes from its last checkpoint and, on the CPU, ends with identical weights.
"""

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from lpa_core.networks import Network
from lpa_core.networks.base import to_channels_last
from lpa_core.provenance import (
    check_appendable,
    check_writable,
    choose_device,
    exclusive_lock,
    loaded_git,
    write_whole,
)
from lpa_core.training.checkpoint import (
    CheckpointWriter,
    check_target,
    copy_pair,
    load_checkpoint,
    run_folder,
    save_weights,
)
from lpa_core.training.compiling import compiled_if_it_pays
from lpa_core.training.config import Profile, RunSpec
from lpa_core.training.distributed import (
    ALONE,
    DistributedContext,
    distributed_context,
    own_device,
)
from lpa_core.training.evaluation import evaluate
from lpa_core.training.inputs import Data, data_key, initial_network, load_data
from lpa_core.training.optim import Optimiser
from lpa_core.training.precision import precision_and_reason
from lpa_core.training.recipes import lr_factor
from lpa_core.training.record import Epoch, Record, append_record, build_record
from lpa_core.training.step import TrainStep, check_finite, cuda_capture, tuned_kernels

with warnings.catch_warnings():  # a notebook without ipywidgets shows a text bar
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

__all__ = ["check_options", "run"]

Callback = Callable[[int, Network], None]

EVALUATE_EVERY = 4  # epochs; the test set is always evaluated after the last one


def run(
    spec: RunSpec,
    *,
    runs: str | Path = "runs",
    records: str | Path | None = None,
    weights: str | Path | None = None,
    profile: Profile = "smoke",
    data_root: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    callback: Callback | None = None,
    compile: bool | None = None,
    data: Data | None = None,
    watch: Callback | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Record:
    """Train and evaluate; an interrupted run resumes at its last checkpoint.

    With torchrun, several processes share the run: each takes its slice of every batch,
    the main process writes and reports, and the result equals that of one process up to
    rounding. Their number may change when the run resumes.

    Args:
        spec: what to train.
        runs: folder for checkpoints and weights, with one folder per run.
        records: file that the record is appended to, or None.
        weights: file (.safetensors) that the final weights are copied to, or None.
        profile: the profile that the run belongs to, for its record.
        data_root: folder of the prepared data sets, see `lpa_core.data.load`.
        device: "auto", "cpu", "cuda", "cuda:1", …; each of several processes takes the GPU
            with its own number.
        progress: whether to show a progress bar and one line per epoch.
        callback: called with the number of finished epochs and the network, before the
            first epoch and after each; in a resumed run, only from there on. Each of
            several processes calls it.
        compile: whether to compile the network, see `compiled`; None does so on a GPU if
            the run is long enough, see `pays`. Several processes train uncompiled, because
            their BatchNorm breaks the graph at each layer.
        data: data loaded by an earlier run of this process (`load_data`); used if they
            are what this run needs, else loaded again.
        watch: the former name of `callback`.
        on_epoch: called with each epoch's metrics when it ends, only in the main process;
            for TensorBoard and the like.

    Returns:
        The record. A finished run is not trained again.

    Raises:
        ValueError, DataError, RecordError, WeightsError: before training starts.
    """
    if watch is not None:
        warnings.warn("run(watch=…) is now callback=…", DeprecationWarning, stacklevel=2)
        callback = watch
    check_options(profile, records)
    if weights is not None:
        check_target(Path(weights))
    target = choose_device(own_device(device))
    with distributed_context(target) as context:
        if compile and context.world_size > 1:
            raise ValueError(
                f"compile: {context.world_size} processes train uncompiled; start one "
                "process or leave out this option"
            )

        if data is None or data.key != data_key(spec, target):
            data = load_data(spec, target, data_root, context)
        network, fingerprints = initial_network(spec, data)
        network = to_channels_last(network.to(device=target))
        identity = spec.identity(fingerprints)
        folder = run_folder(Path(runs), spec.label(), identity)
        check_writable(folder)
        if not (folder / "record.json").exists():
            busy = f"another process is training {folder.name}: wait for it, or stop it"
            lock = exclusive_lock(folder / ".lock", busy)
            with lock if context.is_main else nullcontext():
                train(
                    spec,
                    data,
                    network,
                    fingerprints,
                    folder,
                    context=context,
                    profile=profile,
                    compile=compile,
                    progress_bar=progress and context.is_main,
                    callback=callback,
                    on_epoch=on_epoch,
                )
        text = (folder / "record.json").read_text(encoding="utf-8")
        record = Record.model_validate_json(text)
        if records is not None and context.is_main:
            append_record(record, Path(records))
        if weights is not None and context.is_main:
            copy_pair(folder / "weights.safetensors", Path(weights))
    return record


def check_options(profile: str, records: str | Path | None) -> None:
    """Check options before anything is loaded.

    Raises:
        ValueError: unknown profile.
        RecordError: the file of records cannot be written.
    """
    if profile not in get_args(Profile):
        allowed = ", ".join(get_args(Profile))
        raise ValueError(f"unknown profile {profile!r}: choose one of {allowed}")
    if records is not None:
        check_appendable(Path(records))


# ------------------------------------------------------------------------------ training


def train(
    spec: RunSpec,
    data: Data,
    network: Network,
    fingerprints: dict[str, str],
    folder: Path,
    *,
    context: DistributedContext,
    profile: Profile,
    compile: bool | None,
    progress_bar: bool,
    callback: Callback | None,
    on_epoch: Callable[[Epoch], None] | None,
) -> None:
    """Train the remaining epochs; write checkpoints, weights and record to `folder`."""
    device, recipe = data.train.labels.device, spec.chosen_recipe()
    git = loaded_git()  # now: another commit may be checked out before the run ends
    precision, why = precision_and_reason(spec.precision, device)
    epochs, steps = spec.chosen_epochs(), len(data.train)
    if progress_bar:
        tqdm.write(why)
    if device.type == "cuda":  # the record reports this run's peak
        torch.cuda.reset_peak_memory_stats(device)

    # `step_network` is the network as the training step calls it: itself, compiled, or
    # averaging gradients over processes. They share their weights.
    step_network: nn.Module = network
    if context.world_size > 1:
        context.synchronise(network, recipe.batch_size)
        # Without scores, the query and the layers that compute it are unused.
        step_network = context.parallel(network, unused="-mean" in spec.network)
    optimiser = Optimiser(network, recipe, precision)

    progress = load_checkpoint(folder, network, optimiser)
    progress.computed_by(device, precision)
    # Barrier: every rank has loaded the checkpoint before rank 0 writes the next.
    context.check_same_epoch(progress.epoch, device)
    if context.world_size == 1:
        start = time.perf_counter()
        full = data.train.size
        sizes = [spec.epoch_size(epoch, full) for epoch in range(progress.epoch, epochs)]
        step_network = compiled_if_it_pays(network, data.train, sizes, precision, compile)
        progress.seconds += time.perf_counter() - start
    step = TrainStep(
        step_network,
        data.train,
        optimiser,
        precision=precision,
        label_smoothing=recipe.label_smoothing,
        # The loss is the mean over the whole batch, and this process has a slice of it.
        # The number of processes is a factor, because DistributedDataParallel averages.
        share=data.train.batch_share * context.world_size,
        capture=cuda_capture(device) if context.world_size == 1 else None,
    )

    with (
        tuned_kernels(device),
        CheckpointWriter(folder) as writer,
        tqdm(
            total=epochs * steps,
            initial=progress.epoch * steps,
            desc=spec.label(),
            unit="step",
            disable=not progress_bar,
            mininterval=1,
        ) as bar,
    ):
        if callback:
            callback(progress.epoch, network)
        while progress.epoch < epochs:
            start = time.perf_counter()
            loss, error, lr = train_epoch(spec, step, progress.epoch, context, bar)
            seconds = time.perf_counter() - start
            done = progress.epoch + 1
            test_loss = test_error = None
            if done == epochs or done % EVALUATE_EVERY == 0:
                test_loss, test_error = evaluate(network, data.test, precision, context)
            epoch = Epoch(
                epoch=done,
                image_size=spec.epoch_size(progress.epoch, data.train.size),
                rate=lr,
                train_loss=loss,
                train_error=error,
                test_loss=test_loss,
                test_error=test_error,
                seconds=seconds,
            )
            progress.history.append(epoch)
            progress.epoch = done
            progress.seconds += time.perf_counter() - start
            context.check_launcher()
            if context.is_main and (done == epochs or writer.is_due()):
                writer.save(progress, network, optimiser)
            if callback:
                callback(done, network)
            if on_epoch and context.is_main:
                on_epoch(epoch)
            if progress_bar:
                tqdm.write(summary(epoch, epochs))

    if context.is_main:
        identity = spec.identity(fingerprints)
        digest = save_weights(
            folder, spec, network, data.preprocess, data.classes, identity
        )
        record = build_record(
            spec,
            profile,
            progress,
            fingerprints=fingerprints,
            images_per_epoch=steps * data.train.batch_size,
            parameters=sum(p.numel() for p in network.parameters()),
            device=device,
            precision=precision,
            processes=context.world_size,
            compiled=hasattr(step_network, "_orig_mod"),
            git=git,
            weights_sha256=digest,
        )
        write_whole(folder / "record.json", (record.model_dump_json() + "\n").encode())
    context.barrier()  # no rank reads the record before rank 0 has written it


def train_epoch(
    spec: RunSpec,
    step: TrainStep,
    epoch: int,
    context: DistributedContext = ALONE,
    bar: tqdm | None = None,
) -> tuple[float, float, float]:
    """Train epoch number `epoch` (0, 1, …).

    Returns:
        Mean loss, training error in per cent, and the learning rate of the last step.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    recipe, loader = spec.chosen_recipe(), step.loader
    steps, size = len(loader), spec.epoch_size(epoch, loader.size)
    first = epoch * steps
    factors = [
        lr_factor(recipe, number, steps, spec.chosen_epochs())
        for number in range(first, first + steps)
    ]
    step.network.train()
    if recipe.reset_momentum and epoch in dict(recipe.milestones):
        step.optimiser.reset_momentum()
        step.forget()  # the captured graph uses the old momentum tensors
    step.begin(loader.draws(epoch, spec.seed), factors)
    torch.manual_seed(spec.seed * 1_000_003 + epoch)  # new dropout masks in each epoch
    for _ in range(steps):
        step(size)
        if bar is not None:
            bar.update()
    means = [mean * loader.batch_share for mean in step.means()]
    loss, wrong = context.all_reduce_sum(means, step.device)
    check_finite(loss, spec.label(), epoch)
    return loss, 100 * wrong, recipe.lr * factors[-1]


# ------------------------------------------------------------------------------- details


def summary(epoch: Epoch, epochs: int) -> str:
    tested = "" if epoch.test_error is None else f", test error {epoch.test_error:.2f} %"
    return (
        f"epoch {epoch.epoch}/{epochs} at {epoch.image_size} pixels: "
        f"loss {epoch.train_loss:.4f}, train error {epoch.train_error:.2f} %{tested} "
        f"({epoch.seconds:.1f} s)"
    )
