"""The plan: whether each step of a grid is done, and if not, why, and what it costs.

A run is done if a record has its identity: the same spec, recipe, images, initial weights
and training version. A measurement is done if its task, settings, network, images and task
version are the same. Changes to the code do not matter.
"""

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict

from lpa_core.data import count_images, load, source_of
from lpa_core.plan.cost import gigabytes, measure_hours, train_hours
from lpa_core.plan.grid import Grid, MeasureGroup, run_key
from lpa_core.provenance import choose_device, device_name, write_whole
from lpa_core.results.store import read_measurements, read_records
from lpa_core.tasks import TASKS
from lpa_core.tasks.measurement import Measurement
from lpa_core.training import Record, RunSpec, WeightsError
from lpa_core.training.checkpoint import read_pair, run_folder
from lpa_core.training.config import training_version

__all__ = ["Places", "Plan", "Step", "make_plan", "plan_table", "total", "write_plan"]

Stage = Literal["train", "ship", "measure"]


@dataclass(frozen=True)
class Places:
    """The paths of files and folders.

    Attributes:
        runs: folder of the runs. records, measurements: files of lines.
        data: folder of the prepared data sets, see `lpa_core.data.load`.
    """

    runs: Path = Path("runs")
    records: Path = Path("results/records.jsonl")
    measurements: Path = Path("results/measurements.jsonl")
    data: Path | None = None

    def options(self, *names: str) -> list[str]:
        """Command-line options for some of them, and for the data folder if it is set."""
        given = {name: getattr(self, name) for name in (*names, "data")}
        return [w for k, v in given.items() if v for w in (f"--{k}", str(v))]


class Step(BaseModel):
    """One step of a plan.

    Attributes:
        name: of the step, a file name. stage: what it does.
        todo: whether it has to be done. why: the reason in either case.
        words: of the command line, after `python -m lpa_core`.
        after: names of the steps that it waits for.
        hours: estimated time that is left; None if nothing similar was measured.
        measured_on: the device of the estimate.
        gigabytes: disk space that its results need.
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
    """A profile's steps, sorted so that each comes after those that it waits for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str
    device: str
    steps: list[Step]

    @property
    def todo(self) -> list[Step]:
        return [step for step in self.steps if step.todo]


@dataclass(frozen=True)
class Known:
    """The results that exist already."""

    places: Places
    records: list[Record]
    measurements: list[Measurement]
    device: str
    keep: bool


def make_plan(
    grid: Grid, places: Places = Places(), device: str = "auto", keep: bool = False
) -> Plan:
    """The plan for a grid, from the results that exist already.

    Args:
        device: the device to use, for the estimate.
        keep: also count results of another version or of other images.
    """
    records, measured = places.records, places.measurements
    known = Known(
        places=places,
        records=read_records(records, superseded=True) if records.exists() else [],
        measurements=(
            read_measurements(measured, superseded=True) if measured.exists() else []
        ),
        device=device_name(choose_device(device)),
        keep=keep,
    )
    runs = {spec.label(): check_run(spec, known) for spec in grid.specs()}
    measuring = list(measure_steps(grid, runs, known))
    retrain_for_weights(runs, measuring)
    shipping = list(ship_steps(grid, runs, known))
    training = [train_step(run, grid, shipping, known) for run in runs.values()]
    steps = {step.name: step for step in [*training, *shipping, *measuring]}
    order = TopologicalSorter({step.name: step.after for step in steps.values()})
    return Plan(
        profile=grid.profile,
        device=known.device,
        steps=[steps[name] for name in order.static_order()],
    )


# ----------------------------------------------------------------------------- training


@dataclass
class Run:
    """A run of the grid and its state.

    Attributes:
        record: the newest valid record; None if the run has to be trained.
        weights: its final weights on this machine, or None.
        why: the reason for its state.
        done: epochs that are trained already.
    """

    spec: RunSpec
    record: Record | None
    weights: Path | None
    why: str
    done: int = 0

    @property
    def todo(self) -> bool:
        return self.record is None


