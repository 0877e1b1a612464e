"""The plan: of a grid's every step, whether it is done, and if not, why and at what cost.

A run is done if its record was made from the same spec, the same images and the same code
(or code that was shown to train the same, see `same_code`). A measurement is done if it
was made of such a run, on the same images, by the version of the task as it is.
"""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict

from lpa_core.data import SOURCES, count_images, load
from lpa_core.plan.cost import gigabytes, measure_hours, train_hours
from lpa_core.plan.grid import Grid, MeasureGroup
from lpa_core.plan.same_code import Comparison, read_comparisons, words_of
from lpa_core.provenance import device_name, write_whole
from lpa_core.results.store import read_measurements, read_records
from lpa_core.tasks import TASKS
from lpa_core.tasks.measurement import Measurement
from lpa_core.training import (
    Record,
    RunSpec,
    WeightsError,
    choose_device,
    training_version,
)
from lpa_core.training.checkpoint import read_pair

__all__ = ["Places", "Plan", "Step", "make_plan", "plan_table", "total", "write_plan"]

Stage = Literal["train", "ship", "measure"]


@dataclass(frozen=True)
class Places:
    """Where things lie.

    Attributes:
        runs: folder of the runs. records, measurements, comparisons: files of lines.
        data: folder of the prepared data sets, see `lpa_core.data.load`.
    """

    runs: Path = Path("runs")
    records: Path = Path("results/records.jsonl")
    measurements: Path = Path("results/measurements.jsonl")
    comparisons: Path = Path("results/same_code.jsonl")
    data: Path | None = None


class Step(BaseModel):
    """One thing to do.

    Attributes:
        name: of the step, a file name. stage: what it does.
        todo: whether it is to be done. why: the reason, either way.
        words: of the command line, behind `python -m lpa_core`.
        after: names of the steps that it waits for.
        hours: estimate of what is left to do; None where nothing like it was measured.
        measured_on: the device that the estimate is from.
        gigabytes: that it leaves on the disk.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    stage: Stage
    todo: bool
    why: str
    words: list[str]
    after: list[str] = []
    hours: float | None = None
    measured_on: str = ""
    gigabytes: float = 0.0

    @property
    def command(self) -> str:
        return shlex.join(["python", "-m", "lpa_core", *self.words])


class Plan(BaseModel):
    """A profile's steps, in an order in which each comes after what it waits for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str
    device: str
    steps: list[Step]

    @property
    def todo(self) -> list[Step]:
        return [step for step in self.steps if step.todo]


@dataclass(frozen=True)
class Known:
    """What is there already."""

    places: Places
    records: list[Record]
    measurements: list[Measurement]
    comparisons: list[Comparison]
    device: str
    keep: bool


def make_plan(
    grid: Grid, places: Places = Places(), device: str = "auto", keep: bool = False
) -> Plan:
    """What a grid still needs.

    Args:
        device: what would compute, for the estimate.
        keep: whether a record of other code, or of other images, counts nevertheless.
    """
    known = Known(
        places=places,
        records=read_records(places.records) if places.records.exists() else [],
        measurements=(
            read_measurements(places.measurements) if places.measurements.exists() else []
        ),
        comparisons=read_comparisons(places.comparisons),
        device=device_name(choose_device(device)),
        keep=keep,
    )
    runs = {spec.label(): look_at(spec, known) for spec in grid.specs()}
    measured = list(measure_steps(grid, runs, known))
    need_weights(runs, measured)
    shipped = list(ship_steps(grid, runs, known))
    trained = [train_step(run, grid, shipped, known) for run in runs.values()]
    steps = in_order([*trained, *shipped, *measured])
    return Plan(profile=grid.profile, device=known.device, steps=steps)


# ----------------------------------------------------------------------------- training


@dataclass
class Run:
    """A run of the grid, as it stands.

    Attributes:
        record: the newest that counts; None where it is to be trained.
        weights: its final weights on this machine; None where they are not here.
        why: the reason for its state.
        done: epochs that need not be trained again.
    """

    spec: RunSpec
    record: Record | None
    weights: Path | None
    why: str
    done: int = 0

    @property
    def todo(self) -> bool:
        return self.record is None


