"""One training loop, for every network: resumable, on the CPU, a GPU or several.

A run is a function of its `RunSpec`, the data and the code. Each epoch is seeded by its
number, and a checkpoint is written after each, whole or not at all: a run that was
killed goes on from its last checkpoint and ends, on the CPU, with the very same weights.
"""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from lpa_core.data import (
    Dataset,
    EvalLoader,
    Preprocess,
    TrainLoader,
    build_preprocess,
    load,
)
from lpa_core.networks import Network, build_network
from lpa_core.provenance import (
    check_appendable,
    check_writable,
    choose_device,
    device_name,
    exclusive_lock,
    git_state,
    now,
    peak_memory,
    versions,
    write_whole,
)
from lpa_core.training.checkpoint import (
    WeightsError,
    read_pair,
    start_from,
    write_pair,
)
from lpa_core.training.compiling import compiled
from lpa_core.training.config import Profile, RunSpec, training_version
from lpa_core.training.distributed import ALONE, Processes, joined, own_device
from lpa_core.training.optim import Optimiser
from lpa_core.training.recipes import rate_share
from lpa_core.training.record import STATED_ERRORS, Epoch, Record, append_record, seconds_to

with warnings.catch_warnings():  # in a notebook without ipywidgets: a bar of text will do
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

__all__ = ["autocast", "choose_precision", "evaluate", "run"]

Watch = Callable[[int, Network], None]

EVALUATE_EVERY = 4  # epochs; the test set is evaluated after the last one in any case


def choose_precision(wanted: str, device: torch.device) -> str:
    """ "auto" becomes bfloat16 where the hardware computes in it, else float32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    has = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if has else "float32"


def autocast(precision: str, device: torch.device):
    """The context in which a network's forward pass runs."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@torch.no_grad()
def evaluate(
    network: nn.Module,
    batches: EvalLoader,
    precision: str = "float32",
    processes: Processes = ALONE,
) -> tuple[float, float]:
    """Mean cross-entropy, and top-1 error in per cent, over all processes' batches."""
    network.eval()
    loss, wrong, count = 0.0, 0, 0
    for images, labels in batches:
        with autocast(precision, images.device):
            logits = network(images)
        loss += F.cross_entropy(logits.float(), labels, reduction="sum").item()
        wrong += (logits.argmax(dim=1) != labels).sum().item()
        count += len(labels)
    loss, wrong, count = processes.total([loss, wrong, count], batches.labels.device)
    return loss / count, 100 * wrong / count


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


class State(BaseModel):
    """What a run carries from one epoch to the next, beside network and optimiser."""

    epoch: int = 0
    seconds: float = 0.0
    sessions: int = 0
    started: datetime = Field(default_factory=now)
    history: list[Epoch] = []