def check_run(spec: RunSpec, known: Known) -> Run:
    """Whether a run is done, and why not."""
    found = [r for r in known.records if described(r.spec) == described(spec)]
    found.sort(key=lambda record: record.started)
    data = fingerprints(spec.dataset, known.places.data) or {}
    faults = [(record, fault(record, spec, data)) for record in found]
    counting = [(r, why) for r, why in faults if why is None or known.keep]
    if counting:
        record, why = counting[-1]
        said = f"kept, though {why}" if why else f"recorded {record.started:%Y-%m-%d}"
        return Run(spec, record, weights_of(record, known.places), said)
    done, left = interrupted(spec, data, known.places)
    reasons = [why for _, why in faults[-1:] if why] + ([left] if left else [])
    return Run(spec, None, None, "; ".join(reasons) or "no record", done)


def with_epochs(spec: RunSpec) -> RunSpec:
    """The spec without `epochs` if they are the recipe's: it is the same run."""
    return spec.model_copy(update={"epochs": spec.chosen_epochs()})


def described(spec: RunSpec) -> dict:
    """All fields of a spec, except for the weights that it starts from."""
    return with_epochs(spec).model_dump(exclude={"initial"})


def fault(record: Record, spec: RunSpec, data: dict[str, str]) -> str | None:
    """Why a record with the same spec is not valid; None if it has the run's identity."""
    expected = {k: v for k, v in record.fingerprints.items() if k != "initial"} | data
    if spec.initial is not None:
        recorded = record.fingerprints.get("initial", "")
        expected["initial"] = stored(Path(spec.initial), "sha256") or recorded
    same = record.model_copy(update={"spec": with_epochs(record.spec)}).identity
    if same == with_epochs(spec).identity(expected):
        return None
    for split in ("train", "test"):
        if expected.get(split) != record.fingerprints.get(split):
            return f"the {split} images of {spec.dataset} have changed"
    if expected.get("initial") != record.fingerprints.get("initial"):
        return f"it started from other weights than {spec.initial or 'none'}"
    version = training_version(spec)
    if record.training_version != version:
        was = record.training_version
        return f"made by training version {was}; the current one is {version}"
    return f"the recipe {spec.recipe} has changed"


def stored(path: Path, fact: str) -> str | None:
    """A fact from the JSON beside complete weights, such as their checksum or run."""
    try:
        return read_pair(path)[1].get(fact)
    except WeightsError:
        return None


@cache
def fingerprints(dataset: str, data: Path | None) -> dict[str, str] | None:
    """The fingerprints of a run's images; None if they are not on this machine."""
    source = source_of(dataset)
    if not {"train", "test"} <= count_images(dataset, data).keys():
        return source.fingerprints
    return {split: load(dataset, split, data).fingerprint for split in ("train", "test")}


def interrupted(
    spec: RunSpec, data: dict[str, str], places: Places
) -> tuple[int, str | None]:
    """Finished epochs of an interrupted run with this identity, and a description."""
    start = {}
    if spec.initial is not None:
        start = {"initial": stored(Path(spec.initial), "sha256") or ""}
    folder = run_folder(places.runs, spec.label(), spec.identity(data | start))
    if (folder / "record.json").exists():
        return spec.chosen_epochs(), "finished, not recorded yet"
    whole = [p for p in folder.glob("checkpoint-*.safetensors") if stored(p, "sha256")]
    if not whole:
        return 0, None
    done = max(int(path.stem.rpartition("-")[2]) for path in whole)
    return done, f"interrupted after epoch {done} of {spec.chosen_epochs()}: resumes"


def weights_of(record: Record, places: Places) -> Path | None:
    """A run's own final weights, if they are on this machine."""
    folder = run_folder(places.runs, record.spec.label(), record.id)
    own = folder / "weights.safetensors"
    return own if own.with_suffix(".json").exists() else None


def final(spec: RunSpec, profile: str, places: Places) -> Path:
    """The path where `train` will put the weights of a run."""
    return places.runs / "final" / profile / f"{spec.label()}.safetensors"


