"""Checking the files of results against each other, the data and the weights.

`python -m lpa_core records verify` reads all files of lines beside the records and all
shipped weights. Each line must match its digest, so that any changed character is noticed.
Values that follow from other fields or files are computed again. What cannot be checked
here, for example because its data are not on this machine, is "not checked", never "right".
"""

import hashlib
import json
import math
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from lpa_core.data import DataError, data_folder, load, own_label, source_of
from lpa_core.data.sources import prepared_path
from lpa_core.networks import build_network
from lpa_core.networks.cost import count_parameters
from lpa_core.provenance import explain, read_lines
from lpa_core.results.store import numbers_of
from lpa_core.tasks.base import TASKS, hash_of, some
from lpa_core.tasks.measurement import Measurement
from lpa_core.training import Record, WeightsError
from lpa_core.training.checkpoint import read_pair
from lpa_core.training.record import STATED_ERRORS

__all__ = ["Files", "Finding", "summary", "verify", "wrong"]

State = Literal["right", "wrong", "not checked"]

PERCENT = (0, 100)
SHARE = (0, 1 + 1e-6)  # allows for rounding
COUNT = (1, math.inf)
POSITIVE = (0, math.inf)

# The allowed range of each number, by its name.
RANGES = {
    **dict.fromkeys(("test_error", "train_error", "error", "clean_error"), PERCENT),
    **dict.fromkeys(("fooling_rate", "zero_gradient", "accuracy"), PERCENT),
    **dict.fromkeys(("with_missing", "without_missing"), PERCENT),
    **dict.fromkeys(("jaccard", "entropy", "moved", "before", "after"), SHARE),
    **dict.fromkeys(("likeness", "gained"), (-1 - 1e-6, 1 + 1e-6)),
    **dict.fromkeys(("diversity",), (-1e-6, 1 + 1e-6)),
    **dict.fromkeys(("test_loss", "train_loss", "rate", "seconds"), POSITIVE),
    **dict.fromkeys(("sem", "std", "density", "change"), POSITIVE),
    **dict.fromkeys(("entropy sem", "density sem"), POSITIVE),
    **dict.fromkeys(("epochs", "epoch", "sessions", "threads", "parameters"), COUNT),
    **dict.fromkeys(("images", "size", "image_size", "pairs", "positions"), COUNT),
    **dict.fromkeys(("peak_memory_bytes", "classes"), COUNT),
    "images_per_second": (1e-9, math.inf),
}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        file: the file that was checked.
        line: its number, from 1; None if the file has no lines.
        check: the name of the check.
        state: "right", "wrong" or "not checked".
        said: what was found and what was expected, or why it was not checked.
    """

    file: str
    line: int | None
    check: str
    state: State
    said: str = ""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}, line {self.line}"
        return f"{place}: {self.check}: {self.said}"


@dataclass(frozen=True)
class Files:
    """The files to verify, and the data to compare them with.

    Attributes:
        records, measurements: files of lines; the measurements are optional. Other files
            `*.jsonl` beside the records are read too.
        weights: folder of the shipped weights.
        data: folder of the prepared data sets, see `lpa_core.data.load`; it is only read.
        read_data: whether to read prepared sets; the embedded set is always made.
    """

    records: Path
    measurements: Path
    weights: Path
    data: Path | None = None
    read_data: bool = True


def verify(files: Files) -> list[Finding]:
    """All checks of all lines and files, in order.

    Raises:
        OSError: the records cannot be read.
    """
    records, damage = lines_of(files.records, Record)
    measurements, more = [], []
    if files.measurements.exists():
        measurements, more = lines_of(files.measurements, Measurement)
    named = {path.resolve() for path in (files.records, files.measurements)}
    for path in sorted(files.records.parent.glob("*.jsonl")):
        if path.resolve() not in named:
            more += lines_of(path, AnyLine)[1]
    pairs = shipped_pairs(files.weights)
    facts = [facts_of(path) for path in pairs]
    known = Known(
        runs={line.model.id: line.model for line in records},
        weights={
            *(line.model.weights_sha256 for line in records),
            *(found[key] for found in facts for key in SUMS if found.get(key)),
        },
        commits=known_commits(files.records.parent, [*records, *measurements]),
        files=files,
    )
    return [
        *damage,
        *check_records(records, known),
        *more,
        *check_measurements(measurements, known),
        *check_weights(pairs, known),
    ]


def wrong(findings: list[Finding]) -> list[Finding]:
    """The findings that are wrong."""
    return [finding for finding in findings if finding.state == "wrong"]


def summary(findings: list[Finding]) -> pd.DataFrame:
    """The number of results of each check.

    Columns: file (weights count as one), check, right, wrong, not checked, and the reason
    for the latter.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        file = "weights" if finding.line is None else Path(finding.file).name
        groups.setdefault((file, finding.check), []).append(finding)
    rows = []
    for (file, check), group in groups.items():
        states = [finding.state for finding in group]
        reasons = [f.said for f in group if f.state == "not checked"]
        rows.append(
            {
                "file": file,
                "check": check,
                "right": states.count("right"),
                "wrong": states.count("wrong"),
                "not checked": states.count("not checked"),
                "why not": "; ".join(dict.fromkeys(reasons)),
            }
        )
    columns = ["file", "check", "right", "wrong", "not checked", "why not"]
    return pd.DataFrame(rows, columns=columns)


