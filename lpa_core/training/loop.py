"""One training loop, for every network: resumable, on the CPU, a GPU or several.

Read it from top to bottom: `run` checks what it was given, loads the data and builds the
network; `train` makes the optimiser, takes up the newest checkpoint, trains the epochs
that are left with a checkpoint after each, and writes weights and record.

A run is a function of its `RunSpec`, the data and the training version. Each epoch is
seeded by its number, and each checkpoint is written whole or not at all: a run that was
killed resumes from its last checkpoint and ends, on the CPU, with the very same weights.
"""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpa_core.data import (
    Dataset,
    EvalLoader,
    Preprocess,
    TrainLoader,
    build_preprocess,
    load,
)
from lpa_core.networks import Network, build_attached, build_network
from lpa_core.networks.attach import check_sizes
from lpa_core.provenance import (
    check_appendable,
    check_writable,
    choose_device,
    exclusive_lock,
    write_whole,
)
from lpa_core.training.checkpoint import (
    check_target,
    copy_pair,
    load_checkpoint,
    save_checkpoint,
    save_weights,
    start_from,
)
from lpa_core.training.compiling import compiled
from lpa_core.training.config import Profile, RunSpec
from lpa_core.training.distributed import (
    ALONE,
    DistributedContext,
    distributed_context,
    own_device,
)
from lpa_core.training.optim import Optimiser
from lpa_core.training.recipes import lr_factor
from lpa_core.training.record import Epoch, Record, append_record, build_record

with warnings.catch_warnings():  # in a notebook without ipywidgets a bar of text will do
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

__all__ = ["autocast", "choose_precision", "evaluate", "run"]

Callback = Callable[[int, Network], None]

EVALUATE_EVERY = 4  # epochs; the test set is evaluated after the last one in any case


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
    watch: Callback | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Record:
    """Train and evaluate; an interrupted run resumes where it stopped.

    Started by torchrun, several processes share the run: each takes its slice of every
    batch, the main process writes and reports, and the result is that of one process but
    for rounding. Their number may change when the run resumes.

    Args:
        spec: what to train.
        runs: folder of the runs' checkpoints and weights, one folder a run.
        records: file that the record is appended to; None appends it nowhere.
        weights: file (.safetensors) that the final weights are copied to, or None.
        profile: the size that the run belongs to, for its record.
        data_root: folder of the prepared data sets, see `lpa_core.data.load`.
        device: "auto", "cpu", "cuda", "cuda:1", …; of several processes each takes the GPU
            of its own number.
        progress: whether to show a bar, and a line an epoch.
        callback: called with the number of finished epochs and the network, before the
            first epoch and after each; of a resumed run, from there on. Of several
            processes each calls it.
        compile: whether to compile the training step, see `compiled`; None does so on a
            GPU. Several processes do not: their BatchNorm breaks the graph at each layer.
        watch: the former name of `callback`.
        on_epoch: called with each epoch's figures as it ends, of the main process alone;
            for TensorBoard and the like.

    Returns:
        The record. A run that is finished already is not trained again.

    Raises:
        ValueError, DataError, RecordError, WeightsError: before anything is trained.
    """
    if watch is not None:
        warnings.warn("run(watch=…) is now callback=…", DeprecationWarning, stacklevel=2)
        callback = watch
    if profile not in get_args(Profile):
        allowed = ", ".join(get_args(Profile))
        raise ValueError(f"unknown profile {profile!r}: choose one of {allowed}")
    if records is not None:
        check_appendable(Path(records))
    if weights is not None:
        check_target(Path(weights))
    target = choose_device(own_device(device))
    with distributed_context(target) as context:
        if compile and context.world_size > 1:
            raise ValueError(
                f"compile: {context.world_size} processes train uncompiled, start one or "
                "leave it out"
            )
        if compile is None:
            compile = target.type == "cuda" and context.world_size == 1

        data = load_data(spec, target, data_root, context)
        network, fingerprints = initial_network(spec, data)
        network = network.to(device=target).to(memory_format=torch.channels_last)
        identity = spec.identity(fingerprints)
        folder = Path(runs) / f"{spec.label()}_{identity}"
        check_writable(folder)
        if not (folder / "record.json").exists():
            busy = f"another process trains {folder.name} now: wait for it, or end it"
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


# ------------------------------------------------------------------------- data, network


class Data(NamedTuple):
    """What a run trains and is tested on, on the device.

    Attributes:
        fingerprints: of the splits.
    """

    train: TrainLoader
    test: EvalLoader
    preprocess: Preprocess
    classes: list[str]
    fingerprints: dict[str, str]