class Checkpoints:
    """A run's checkpoints in its folder; the newest whole one counts."""

    def __init__(self, folder: Path, network: nn.Module, optimiser: Optimiser):
        self.folder, self.network, self.optimiser = folder, network, optimiser

    def save(self, state: State) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"momentum.{k}": v for k, v in self.optimiser.momenta().items()}
        path = self.folder / f"checkpoint-{state.epoch:04d}.safetensors"
        write_pair(path, tensors, state.model_dump(mode="json"))
        for old in self.folder.glob("checkpoint-*"):
            if old.stem != path.stem:
                old.unlink(missing_ok=True)

    def restore(self) -> State:
        """The newest whole checkpoint put back, or a fresh state where there is none."""
        for left in self.folder.glob(".*.part"):  # of a run that was killed as it wrote
            left.unlink(missing_ok=True)
        for path in sorted(self.folder.glob("checkpoint-*.safetensors"), reverse=True):
            try:
                tensors, facts = read_pair(path)
            except WeightsError:
                continue  # half-written when the run was killed: the one before it counts
            self.put_back(tensors)
            state = State.model_validate(facts)
            return state.model_copy(update={"sessions": state.sessions + 1})
        return State(sessions=1)

    @torch.no_grad()
    def put_back(self, tensors: dict[str, Tensor]) -> None:
        for name, own in self.network.state_dict().items():
            own.copy_(tensors[f"network.{name}"])
        prefix = "momentum."
        self.optimiser.put_back(
            {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        )


@dataclass
class Training:
    """A run made ready: everything that its epochs need.

    `stepped` is the network as training calls it: itself, compiled, or over several
    processes; all else, and every name of a weight, is the network's.
    """

    spec: RunSpec
    folder: Path
    identity: str
    fingerprints: dict[str, str]
    classes: list[str]
    device: torch.device
    precision: str
    network: Network
    stepped: nn.Module
    preprocess: Preprocess
    batches: TrainLoader
    test_batches: EvalLoader
    optimiser: Optimiser
    processes: Processes

    @classmethod
    def prepare(
        cls,
        spec: RunSpec,
        runs: Path,
        data_root,
        device: str,
        processes: Processes = ALONE,
    ) -> "Training":
        """Load the data, build the network. Whatever is wrong is said here."""
        place = choose_device(device)
        recipe = spec.chosen_recipe()
        part = processes.part(recipe.batch_size)
        with processes.first_ahead():
            train = load(spec.dataset, "train", data_root)
            test = load(spec.dataset, "test", data_root)
            images, labels = subset(train, spec.train_images, spec.seed)
            preprocess = build_preprocess(recipe.preprocess).fit(images).to(place)
        fingerprints = {"train": train.fingerprint, "test": test.fingerprint}
        torch.manual_seed(spec.seed)
        network = build_network(
            spec.network,
            num_classes=len(train.classes),
            width=spec.width,
            image_size=images.shape[1],
            dropout=recipe.dropout,
            add_log_probabilities=spec.add_log_probabilities,
            average_gradients=spec.average_gradients,
        )
        if spec.initial is not None:
            wanted = {"network": spec.network, "width": spec.width}
            wanted |= {"dataset": recipe.start} if recipe.start else {}
            fingerprints["initial"] = start_from(network, spec.initial, wanted)
        network = stepped = network.to(place, memory_format=torch.channels_last)
        if processes.count > 1:
            processes.share(network, recipe.batch_size)
            # Without scores nothing asks for the query, nor for the layers behind it.
            stepped = processes.parallel(network, unused="-mean" in spec.network)
        identity = spec.identity(fingerprints)
        return cls(
            spec=spec,
            folder=runs / f"{spec.label()}_{identity}",
            identity=identity,
            fingerprints=fingerprints,
            classes=train.classes,
            device=place,
            precision=choose_precision(spec.precision, place),
            network=network,
            stepped=stepped,
            preprocess=preprocess,
            batches=TrainLoader(
                images.to(place),
                labels.to(place),
                preprocess,
                batch_size=recipe.batch_size,
                flip=recipe.flip and train.mirrors,
                crop=recipe.crop,
                part=part,
            ),
            test_batches=EvalLoader(
                test.images.to(place),
                test.labels.to(place),
                preprocess,
                first=processes.rank,
                every=processes.count,
            ),
            optimiser=Optimiser(network, recipe),
            processes=processes,
        )

    def image_size(self, epoch: int) -> int:
        """Pixels a side in epoch number `epoch` (0, 1, …)."""
        return self.spec.chosen_recipe().image_size(
            epoch, self.spec.chosen_epochs(), self.batches.size
        )

    def compile(self, start: int) -> None:
        """Compile the training step for all that epochs from number `start` on need."""
        epochs = range(start, self.spec.chosen_epochs())
        batches = []
        for size in sorted({self.image_size(epoch) for epoch in epochs}):
            images, _ = next(self.batches.epoch(0, self.spec.seed, size))
            batches.append(images)
        self.stepped = compiled(
            self.network.train(), batches, lambda: autocast(self.precision, self.device)
        )

    def epoch(self, epoch: int, bar: tqdm) -> Epoch:
        """Train one epoch, number `epoch` (0, 1, …), and evaluate when it is time to."""
        start = time.perf_counter()
        loss, error, rate = self.train_epoch(epoch, bar)
        seconds = time.perf_counter() - start
        last = epoch + 1 == self.spec.chosen_epochs()
        test_loss = test_error = None
        if last or (epoch + 1) % EVALUATE_EVERY == 0:
            test_loss, test_error = evaluate(
                self.network, self.test_batches, self.precision, self.processes
            )
        return Epoch(
            epoch=epoch + 1,
            image_size=self.image_size(epoch),
            rate=rate,
            train_loss=loss,
            train_error=error,
            test_loss=test_loss,
            test_error=test_error,
            seconds=seconds,
        )

    def train_epoch(self, epoch: int, bar: tqdm) -> tuple[float, float, float]:
        """Mean loss, training error in per cent and last rate of one epoch.

        The loss of a batch is the mean over all its images, of which this process has
        `part`; the gradients of several processes are averaged, hence their number.
        """
        spec, recipe = self.spec, self.spec.chosen_recipe()
        count, part = self.processes.count, self.batches.share
        steps = len(self.batches)
        batches = self.batches.epoch(epoch, spec.seed, self.image_size(epoch))
        self.network.train()
        torch.manual_seed(spec.seed * 1_000_003 + epoch)  # dropout's draws
        losses, wrong = [], []
        for step, (images, labels) in enumerate(batches):
            share = rate_share(recipe, epoch * steps + step, steps, spec.chosen_epochs())
            self.optimiser.zero_grad()
            with autocast(self.precision, self.device):
                logits = self.stepped(images)
            loss = F.cross_entropy(
                logits.float(), labels, label_smoothing=recipe.label_smoothing
            )
            (loss * (part * count)).backward()
            rate = self.optimiser.step(share)
            losses.append(loss.detach())
            wrong.append((logits.detach().argmax(dim=1) != labels).float().mean())
            bar.update()
        mean_loss, mean_wrong = self.processes.total(
            [torch.stack(x).mean().item() * part for x in (losses, wrong)], self.device
        )
        if not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"{spec.label()}: the loss is not a number any more in epoch "
                f"{epoch + 1}: the recipe's rate is too high for this network"
            )
        return mean_loss, 100 * mean_wrong, rate

    def finish(self, state: State, profile: Profile) -> None:
        """Write the final weights, then the record, each whole or not at all."""
        spec, network = self.spec, self.network
        tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
        tensors |= {f"preprocess.{k}": v for k, v in self.preprocess.state_dict().items()}
        facts = {
            "network": spec.network,
            "width": spec.width,
            "image_size": network.image_size,
            "dropout": spec.chosen_recipe().dropout,
            "add_log_probabilities": spec.add_log_probabilities,
            "classes": self.classes,
            "preprocess": spec.chosen_recipe().preprocess,
            "dataset": spec.dataset,
            "run": self.identity,
        }
        digest = write_pair(self.folder / "weights.safetensors", tensors, facts)
        last = state.history[-1]
        trained = len(self.batches) * self.batches.batch_size * len(state.history)
        record = Record(
            id=self.identity,
            spec=spec,
            profile=profile,
            epochs=state.epoch,
            fingerprints=self.fingerprints,
            metrics={
                name: getattr(last, name)
                for name in ("test_error", "test_loss", "train_error", "train_loss")
            },
            history=state.history,
            parameters=sum(p.numel() for p in network.parameters()),
            images_per_second=trained / sum(epoch.seconds for epoch in state.history),
            peak_memory_bytes=peak_memory(self.device),
            device=device_name(self.device),
            threads=torch.get_num_threads(),
            processes=self.processes.count,
            compiled=hasattr(self.stepped, "_orig_mod"),
            precision=self.precision,
            versions=versions(),
            git=git_state(),
            training_version=training_version(spec),
            recipe=spec.chosen_recipe().content(),
            started=state.started,
            seconds=state.seconds,
            sessions=state.sessions,
            weights_sha256=digest,
            seconds_to_errors={
                f"{error:g}": seconds
                for error in STATED_ERRORS
                if (seconds := seconds_to(state.history, error)) is not None
            },
        )
        text = record.model_dump_json() + "\n"
        write_whole(self.folder / "record.json", text.encode())