# ------------------------------------------------------------------------------ reading


SUMS = ("sha256", "exported_from")


class AnyLine(BaseModel):
    """A line of another file of results: benchmarks and the like."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class Line:
    """An undamaged line: its number, its fields as written, and their model."""

    file: str
    number: int
    raw: dict
    model: Any

    def finding(self, check: str, state: State, said: str = "") -> Finding:
        return Finding(self.file, self.number, check, state, said)

    def compare(self, check: str, name: str, found, expected) -> Finding:
        """Right if both are the same."""
        if found == expected:
            return self.finding(check, "right")
        said = f"{name} is {found!r}, expected {expected!r}"
        return self.finding(check, "wrong", said)


@dataclass(frozen=True)
class Known:
    """What lines are compared with: runs by id, checksums of weights, commits."""

    runs: dict[str, Record]
    weights: set[str]
    commits: dict[str, bool] | str
    files: Files


def lines_of(path: Path, model: type[BaseModel]) -> tuple[list[Line], list[Finding]]:
    """The undamaged lines of a file, and a finding for each line."""
    whole, findings = [], []
    # Strictly: the text "8.5" is not a number here, although reading accepts it.
    for line in read_lines(path, model, strict=True):
        if line.model is None:
            said = f"not a {model.__name__.lower()}: {line.fault}"
            findings.append(Finding(str(path), line.number, "schema", "wrong", said))
        else:
            findings.append(Finding(str(path), line.number, "schema", "right"))
            whole.append(Line(str(path), line.number, line.fields, line.model))
    return whole, findings


def shipped_pairs(folder: Path) -> list[Path]:
    """The weights in a folder, even if one of their two files is missing."""
    kinds = (".safetensors", ".json")
    found = [path for path in folder.glob("*") if path.suffix in kinds]
    return sorted({path.with_suffix(".safetensors") for path in found})


def facts_of(path: Path) -> dict:
    """The facts in the JSON beside weights; empty if it cannot be read."""
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def known_commits(folder: Path, lines: list[Line]) -> dict[str, bool] | str:
    """Which of the lines' commits the repository has, or why this is unknown."""
    commits = sorted({c for line in lines if (c := line.model.git.commit)})

    def git(*words: str, fed: str = "") -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(
            command, input=fed, capture_output=True, text=True, check=True
        ).stdout

    try:
        if git("rev-parse", "--is-shallow-repository").strip() == "true":
            return "the repository is here without its history"
        asked = "".join(f"{c}\n" for c in commits)
        kinds = git("cat-file", "--batch-check=%(objecttype)", fed=asked).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return "no git repository here"
    return {c: kind == "commit" for c, kind in zip(commits, kinds, strict=True)}


# ------------------------------------------------------------------------------ records


def check_records(lines: list[Line], known: Known) -> Iterator[Finding]:
    fitting = [line.model for line in lines if identity_fits(line)]
    vouched = {(record.code, record.spec.recipe) for record in fitting}
    yield from check_once(lines)
    for line in lines:
        yield check_identity(line, vouched)
        yield from check_history(line)
        yield check_parameters(line)
        yield from check_numbers(line)
        yield from check_record_data(line, known)
        yield check_commit(line, known)