def look_at(spec: RunSpec, known: Known) -> Run:
    """Whether a run is done, and why not."""
    found = [record for record in known.records if same_spec(record.spec, spec)]
    found.sort(key=lambda record: record.started)
    data = fingerprints(spec.dataset, known.places.data)
    faults = [fault(record, spec, data, known) for record in found]
    whole = [r for r, why in zip(found, faults, strict=True) if why is None or known.keep]
    if whole:
        record = whole[-1]
        why = faults[found.index(record)]
        said = f"kept, though {why}" if why else f"recorded {record.started:%Y-%m-%d}"
        return Run(spec, record, weights_of(record, known.places), said)
    done, left = interrupted(spec, data, known.places)
    if faults:
        left = f"{faults[-1]}; {left}" if left else faults[-1]
    return Run(spec, None, None, left or "no record", done)


def same_spec(one: RunSpec, other: RunSpec) -> bool:
    """Whether two specs ask for the same; of weights to start from the checksum tells."""
    left, right = (
        spec.model_dump(exclude={"initial", "epochs"})
        | {"epochs": spec.chosen_epochs(), "scratch": spec.initial is None}
        for spec in (one, other)
    )
    return left == right


def fault(
    record: Record, spec: RunSpec, data: dict[str, str] | None, known: Known
) -> str | None:
    """Why a record of the same spec does not count."""
    for split, now in (data or {}).items():
        if record.fingerprints.get(split) != now:
            return f"the {split} images of {spec.dataset} are others now"
    start = Path(spec.initial) if spec.initial else None
    if start and start.exists() and record.fingerprints["initial"] != checksum(start):
        return f"{start} holds other weights now"
    if record.identity != record.spec.identity(record.fingerprints):
        now = training_version(spec)
        return (
            f"training changed (version {record.training_version}, now {now}) or its recipe"
        )
    return None


def checksum(path: Path) -> str | None:
    try:
        return read_pair(path)[1]["sha256"]
    except WeightsError:
        return None


@cache
def fingerprints(dataset: str, data: Path | None) -> dict[str, str] | None:
    """Of the images that a run takes; None where they are not on this machine."""
    source = SOURCES[dataset]
    if not {"train", "test"} <= count_images(dataset, data).keys():
        return source.fingerprints
    return {split: load(dataset, split, data).fingerprint for split in ("train", "test")}


def interrupted(
    spec: RunSpec, data: dict[str, str] | None, places: Places
) -> tuple[int, str | None]:
    """Epochs of a run of today's identity that was broken off, and how to say so."""
    if data is None:
        return 0, None
    if spec.initial is not None:
        if not Path(spec.initial).exists():
            return 0, None
        data = data | {"initial": checksum(Path(spec.initial)) or ""}
    folder = places.runs / f"{spec.label()}_{spec.identity(data)}"
    if (folder / "record.json").exists():
        return spec.chosen_epochs(), "finished, not recorded yet"
    whole = [p for p in folder.glob("checkpoint-*.safetensors") if checksum(p)]
    if not whole:
        return 0, None
    done = max(int(path.stem.rpartition("-")[2]) for path in whole)
    return done, f"broken off after epoch {done} of {spec.chosen_epochs()}: goes on"


def weights_of(record: Record, places: Places) -> Path | None:
    """A run's own final weights, or those that ship."""
    own = places.runs / f"{record.spec.label()}_{record.id}" / "weights.safetensors"
    return own if own.with_suffix(".json").exists() else None


def final(spec: RunSpec, profile: str, places: Places) -> Path:
    """Where `train` puts the weights of a run that is to be trained."""
    return places.runs / "final" / profile / f"{spec.label()}.safetensors"


def train_step(run: Run, grid: Grid, shipped: list[Step], known: Known) -> Step:
    spec, places = run.spec, known.places
    words = ["train", *words_of(spec)]
    words += ["--profile", grid.profile, "--runs", str(places.runs)]
    words += ["--records", str(places.records)]
    words += ["--weights", str(final(spec, grid.profile, places))]
    words += ["--data", str(places.data)] if places.data else []
    hours, place = None, ""
    if run.todo:
        hours, place = train_hours(spec, run.done, known.records, known.device, places.data)
    wait = [s.name for s in shipped if s.todo and spec.initial in s.words]
    return Step(
        name=spec.label(),
        stage="train",
        todo=run.todo,
        why=run.why,
        words=words,
        after=wait if run.todo else [],
        hours=hours,
        measured_on=place,
        gigabytes=gigabytes(spec) if run.todo else 0.0,
    )


# ----------------------------------------------------------------------------- shipping


def ship_steps(grid: Grid, runs: dict[str, Run], known: Known) -> Iterator[Step]:
    """For each network of a data set the best of its runs, in half precision."""
    for group in grid.runs if grid.weights else []:
        if not group.ship:
            continue
        specs = group.specs()
        for network in group.networks:
            mine = [runs[s.label()] for s in specs if s.network == network]
            yield ship_step(mine, grid, known)