def train_step(run: Run, grid: Grid, shipping: list[Step], known: Known) -> Step:
    spec, places = run.spec, known.places
    words = ["train", *train_options(spec), "--profile", grid.profile]
    words += ["--weights", str(final(spec, grid.profile, places))]
    hours, device = None, ""
    if run.todo:
        hours, device = train_hours(
            spec, run.done, known.records, known.device, places.data
        )
    wait = [s.name for s in shipping if s.todo and spec.initial in s.words]
    return Step(
        name=spec.label(),
        stage="train",
        todo=run.todo,
        why=run.why,
        words=[*words, *places.options("runs", "records")],
        after=wait if run.todo else [],
        hours=hours,
        measured_on=device,
        gigabytes=gigabytes(spec) if run.todo else 0.0,
    )


def train_options(spec: RunSpec) -> list[str]:
    """The options of `train` for a run that differ from the defaults."""
    fields = spec.model_dump(exclude_defaults=True)
    overrides = fields.pop("overrides", {})
    sets = (["--set", f"{name}={json.dumps(value)}"] for name, value in overrides.items())
    return [*options(fields), *chain.from_iterable(sets)]


def options(given: dict) -> list[str]:
    """Command-line options from fields: True becomes a flag, a list several words."""
    words = []
    for name, value in given.items():
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return words


# ----------------------------------------------------------------------------- shipping


def ship_steps(grid: Grid, runs: dict[str, Run], known: Known) -> Iterator[Step]:
    """Ship the best run of each network on each data set, in half precision."""
    for group in grid.runs if grid.weights else []:
        if not group.ship:
            continue
        specs = group.specs()
        for network in group.networks:
            mine = [runs[s.label()] for s in specs if s.network == network]
            yield ship_step(mine, grid, known)


def ship_step(mine: list[Run], grid: Grid, known: Known) -> Step:
    target = shipped_path(mine[0].spec, grid)
    there = stored(target, "run")
    best = best_run(mine, there)
    wait = [run.spec.label() for run in mine if run.todo]
    sources = [weights_path(run, grid, known) for run in mine]
    usable = [str(path) for path in sources if path is not None]
    if any(run.record and run.record.id == there for run in mine):
        usable.append(str(target))  # kept if it is still the best
    todo = bool(wait) or best is None or best.id != there
    if wait:
        why = f"waits for {len(wait)} of its {len(mine)} runs"
    elif best and best.id == there:
        why = f"ships its best run, seed {best.spec.seed}"
    else:
        why = "nothing ships yet" if there is None else "another run is now the best"
    if todo and not usable:
        todo, why = False, f"{why}; no run's weights are on this machine"
    return Step(
        name=f"ship_{target.stem}",
        stage="ship",
        todo=todo,
        why=why,
        words=["export", *usable, str(target), "--records", str(known.places.records)],
        after=wait if todo else [],
    )


def shipped_path(spec: RunSpec, grid: Grid) -> Path:
    name = f"{spec.network}_{spec.dataset}_w{spec.width:g}"
    return Path(grid.weights) / f"{name}.safetensors"


def best_run(mine: list[Run], there: str | None) -> Record | None:
    """The best of the runs whose weights are on this machine or ship already."""
    found = [
        run.record for run in mine if run.record and (run.weights or run.record.id == there)
    ]
    return min(found, key=lambda record: record.metrics["test_error"], default=None)


def weights_path(run: Run, grid: Grid, known: Known) -> Path | None:
    """The path of a run's weights, which may still have to be trained."""
    return final(run.spec, grid.profile, known.places) if run.todo else run.weights


# ---------------------------------------------------------------------------- measuring

NOT_HERE = "the run's weights are not on this machine"


def measure_steps(grid: Grid, runs: dict[str, Run], known: Known) -> Iterator[Step]:
    """One step for each network and seed, and one for the methods without a network."""
    by_key = {run_key(spec): runs[spec.label()] for spec in grid.measurable()}
    for group in grid.measurements:
        if group.methods:
            yield methods_step(group, known)
        for network, seeds in group.networks.items():
            for seed in seeds:
                run = by_key[group.run_key(network, seed)]
                yield measure_step(group, run, grid, known)