def check_once(lines: list[Line]) -> Iterator[Finding]:
    """Check that each run is there once per device, and that weights belong to one run."""
    runs: dict[tuple, int] = {}
    weights: dict[str, tuple[int, dict]] = {}
    for line in lines:
        record = line.model
        first = runs.setdefault((record.id, record.device), line.number)
        spec = record.spec.model_dump()
        owner, owners = weights.setdefault(record.weights_sha256, (line.number, spec))
        if first != line.number:
            said = f"the run {record.id} is in line {first} already, expected once"
        elif owners != spec:
            said = f"its weights are those of line {owner}, which has another spec"
        else:
            yield line.finding("once", "right")
            continue
        yield line.finding("once", "wrong", said)


# A recipe's fields, with the names from the time when ids contained a hash of the code.
FORMER = {
    "lr": "rate",
    "milestones": "changes",
    "lr_decay": "decay",
    "muon_lr": "filter_rate",
    "muon_momentum": "filter_momentum",
    "muon_weight_decay": "filter_weight_decay",
}
# Fields that were added since then.
LATER = {"dampening", "reset_momentum", "flip_half", "flip_digits", "initialisation"}


def identity_fits(line: Line) -> bool:
    """Whether a record's id follows from the record and today's recipe."""
    record = line.model
    if record.formerly is not None:  # the id uses the network's former name
        spec = record.spec.model_copy(update={"network": record.formerly})
        record = record.model_copy(update={"spec": spec})
    if record.code is None:
        return record.id == record.identity
    fields = set(line.raw["spec"]) - {"initial"}  # the fields that existed at that time
    recipe = record.spec.chosen_recipe().model_dump(mode="json", exclude=LATER)
    facts = {
        "spec": record.spec.model_dump(mode="json", include=fields),
        "recipe": {FORMER.get(name, name): value for name, value in recipe.items()},
        "data": record.fingerprints,
        "code": record.code,
    }
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16] == record.id


def check_identity(line: Line, vouched: set[tuple[str | None, str]]) -> Finding:
    """Recompute the id. Another version's recipe may have had other fields; then the id is
    checked only if another record of the same code shows that it had the same fields."""
    record = line.model
    if identity_fits(line):
        return line.finding("id", "right")
    if record.code is None:
        return line.compare(
            "id", "id", record.id, record.spec.identity(record.fingerprints)
        )
    if (record.code, record.spec.recipe) in vouched:
        said = (
            f"id is {record.id!r}, which does not match its spec, data and code: one of "
            "them was changed, expected the original ones"
        )
        return line.finding("id", "wrong", said)
    return line.finding("id", "not checked", "made by code that named runs differently")


def check_history(line: Line) -> Iterator[Finding]:
    """Recompute the values that follow from the epochs."""
    record: Record = line.model
    numbers = [epoch.epoch for epoch in record.history]
    expected = list(range(1, record.spec.chosen_epochs() + 1))
    yield line.compare("history", "epochs", record.epochs, len(expected))
    yield line.compare("history", "the history's epochs", numbers, expected)
    if not record.history:
        return
    last = record.history[-1]
    for name, value in record.metrics.items():
        yield line.compare("history", f"metrics.{name}", value, getattr(last, name, None))
    times = {f"{e:g}": record.seconds_to(e) for e in STATED_ERRORS}
    reached = {error: seconds for error, seconds in times.items() if seconds is not None}
    if "seconds_to_errors" in line.raw:
        said = record.seconds_to_errors
        yield line.compare("history", "seconds_to_errors", said, reached)
    seconds = sum(epoch.seconds for epoch in record.history)
    images = record.images_per_second * seconds / max(record.epochs, 1)
    if record.seconds < seconds:
        said = f"seconds is {record.seconds:g}, expected at least the epochs' {seconds:g}"
        yield line.finding("history", "wrong", said)
    elif abs(images - round(images)) > 1e-6 * images:
        said = (
            f"images_per_second is {record.images_per_second:g}, which gives {images:g} "
            "images per epoch, expected a whole number"
        )
        yield line.finding("history", "wrong", said)


def check_parameters(line: Line) -> Finding:
    """Check the number of parameters, at the image size of the training."""
    record: Record = line.model
    size = max((epoch.image_size for epoch in record.history), default=32)
    spec = record.spec
    if spec.attach or own_label(spec.dataset) != spec.dataset:
        return line.finding(
            "parameters", "not checked", "it is a user's own network or data set"
        )
    expected = parameters_of(spec.network, spec.dataset, spec.width, size)
    return line.compare("parameters", "parameters", record.parameters, expected)