def run(
    spec: RunSpec,
    *,
    runs: str | Path = "runs",
    records: str | Path | None = None,
    profile: Profile = "smoke",
    data_root: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    watch: Watch | None = None,
    compile: bool | None = None,
) -> Record:
    """Train and evaluate; taken up where it stopped if it was interrupted.

    Started by torchrun, several processes share the run: each takes its slice of every
    batch, the first one writes and reports, and the result is that of one process but for
    rounding. They may be another number when the run is taken up.

    Args:
        spec: what to train.
        runs: folder of the runs' checkpoints and weights, one folder a run.
        records: file that the record is appended to; None appends it nowhere.
        profile: the size that the run belongs to, for its record.
        data_root: folder of the prepared data sets, see `lpa_core.data.load`.
        device: "auto", "cpu", "cuda", "cuda:1", …; of several processes each takes the GPU
            of its own number.
        progress: whether to show a bar, and a line an epoch.
        watch: called with the network before the first epoch and after each, together
            with the number of epochs done; of a run that is taken up, from there on. Of
            several processes each calls it.
        compile: whether to compile the training step, see `compiled`; None does so on a
            GPU. Several processes do not: their BatchNorm breaks the graph at each layer.

    Returns:
        The record. A run that is finished already is not trained again.

    Raises:
        ValueError, DataError, RecordError: before anything is trained or written.
    """
    if profile not in get_args(Profile):
        allowed = ", ".join(get_args(Profile))
        raise ValueError(f"unknown profile {profile!r}: choose one of {allowed}")
    if records is not None:
        check_appendable(Path(records))
    device = own_device(device)
    with joined(choose_device(device)) as processes:
        training = Training.prepare(spec, Path(runs), data_root, device, processes)
        if compile is None:
            compile = training.device.type == "cuda" and processes.count == 1
        if compile and processes.count > 1:
            raise ValueError(
                f"compile: {processes.count} processes train uncompiled, start one or "
                "leave it out"
            )
        done = training.folder / "record.json"
        check_writable(training.folder)
        if not done.exists():
            folder = training.folder
            taken = f"another process trains {folder.name} now: wait for it, or end it"
            lock = exclusive_lock(folder / ".lock", taken)
            with lock if processes.first else nullcontext():
                train(training, profile, progress and processes.first, watch, compile)
        record = Record.model_validate_json(done.read_text(encoding="utf-8"))
        if records is not None and processes.first:
            append_record(record, Path(records))
    return record


