"""Whether code that changed still trains the same: shown on small runs, and kept.

A run's identity holds a hash of the code that trained it. An edit that changes nothing in
the arithmetic changes that hash all the same. `show_same` lets the old commit and the code
as it is now train a small copy of each recorded run, and compares the weights bit by bit;
`same_as` then tells which old code counts as today's.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm.auto import tqdm

from lpa_core.provenance import append_line, choose_device, device_name, now, versions
from lpa_core.training import Record, RunSpec, explain
from lpa_core.training.checkpoint import read_pair

__all__ = ["Comparison", "read_comparisons", "same_as", "show_same"]


def code_hash() -> str:
    """Code has no hash any more; this module goes."""
    return ""


EPOCHS, IMAGES = 2, 512
Manner = tuple[str, str, str, bool, bool, bool]


class Comparison(BaseModel):
    """One small run, trained by both codes.

    Attributes:
        was, now: hashes of the codes. commit: that has the old one.
        spec: what both trained.
        same: whether the final weights are the same, bit for bit.
        device, versions, made: where and when it was seen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    was: str
    now: str
    commit: str
    spec: RunSpec
    same: bool
    device: str
    versions: dict[str, str]
    made: datetime


def manner(spec: RunSpec) -> Manner:
    """What a small run shares with the run that it stands for."""
    options = (spec.add_log_probabilities, spec.average_gradients)
    return (spec.network, spec.dataset, spec.recipe, spec.initial is not None, *options)


def read_comparisons(path: Path) -> list[Comparison]:
    """The comparisons in a file; none where there is no file.

    Raises:
        ValueError: a line is none.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found.append(Comparison.model_validate_json(line))
        except ValidationError as error:
            raise ValueError(f"{path}, line {number}: {explain(error)[:300]}") from error
    return found


def same_as(
    comparisons: Iterable[Comparison], spec: RunSpec, code: str | None = None
) -> set[str]:
    """Hashes of all code that was seen to train such a run as `code` does (None: today's).

    What was seen of one network on one data set says nothing of another.
    """
    like = [c for c in comparisons if c.same and manner(c.spec) == manner(spec)]
    found = {code or code_hash()}
    for _ in like:  # so long can a chain be
        for comparison in like:
            pair = {comparison.was, comparison.now}
            found |= pair if pair & found else set()
    return found


def small(spec: RunSpec) -> RunSpec:
    """A run like it that takes seconds."""
    epochs = min(EPOCHS, spec.chosen_epochs())
    images = min(IMAGES, spec.train_images or IMAGES)
    return spec.model_copy(update={"epochs": epochs, "train_images": images, "seed": 0})


def show_same(
    records: Iterable[Record],
    path: Path,
    repository: Path,
    data: Path | None = None,
    progress: bool = True,
) -> list[Comparison]:
    """Compare every code that made these records with today's, and keep what was seen.

    Args:
        records: whose code is in question. Those of today's code, or of code that is
            known to be the same, are passed over.
        path: file of comparisons, added to.
        repository: with the old commits in its history. Weights that a run started from
            are looked for in it.
        data: folder of the prepared data sets.

    Raises:
        ValueError: a record names no commit, or the repository does not have it.
        RuntimeError: one of the codes does not train.
    """
    known = read_comparisons(path)
    wanted: dict[tuple[str, Manner], Record] = {}
    for record in records:
        if record.code not in same_as(known, record.spec):
            wanted.setdefault((record.code or "", manner(record.spec)), record)
    found = []
    for record in tqdm(wanted.values(), desc="comparing", unit="run", disable=not progress):
        if record.code in same_as([*known, *found], record.spec):
            continue  # by way of another code that was just compared
        spec = small(record.spec)
        with checked_out(record.git.commit, repository) as old:
            before, code = trained(old, spec, repository, data)
        if code != record.code:
            raise ValueError(
                f"the code of commit {record.git.commit} is {code}, the record of "
                f"{record.spec.label()} says {record.code}: it was not trained by it"
            )
        after, code = trained(Path(__file__).parents[2], spec, repository, data)
        comparison = Comparison(
            was=record.code,
            now=code,
            commit=record.git.commit,
            spec=spec,
            same=before.keys() == after.keys()
            and all(torch.equal(before[name], after[name]) for name in before),
            device=device_name(choose_device("cpu")),
            versions=versions(),
            made=now(),
        )
        append_line(json.dumps(comparison.model_dump(mode="json")), path)
        found.append(comparison)
    return found


@contextmanager
def checked_out(commit: str | None, repository: Path) -> Iterator[Path]:
    """A folder with the files of a commit, for a while."""
    if commit is None:
        raise ValueError("a record says of no commit what trained it: compare by hand")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "then"
        git = ["git", "-C", str(repository), "worktree"]
        add = [*git, "add", "--quiet", "--detach", str(place), commit]
        done = subprocess.run(add, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"no commit {commit} in {repository}: {done.stderr.strip()}")
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def trained(
    source: Path, spec: RunSpec, repository: Path, data: Path | None
) -> tuple[dict[str, torch.Tensor], str]:
    """The final weights that the code at `source` comes to on the CPU, and its hash."""
    with tempfile.TemporaryDirectory() as name:
        if spec.initial is not None:
            place = str((repository / spec.initial).resolve())
            spec = spec.model_copy(update={"initial": place})
        words = ["train", *words_of(spec), "--device", "cpu"]
        words += ["--runs", name, "--records", f"{name}/records.jsonl"]
        words += ["--data", str(data.resolve())] if data else []
        done = subprocess.run(
            [sys.executable, "-m", "lpa_core", *words],
            cwd=source,
            env=os.environ | {"PYTHONPATH": str(source.resolve())},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{source}, {spec.label()}: {done.stderr.strip()[-500:]}")
        (file,) = Path(name).glob("*/weights.safetensors")
        tensors, _ = read_pair(file)
        record = json.loads((file.parent / "record.json").read_text(encoding="utf-8"))
    weights = {k: t for k, t in tensors.items() if k.startswith("network.")}
    return weights, ""


def words_of(spec: RunSpec) -> list[str]:
    """The options of `train` for a run: those that are not the default."""
    words = []
    for name, value in spec.model_dump(exclude_defaults=True).items():
        option = f"--{name.replace('_', '-')}"
        words += [option] if value is True else [option, str(value)]
    return words