@cache
def parameters_of(network: str, dataset: str, width: float, image_size: int) -> int:
    with torch.device("meta"):  # only shapes
        built = build_network(network, source_of(dataset).class_count, width, image_size)
    return count_parameters(built)


def check_numbers(line: Line) -> Iterator[Finding]:
    """Check that every number is finite and in the allowed range for its name."""
    faults = []
    for path, value in numbers_of(line.model.model_dump()):
        names = path.split(".")
        # A mean or a median has the range of the quantity above it.
        name = names[-2] if names[-1] in ("mean", "median") else names[-1]
        low, high = RANGES.get(name, (-math.inf, math.inf))
        if not math.isfinite(value):
            faults.append(f"{path} is {value}, expected a finite number")
        elif not low <= value <= high:
            faults.append(f"{path} is {value:g}, expected {span(low, high)}")
    for fault in faults:
        yield line.finding("numbers", "wrong", fault)
    if not faults:
        yield line.finding("numbers", "right")


def span(low: float, high: float) -> str:
    return f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"


def check_record_data(line: Line, known: Known) -> Iterator[Finding]:
    record = line.model
    wanted = {"train", "test"} | ({"initial"} if record.spec.initial else set())
    yield line.compare("data", "fingerprints of", set(record.fingerprints), wanted)
    for split, found in record.fingerprints.items():
        if split != "initial":
            yield check_fingerprint(line, known, (record.spec.dataset, split), found)
        elif found in known.weights:
            yield line.finding("data", "right")
        else:
            said = "the weights that it starts from are not here"
            yield line.finding("data", "not checked", said)


def check_commit(line: Line, known: Known) -> Finding:
    git = line.model.git
    if git.commit is None:
        return line.finding("commit", "not checked", "made outside of a repository")
    if isinstance(known.commits, str):
        return line.finding("commit", "not checked", known.commits)
    if not known.commits[git.commit]:
        said = f"git.commit is {git.commit!r}, expected one that the repository has"
        return line.finding("commit", "wrong", said)
    if not git.clean:
        return line.finding("commit", "not checked", "the package had uncommitted changes")
    return line.finding("commit", "right")


# --------------------------------------------------------------------------------- data


def check_fingerprint(
    line: Line,
    known: Known,
    place: tuple[str, str],
    found: str,
    size: int | None = None,
    images: int | None = None,
    masks: str | None = None,
) -> Finding:
    """Compare a fingerprint with the images themselves or with the published set's."""
    name, split = place
    try:
        expected = expected_fingerprints(
            name, split, size, images, bool(masks), known.files.data, known.files.read_data
        )
    except (LookupError, ValueError) as error:
        return line.finding("data", "wrong", f"{name} {split}: {error}")
    if isinstance(expected, str):
        return line.finding("data", "not checked", f"{name}: {expected}")
    what = f"the fingerprint of {name} {split}"
    if found != expected[0]:
        return line.compare("data", what, found, expected[0])
    return line.compare("data", f"{what}'s masks", masks, expected[1])


@cache
def expected_fingerprints(
    name: str,
    split: str,
    size: int | None,
    images: int | None,
    masks: bool,
    root: Path | None,
    read: bool,
) -> tuple[str, str | None] | str:
    """The fingerprints of the images and of their masks, or why they are unavailable.

    Raises:
        LookupError, ValueError: there is no such set, split or number of images.
    """
    if own_label(name) != name:
        return "it is a user's own data set"
    source = source_of(name)
    if split not in source.splits:
        raise ValueError(f"found no such split, expected one of {', '.join(source.splits)}")
    wanted = read or name == "embedded"
    if not wanted or not at_hand(name, split, root):
        pinned = (source.fingerprints or {}).get(split)
        if pinned and images is None:
            return pinned, None
        return "not here" if wanted else "its images are not read for this"
    try:
        data = load(name, split, root, size if source.size else None)
    except DataError as error:
        return str(error)
    if made_here(name, split, root):
        # Its pixels depend on a library's version, so they may differ elsewhere.
        return "its pixels depend on the machine that prepared it"
    data = some(data, images)
    seen = data.masks if masks else None
    return data.fingerprint, None if seen is None else hash_of(seen)