def measure_step(group: MeasureGroup, run: Run, grid: Grid, known: Known) -> Step:
    settings = group.options().recorded()
    mine = [
        m
        for m in of_group(group, known)
        if m.weights and run.record and m.weights.run == run.record.id
        # None leaves the choice to the task, and `methods` need no network.
        if all(m.settings.get(k, v) in (v, None) or v is None for k, v in settings.items())
        if m.settings.get("cam") == settings.get("cam")  # left out if it is None
    ]
    todo, why = measured_state(mine, group, known)
    if run.todo:
        todo, why = True, "its network has to be trained first"
    weights = weights_path(run, grid, known)
    if weights is None and run.record and group_ships(run.record, grid):
        weights = shipped_path(run.spec, grid)
    missing = todo and weights is None  # `retrain_for_weights` handles this
    file = weights or final(run.spec, grid.profile, known.places)
    hours, device = None, ""
    if todo:
        hours, device = measure_hours(
            group, run.spec.network, known.measurements, known.device
        )
    methods = {} if TASKS[group.task].needs_weights else {"methods": []}
    return Step(
        name=f"{group.name()}_{run.spec.label()}",
        stage="measure",
        todo=todo,
        why=f"{why}; {NOT_HERE}" if missing else why,
        words=[*group_words(group, known, methods), "--weights", str(file)],
        after=[run.spec.label()] if todo and (run.todo or missing) else [],
        hours=hours,
        measured_on=device,
    )


def retrain_for_weights(runs: dict[str, Run], measuring: list[Step]) -> None:
    """Train runs again whose weights are missing but needed for a measurement."""
    for step in measuring:
        if step.todo and step.why.endswith(NOT_HERE):
            run = runs[step.after[0]]
            run.record = None
            run.why = f"its weights are not here, and {step.name} needs them"


def group_ships(record: Record, grid: Grid) -> bool:
    return stored(shipped_path(record.spec, grid), "run") == record.id


def methods_step(group: MeasureGroup, known: Known) -> Step:
    states = []
    for _, case in group.options().cases(group.dataset, []):
        mine = [m for m in of_group(group, known) if m.settings == case.recorded()]
        states.append(measured_state(mine, group, known))
    todo = any(each for each, _ in states)
    hours, device = None, ""
    if todo:
        hours, device = measure_hours(group, None, known.measurements, known.device)
    return Step(
        name=f"{group.name()}_{'-'.join(group.methods)}",
        stage="measure",
        todo=todo,
        why=next((why for each, why in states if each == todo), ""),
        words=group_words(group, known, {"methods": group.methods}),
        hours=hours,
        measured_on=device,
    )


def of_group(group: MeasureGroup, known: Known) -> list[Measurement]:
    """The measurements of a group's task on its images, of any version."""
    counts = count_images(group.dataset, known.places.data)
    return [
        m
        for m in known.measurements
        if (m.task, m.data.name) == (group.task, group.dataset)
        and m.data.images == (group.images or counts.get(m.data.split, m.data.images))
    ]


def measured_state(
    mine: list[Measurement], group: MeasureGroup, known: Known
) -> tuple[bool, str]:
    """Whether there is something to do, and why."""
    if not mine:
        return True, "not measured yet"
    newest = max(mine, key=lambda measurement: measurement.started)
    made = f"measured {newest.started:%Y-%m-%d}"
    now, was = TASKS[group.task].version, newest.task_version
    if was == now:
        return False, made
    changed = f"made by version {was} of {group.task}; the current one is {now}"
    return (False, f"{made}, kept, though {changed}") if known.keep else (True, changed)


def group_words(group: MeasureGroup, known: Known, methods: dict) -> list[str]:
    given = group.settings | ({"images": group.images} if group.images else {}) | methods
    words = [group.task, "--dataset", group.dataset, *options(given)]
    return [*words, *known.places.options("measurements")]


# --------------------------------------------------------------------------- the whole


def total(steps: Iterable[Step]) -> str:
    """What is left to do and its estimated cost, in one sentence."""
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
    """Write the plan for the Snakefile, and remove the markers of steps to be done."""
    for step in plan.todo:
        (markers / step.stage / step.name).unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, plan.model_dump_json(indent=1).encode() + b"\n")