def load_data(
    spec: RunSpec,
    device: torch.device,
    data_root: str | Path | None = None,
    context: DistributedContext = ALONE,
) -> Data:
    """Load, normalise and batch the data of a run; each process takes its own slices."""
    recipe = spec.chosen_recipe()
    batch_slice = context.batch_slice(recipe.batch_size)
    with context.main_first():  # the other processes find the set downloaded and prepared
        train = load(spec.dataset, "train", data_root, spec.image_size)
        test = load(spec.dataset, "test", data_root, spec.image_size)
        images, labels = subset(train, spec.train_images, spec.seed)
        preprocess = build_preprocess(recipe.preprocess).fit(images).to(device)
    return Data(
        train=TrainLoader(
            images.to(device),
            labels.to(device),
            preprocess,
            batch_size=recipe.batch_size,
            flip=recipe.flip and train.mirrors,
            crop=recipe.crop,
            batch_slice=batch_slice,
        ),
        test=EvalLoader(
            test.images.to(device),
            test.labels.to(device),
            preprocess,
            first=context.rank,
            every=context.world_size,
        ),
        preprocess=preprocess,
        classes=train.classes,
        fingerprints={"train": train.fingerprint, "test": test.fingerprint},
    )


def subset(data: Dataset, count: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """All images, or `count` of them, drawn evenly from the classes."""
    if count is None:
        return data.images, data.labels
    if count > len(data):
        raise ValueError(
            f"train_images {count}: the set has {len(data)}; give that many or fewer"
        )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    labels = data.labels[order]
    # The rank of each image within its class; taking the lowest ranks takes evenly.
    rank = torch.zeros_like(labels)
    for label in range(len(data.classes)):
        rank[labels == label] = torch.arange(int((labels == label).sum()))
    chosen = order[rank.argsort(stable=True)[:count]]
    return data.images[chosen], data.labels[chosen]


def initial_network(spec: RunSpec, data: Data) -> tuple[Network, dict[str, str]]:
    """The network before training, on the CPU; fingerprints of all that it depends on."""
    recipe = spec.chosen_recipe()
    torch.manual_seed(spec.seed)
    if spec.attach:
        size = data.train.size
        network = build_attached(
            spec.network, spec.attach, len(data.classes), size, recipe.dropout
        )
        check_sizes(network, {round(size * share) for share in recipe.sizes})
        return network, data.fingerprints
    network = build_network(
        spec.network,
        num_classes=len(data.classes),
        width=spec.width,
        image_size=data.train.size,
        dropout=recipe.dropout,
        add_log_probabilities=spec.add_log_probabilities,
        average_gradients=spec.average_gradients,
    )
    if spec.initial is None:
        return network, data.fingerprints
    expected = {"network": spec.network, "width": spec.width}
    expected |= {"dataset": recipe.start} if recipe.start else {}
    digest = start_from(network, spec.initial, expected)
    return network, data.fingerprints | {"initial": digest}


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
    compile: bool,
    progress_bar: bool,
    callback: Callback | None,
    on_epoch: Callable[[Epoch], None] | None,
) -> None:
    """Train the epochs that are left; write checkpoints, weights and record to `folder`."""
    device = data.train.labels.device
    precision = choose_precision(spec.precision, device)
    epochs, steps = spec.chosen_epochs(), len(data.train)

    # `step_network` is the network as the training step calls it: itself, compiled, or
    # averaging gradients over processes. They share their weights.
    step_network: nn.Module = network
    if context.world_size > 1:
        context.synchronise(network, spec.chosen_recipe().batch_size)
        # Without scores nothing asks for the query, nor for the layers behind it.
        step_network = context.parallel(network, unused="-mean" in spec.network)
    optimiser = Optimiser(network, spec.chosen_recipe())

    progress = load_checkpoint(folder, network, optimiser)
    progress.note(device, precision)
    # Barrier: every rank has loaded the checkpoint before rank 0 writes the next.
    context.check_same_epoch(progress.epoch, device)

    if compile and progress.epoch < epochs:
        start = time.perf_counter()
        step_network = compile_step(spec, network, data.train, progress.epoch)
        progress.seconds += time.perf_counter() - start

    with tqdm(
        total=epochs * steps,
        initial=progress.epoch * steps,
        desc=spec.label(),
        unit="step",
        disable=not progress_bar,
        mininterval=1,
    ) as bar:
        if callback:
            callback(progress.epoch, network)
        while progress.epoch < epochs:
            start = time.perf_counter()
            loss, error, lr = train_epoch(
                spec, step_network, data.train, optimiser, progress.epoch, context, bar
            )
            seconds = time.perf_counter() - start
            done = progress.epoch + 1
            test_loss = test_error = None
            if done == epochs or done % EVALUATE_EVERY == 0:
                test_loss, test_error = evaluate(network, data.test, precision, context)
            epoch = Epoch(
                epoch=done,
                image_size=image_size(spec, progress.epoch, data.train),
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
            if context.is_main:
                save_checkpoint(folder, progress, network, optimiser)
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
            weights_sha256=digest,
        )
        write_whole(folder / "record.json", (record.model_dump_json() + "\n").encode())
    context.barrier()  # no rank reads the record before rank 0 has written it