def ship_step(mine: list[Run], grid: Grid, known: Known) -> Step:
    spec = mine[0].spec
    name = f"{spec.network}_{spec.dataset}_w{spec.width:g}"
    target = Path(grid.weights) / f"{name}.safetensors"
    there = run_of(target)
    best = best_run(mine, there)
    wait = [run.spec.label() for run in mine if run.todo]
    sources = [weights_path(run, grid.profile, known.places) for run in mine]
    usable = [str(path) for path in sources if path is not None]
    if any(run.record and run.record.id == there for run in mine):
        usable.append(str(target))  # which stays if it is still the best
    todo = bool(wait) or best is None or best.id != there
    if wait:
        why = f"waits for {len(wait)} of its {len(mine)} runs"
    elif not todo:
        why = f"ships its best run, seed {best.spec.seed}"
    else:
        why = "nothing ships yet" if there is None else "another run is the best now"
    if todo and not usable:
        todo, why = False, f"{why}; no run's weights are on this machine"
    return Step(
        name=f"ship_{name}",
        stage="ship",
        todo=todo,
        why=why,
        words=["export", *usable, str(target), "--records", str(known.places.records)],
        after=wait if todo else [],
    )


def best_run(mine: list[Run], there: str | None) -> Record | None:
    """The best of the runs whose weights are here, or ship already."""
    found = [
        run.record for run in mine if run.record and (run.weights or run.record.id == there)
    ]
    return min(found, key=lambda record: record.metrics["test_error"], default=None)


def run_of(path: Path) -> str | None:
    """The run whose weights lie at a place."""
    try:
        return read_pair(path)[1].get("run")
    except WeightsError:
        return None


def weights_path(run: Run, profile: str, places: Places) -> Path | None:
    """Where a run's weights are, or will be once it is trained."""
    return final(run.spec, profile, places) if run.todo else run.weights


# ---------------------------------------------------------------------------- measuring


def measure_steps(grid: Grid, runs: dict[str, Run], known: Known) -> Iterator[Step]:
    """One step for each network and seed, and one for the methods without a network."""
    by_key = {(r.spec.network, r.spec.dataset, r.spec.seed): r for r in runs.values()}
    for group in grid.measurements:
        if group.methods:
            yield methods_step(group, known)
        for network, seeds in group.networks.items():
            for seed in seeds:
                run = by_key[network, group.trained_on, seed]
                yield measure_step(group, run, grid, known)


def measure_step(group: MeasureGroup, run: Run, grid: Grid, known: Known) -> Step:
    name = f"{task_name(group)}_{run.spec.label()}"
    mine = [m for m in known.measurements if like(m, group, run)]
    todo, why = state(mine, group, known)
    if run.todo:
        todo, why = True, "its network is to be trained"
    weights = weights_path(run, grid.profile, known.places)
    if weights is None and run.record is not None:
        weights = shipped_copy(run.record, grid)
    words = [group.task, "--dataset", group.dataset, *options(group)]
    words += ["--weights", str(weights or final(run.spec, grid.profile, known.places))]
    words += ["--methods"] if group.task == "segment" else []
    # None stands for weights that are not here: `need_weights` sees to it.
    missing = todo and weights is None
    hours, place = measuring(group, run.spec.network, known) if todo else (None, "")
    return Step(
        name=name,
        stage="measure",
        todo=todo,
        why=f"{why}; {NOT_HERE}" if missing else why,
        words=[*words, *where(known.places)],
        after=[run.spec.label()] if todo and (run.todo or missing) else [],
        hours=hours,
        measured_on=place,
    )


NOT_HERE = "the run's weights are not on this machine"


def need_weights(runs: dict[str, Run], measured: list[Step]) -> None:
    """A run is trained again where something is to be measured of weights that are gone."""
    for step in measured:
        if step.todo and step.why.endswith(NOT_HERE):
            run = runs[step.after[0]]
            run.record = None
            run.why = f"its weights are not here, and {step.name} needs them"


def shipped_copy(record: Record, grid: Grid) -> Path | None:
    spec = record.spec
    path = Path(grid.weights) / f"{spec.network}_{spec.dataset}_w{spec.width:g}.safetensors"
    return path if run_of(path) == record.id else None