def at_hand(name: str, split: str, root: Path | None) -> bool:
    """Whether a set is here already: verifying downloads nothing."""
    if name == "embedded":
        return True
    if source_of(name).masked:
        return (data_folder(root) / name).is_dir()
    return prepared_path(name, split, root).exists()


def made_here(name: str, split: str, root: Path | None) -> bool:
    """Whether a prepared file was resized on this machine."""
    path = prepared_path(name, split, root)
    if name == "embedded" or not path.exists():
        return False
    with np.load(path, allow_pickle=False) as file:
        return "resized_by" in file.files


# ------------------------------------------------------------------------- measurements


def check_measurements(lines: list[Line], known: Known) -> Iterator[Finding]:
    first: dict[tuple, int] = {}
    for line in lines:
        # Measuring again later is allowed; the last measurement counts.
        key = (line.model.identity, line.model.started)
        number = first.setdefault(key, line.number)
        yield (
            line.finding("once", "right")
            if number == line.number
            else line.finding("once", "wrong", f"is in line {number} already")
        )
        yield check_task(line)
        yield from check_measured_weights(line, known)
        yield from check_numbers(line)
        data = line.model.data
        yield check_fingerprint(
            line,
            known,
            (data.name, data.split),
            data.fingerprint,
            size=data.size,
            images=data.images,
            masks=data.masks,
        )
        yield check_commit(line, known)


def check_task(line: Line) -> Finding:
    """Check that settings and metrics are those of the task."""
    m: Measurement = line.model
    if m.task not in TASKS:
        said = f"task is {m.task!r}, expected one of {', '.join(TASKS)}"
        return line.finding("task", "wrong", said)
    try:
        TASKS[m.task].settings.model_validate(m.settings)
        TASKS[m.task].metrics.model_validate(m.metrics)
    except ValidationError as error:
        return line.finding("task", "wrong", explain(error)[:300])
    return line.finding("task", "right")


def check_measured_weights(line: Line, known: Known) -> Iterator[Finding]:
    """Check that the weights belong to a recorded run of the network in the line."""
    weights, network = line.model.weights, line.model.network
    if weights is None:
        yield line.compare("weights", "network without weights", network, None)
        return
    record = known.runs.get(weights.run)
    if record is None:
        said = f"weights.run is {weights.run!r}, expected the id of a record"
        yield line.finding("weights", "wrong", said)
        return
    told = (network, weights.dataset, weights.width)
    recorded = (record.spec.network, record.spec.dataset, record.spec.width)
    yield line.compare("weights", "network, data set and width", told, recorded)
    spec = record.spec
    told = (
        weights.trained or spec.trained(record.epochs),  # missing in older lines
        weights.beginning,
    )
    recorded = (spec.trained(record.epochs), spec.beginning() or None)
    yield line.compare("weights", "training and beginning", told, recorded)
    if weights.sha256 in known.weights:
        yield line.finding("weights", "right")
    else:
        yield line.finding("weights", "not checked", "the weights' file is not here")


# ------------------------------------------------------------------------------ weights


def check_weights(paths: list[Path], known: Known) -> Iterator[Finding]:
    """Check that shipped weights are complete and are, or derive from, a run's weights."""
    for path in paths:

        def said(found: str, path=path) -> Finding:
            state = "wrong" if found else "right"
            return Finding(str(path), None, "weights", state, found)

        try:
            _, facts = read_pair(path)
        except WeightsError as error:
            yield said(f"found {error}, expected complete weights")
            continue
        record = known.runs.get(facts.get("run", ""))
        if record is None:
            yield said(f"its run is {facts.get('run')!r}, expected the id of a record")
            continue
        told = tuple(facts.get(name) for name in ("network", "dataset", "width"))
        recorded = (record.spec.network, record.spec.dataset, record.spec.width)
        # Weights in half precision also name the checksum of the original ones.
        origin = facts.get("exported_from", facts["sha256"])
        if told != recorded:
            yield said(f"network, data set and width are {told}, expected {recorded}")
        elif origin != record.weights_sha256:
            yield said(
                f"it comes from weights {origin!r}, expected those of the run "
                f"{record.id}, {record.weights_sha256!r}"
            )
        else:
            yield said("")