def train_epoch(
    spec: RunSpec,
    step_network: nn.Module,
    loader: TrainLoader,
    optimiser: Optimiser,
    epoch: int,
    context: DistributedContext = ALONE,
    bar: tqdm | None = None,
) -> tuple[float, float, float]:
    """Train epoch number `epoch` (0, 1, …).

    Returns:
        Mean loss, training error in per cent, and the learning rate of the last step.

    Raises:
        FloatingPointError: the loss is not finite any more.
    """
    recipe, device = spec.chosen_recipe(), loader.labels.device
    precision = choose_precision(spec.precision, device)
    steps, losses, wrong, lr = len(loader), [], [], 0.0
    step_network.train()
    torch.manual_seed(spec.seed * 1_000_003 + epoch)  # dropout draws anew each epoch
    batches = loader.epoch(epoch, spec.seed, image_size(spec, epoch, loader))
    for step, (images, labels) in enumerate(batches):
        factor = lr_factor(recipe, epoch * steps + step, steps, spec.chosen_epochs())
        optimiser.zero_grad()
        with autocast(precision, device):
            logits = step_network(images)
        loss = F.cross_entropy(
            logits.float(), labels, label_smoothing=recipe.label_smoothing
        )
        # The loss of a batch is the mean over all its images, of which this process has a
        # share. DistributedDataParallel averages gradients: hence the number of processes.
        (loss * (loader.batch_share * context.world_size)).backward()
        lr = optimiser.step(factor)
        losses.append(loss.detach())
        wrong.append((logits.detach().argmax(dim=1) != labels).float().mean())
        if bar is not None:
            bar.update()
    means = [torch.stack(x).mean().item() * loader.batch_share for x in (losses, wrong)]
    mean_loss, mean_wrong = context.all_reduce_sum(means, device)
    if not math.isfinite(mean_loss):
        raise FloatingPointError(
            f"{spec.label()}: the loss is not finite any more in epoch {epoch + 1}: the "
            "recipe's learning rate is too high for this network"
        )
    return mean_loss, 100 * mean_wrong, lr


@torch.no_grad()
def evaluate(
    network: nn.Module,
    batches: EvalLoader,
    precision: str = "float32",
    context: DistributedContext = ALONE,
) -> tuple[float, float]:
    """Mean cross-entropy, and top-1 error in per cent, over all processes' batches."""
    network.eval()
    loss, wrong, count = 0.0, 0.0, 0.0
    for images, labels in batches:
        with autocast(precision, images.device):
            logits = network(images)
        loss += F.cross_entropy(logits.float(), labels, reduction="sum").item()
        wrong += (logits.argmax(dim=1) != labels).sum().item()
        count += len(labels)
    sums = context.all_reduce_sum([loss, wrong, count], batches.labels.device)
    return sums[0] / sums[2], 100 * sums[1] / sums[2]


# ------------------------------------------------------------------------------- details


def image_size(spec: RunSpec, epoch: int, loader: TrainLoader) -> int:
    """Pixels a side in epoch number `epoch` (0, 1, …)."""
    return spec.chosen_recipe().image_size(epoch, spec.chosen_epochs(), loader.size)


def choose_precision(precision: str, device: torch.device) -> str:
    """ "auto" becomes bfloat16 where the hardware computes in it, else float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    has_bf16 = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if has_bf16 else "float32"


def autocast(precision: str, device: torch.device):
    """The context in which a network's forward pass runs."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def compile_step(
    spec: RunSpec, network: Network, loader: TrainLoader, epoch: int
) -> nn.Module:
    """The network compiled for every image size of the epochs from number `epoch` on."""
    device = loader.labels.device
    precision = choose_precision(spec.precision, device)
    epochs = range(epoch, spec.chosen_epochs())
    sizes = sorted({image_size(spec, number, loader) for number in epochs})
    batches = [next(loader.epoch(0, spec.seed, size))[0] for size in sizes]
    return compiled(network.train(), batches, lambda: autocast(precision, device))


def summary(epoch: Epoch, epochs: int) -> str:
    tested = "" if epoch.test_error is None else f", test error {epoch.test_error:.2f} %"
    return (
        f"epoch {epoch.epoch}/{epochs} at {epoch.image_size} pixels: "
        f"loss {epoch.train_loss:.4f}, train error {epoch.train_error:.2f} %{tested} "
        f"({epoch.seconds:.1f} s)"
    )