def methods_step(group: MeasureGroup, known: Known) -> Step:
    states = []
    for method in group.methods:
        mine = [
            m
            for m in known.measurements
            if like(m, group, None) and m.settings.get("method") == method
        ]
        states.append(state(mine, group, known))
    todo = any(each for each, _ in states)
    why = next((why for each, why in states if each == todo), "")
    hours, place = measuring(group, None, known) if todo else (None, "")
    words = [group.task, "--dataset", group.dataset, *options(group)]
    return Step(
        name=f"{task_name(group)}_{'-'.join(group.methods)}",
        stage="measure",
        todo=todo,
        why=why,
        words=[*words, "--methods", *group.methods, *where(known.places)],
        hours=hours,
        measured_on=place,
    )


def like(measurement: Measurement, group: MeasureGroup, run: Run | None) -> bool:
    """Whether it is of this task, these images and this run, whatever the code."""
    asked = {"attack": group.attack, "pairs": group.pairs}
    if group.task == "attack" and group.attack is None:
        asked["attack"] = "fgsm"
    settings = measurement.settings
    trained = measurement.weights.run if measurement.weights else None
    return (
        measurement.task == group.task
        and measurement.data.name == group.dataset
        and (group.images is None or measurement.data.images == group.images)
        and all(settings.get(k) == v for k, v in asked.items() if v is not None)
        and trained == (run.record.id if run and run.record else None)
        and (run is None) == (measurement.network is None)
    )


def state(mine: list[Measurement], group: MeasureGroup, known: Known) -> tuple[bool, str]:
    """Whether there is something to do, and why."""
    if not mine:
        return True, "not measured yet"
    newest = max(mine, key=lambda measurement: measurement.started)
    made = f"measured {newest.started:%Y-%m-%d}"
    if newest.task_version == TASKS[group.task].version:
        return False, made
    changed = f"{group.task} has another version now"
    return (False, f"{made}, kept, though {changed}") if known.keep else (True, changed)


def measuring(
    group: MeasureGroup, network: str | None, known: Known
) -> tuple[float | None, str]:
    return measure_hours(group, network, known.measurements, known.device)


def task_name(group: MeasureGroup) -> str:
    parts = [group.task, group.attack, group.dataset]
    parts += [f"{group.images}-images" if group.images else None]
    return "-".join(part for part in parts if part)


def options(group: MeasureGroup) -> list[str]:
    given = {"attack": group.attack, "images": group.images, "pairs": group.pairs}
    return [w for k, v in given.items() if v is not None for w in (f"--{k}", str(v))]


def where(places: Places) -> list[str]:
    words = ["--measurements", str(places.measurements)]
    return [*words, "--data", str(places.data)] if places.data else words


# --------------------------------------------------------------------------- the whole


def in_order(steps: list[Step]) -> list[Step]:
    """Each step after those that it waits for."""
    left, done = list(steps), []
    names = {step.name for step in steps}
    while left:
        gone = {step.name for step in done}
        ready = [s for s in left if (set(s.after) & names) <= gone]
        if not ready:
            raise ValueError(f"{left[0].name} waits for itself")
        done += ready
        left = [step for step in left if step not in ready]
    return done


def total(steps: Iterable[Step]) -> str:
    """What is to be done, and what it is estimated to cost, in a sentence."""
    todo = [step for step in steps if step.todo]
    if not todo:
        return "nothing is left to do"
    hours = [step.hours for step in todo if step.hours is not None]
    counts = [
        f"{sum(step.stage == stage for step in todo)} to {stage}"
        for stage in ("train", "measure", "ship")
    ]
    open_ = sum(step.hours is None and step.stage != "ship" for step in todo)
    places = sorted({step.measured_on for step in todo if step.measured_on})
    return (
        f"{', '.join(counts)}: about {sum(hours):,.1f} hours one after the other"
        + (f", as measured on {' and '.join(places)}" if places else "")
        + (f"; {open_} without an estimate" if open_ else "")
        + f"; {sum(step.gigabytes for step in todo):.2f} GB on the disk"
    )


def plan_table(plan: Plan) -> pd.DataFrame:
    """Columns: step, stage, state ("done" or "to do"), why, hours."""
    rows = [
        {
            "step": step.name,
            "stage": step.stage,
            "state": "to do" if step.todo else "done",
            "why": step.why,
            "hours": "" if step.hours is None else f"{step.hours:.2f}",
        }
        for step in plan.steps
    ]
    return pd.DataFrame(rows, columns=["step", "stage", "state", "why", "hours"])


def write_plan(plan: Plan, path: Path, markers: Path) -> None:
    """Write the plan for the Snakefile; no step that is to be done is marked as done."""
    for step in plan.todo:
        (markers / step.stage / step.name).unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, plan.model_dump_json(indent=1).encode() + b"\n")