def train(
    training: Training,
    profile: Profile,
    progress: bool,
    watch: Watch | None = None,
    compile: bool = False,
) -> None:
    """The epochs that are left, a checkpoint after each, and the record."""
    watch = watch or (lambda epochs, network: None)
    processes = training.processes
    checkpoints = Checkpoints(training.folder, training.network, training.optimiser)
    state = checkpoints.restore()
    processes.agree(state.epoch, training.device)  # and all have read before one writes
    epochs, steps = training.spec.chosen_epochs(), len(training.batches)
    if compile and state.epoch < epochs:
        start = time.perf_counter()
        training.compile(state.epoch)
        state.seconds += time.perf_counter() - start
    with tqdm(
        total=epochs * steps,
        initial=state.epoch * steps,
        desc=training.spec.label(),
        unit="step",
        disable=not progress,
        mininterval=1,
    ) as bar:
        watch(state.epoch, training.network)
        while state.epoch < epochs:
            start = time.perf_counter()
            epoch = training.epoch(state.epoch, bar)
            state.history.append(epoch)
            state.epoch = epoch.epoch
            state.seconds += time.perf_counter() - start
            processes.check_launcher()
            if processes.first:
                checkpoints.save(state)
            watch(state.epoch, training.network)
            if progress:
                tqdm.write(summary(epoch, epochs))
    if processes.first:
        training.finish(state, profile)
    processes.wait()  # for the record


def summary(epoch: Epoch, epochs: int) -> str:
    tested = "" if epoch.test_error is None else f", test error {epoch.test_error:.2f} %"
    return (
        f"epoch {epoch.epoch}/{epochs} at {epoch.image_size} pixels: "
        f"loss {epoch.train_loss:.4f}, train error {epoch.train_error:.2f} %{tested} "
        f"({epoch.seconds:.1f} s)"
    )
