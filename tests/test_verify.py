"""`records verify`: the book's own files are right, and each kind of damage is found.

Damage is made in copies of the shipped files, one kind at a time; the data sets that are
read are the embedded one and one that is made here.
"""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lpa_core.__main__ import main
from lpa_core.data import SOURCES, fingerprint, load
from lpa_core.provenance import read_lines, seal
from lpa_core.results.verify import Files, Finding, summary, verify, wrong
from lpa_core.tasks.measurement import Measurement
from lpa_core.training import Record
from lpa_core.training.checkpoint import write_facts

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "weights"
SMALL = "vgg_embedded_w0.125"


@pytest.fixture
def files(tmp_path) -> Files:
    """Copies of the shipped files, in a folder that is no repository and has no data."""
    for name in ("records.jsonl", "measurements.jsonl"):
        shutil.copy(ROOT / "results" / name, tmp_path / name)
    weights = tmp_path / "weights"
    weights.mkdir()
    for kind in ("safetensors", "json"):
        shutil.copy(SHIPPED / f"{SMALL}.{kind}", weights)
    return Files(
        records=tmp_path / "records.jsonl",
        measurements=tmp_path / "measurements.jsonl",
        weights=weights,
        data=tmp_path / "data",
        read_data=True,
    )


def sealed(line: dict) -> str:
    """A line of a file, with a digest that fits it."""
    return seal(json.dumps({k: v for k, v in line.items() if k != "digest"}))


def edit(path: Path, number: int, **changes) -> None:
    """Change fields of a line and seal it again; a name with `__` leads inside."""
    lines = path.read_text().splitlines()
    line = json.loads(lines[number - 1])
    for name, value in changes.items():
        *way, last = name.split("__")
        place = line
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        place[int(last) if isinstance(place, list) else last] = value
    lines[number - 1] = sealed(line)
    path.write_text("\n".join(lines) + "\n")


def found(files: Files) -> list[tuple[str, int | None, str]]:
    return [(Path(f.file).name, f.line, f.check) for f in wrong(verify(files))]


def said(files: Files) -> str:
    return "\n".join(map(str, wrong(verify(files))))


def number_of(path: Path, wanted) -> int:
    """The first line that is as `wanted` says."""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if wanted(json.loads(line)):
            return number
    raise AssertionError("no such line")


def embedded_record(files: Files) -> int:
    return number_of(files.records, lambda line: line["spec"]["dataset"] == "embedded")


# ------------------------------------------------------------------------------ all right


def test_what_ships_is_right():
    """The book's own files, commits and all; prepared data where they are here."""
    findings = verify(
        Files(
            records=ROOT / "results" / "records.jsonl",
            measurements=ROOT / "results" / "measurements.jsonl",
            weights=SHIPPED,
        )
    )
    assert [str(fault) for fault in wrong(findings)] == []
    lines = (ROOT / "results" / "records.jsonl").read_text().splitlines()
    schema = [f for f in findings if f.check == "schema" and "records" in f.file]
    assert len(schema) == len(lines)
    whole = [f for f in findings if f.check == "weights" and f.line is None]
    assert len(whole) == len(list(SHIPPED.glob("*.safetensors")))


def test_what_cannot_be_looked_at_is_not_called_right(files):
    findings = verify(files)
    assert wrong(findings) == []
    commits = {f.state for f in findings if f.check == "commit"}
    assert commits == {"not checked"}  # no repository holds these copies
    masks = [f for f in findings if f.check == "data" and f.said == "coseg: not here"]
    assert masks and {f.state for f in masks} == {"not checked"}
    # The published CIFAR-10's fingerprints are known without the images.
    number = number_of(files.records, lambda line: line["spec"]["dataset"] == "cifar10")
    states = [
        f.state
        for f in findings
        if f.check == "data" and f.line == number and "records" in f.file
    ]
    assert states == ["right"] * 3
    table = summary(findings).set_index(["file", "check"])
    assert table.loc[("records.jsonl", "commit"), "right"] == 0
    reason = table.loc[("records.jsonl", "commit"), "why not"]
    assert reason == "no git repository here"


# --------------------------------------------------------------------------- whole lines


def renamed(line: dict) -> dict:
    return {"treads" if name == "threads" else name: v for name, v in line.items()}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line[: len(line) // 2],
        lambda line: b"\xff" + line,
        lambda line: b"[]",
        lambda line: line.replace(b'"threads"', b'"treads"'),
        lambda line: sealed(renamed(json.loads(line))).encode(),
        lambda line: line.replace(b'"seconds": ', b'"seconds": "12", "x": '),
    ],
    ids=["torn", "bytes", "list", "changed", "renamed", "text"],
)
@pytest.mark.parametrize("name", ["records", "measurements"])
def test_a_damaged_line_is_named_with_its_number(files, name, spoil):
    path = getattr(files, name)
    lines = path.read_bytes().splitlines()
    lines[-1] = spoil(lines[-1])
    path.write_bytes(b"\n".join(lines) + b"\n")
    faults = [f for f in wrong(verify(files)) if f.check == "schema"]
    assert [(f.file, f.line) for f in faults] == [(str(path), len(lines))]
    place = f"{path}, line {len(lines)}: schema: "
    assert str(faults[0]).startswith(f"{place}not a {name[:-1]}")


@pytest.mark.parametrize("name", ["records", "measurements"])
def test_any_changed_character_is_noticed(files, name):
    """Bytes drawn at random: digits, letters, quotes, spaces, the digests, line ends."""
    path = getattr(files, name)
    content = path.read_bytes()
    model = {"records": Record, "measurements": Measurement}[name]
    whole = len(list(read_lines(path, model)))
    random = np.random.default_rng(0)
    digits = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
    places = [*random.choice(digits, 100), *random.integers(0, len(content), 50)]
    kept = path.with_name("one.jsonl")
    for place in places:
        byte = content[place]
        other = 48 + (byte - 47) % 10 if 48 <= byte <= 57 else byte ^ 1
        start = content.rfind(b"\n", 0, place) + 1
        both = content[start:].split(b"\n")[:2]  # the next line too, for a line's end
        line = bytearray(b"\n".join(both) + b"\n")
        before = sum(1 for text in bytes(line).splitlines() if text.strip())
        line[place - start] = other
        kept.write_bytes(line)
        right = [one for one in read_lines(kept, model) if one.model is not None]
        assert len(right) < before, (place, content[place - 20 : place + 20])
    # And what reading notices, the command says.
    changed = bytearray(content)
    place = int(places[0])
    changed[place] = 48 + (content[place] - 47) % 10
    path.write_bytes(changed)
    kept.unlink()
    faults = [f for f in wrong(verify(files)) if f.check == "schema"]
    number = content[:place].count(b"\n") + 1
    assert [(f.file, f.line) for f in faults] == [(str(path), number)]
    assert number <= whole


def test_every_file_of_lines_beside_the_records_is_opened(files):
    other = files.records.with_name("throughput.jsonl")
    other.write_text(sealed({"images_per_second": 10.0}) + "\n")
    assert found(files) == []
    other.write_text(other.read_text().replace("10.0", "11.0"))
    assert found(files) == [("throughput.jsonl", 1, "schema")]
    other.write_text('{"images_per_second": 10.0}\n')
    assert f"`python -m lpa_core records seal {other}` adds one" in said(files)


def test_a_number_written_as_text_is_damage(files):
    number = embedded_record(files)
    edit(files.records, number, parameters="1234")
    assert ("records.jsonl", number, "schema") in found(files)
    assert "parameters: Input should be a valid integer (got '1234')" in said(files)


# -------------------------------------------------------------------------------- records


def test_a_run_that_stands_twice_is_found(files):
    lines = files.records.read_text().splitlines()
    changed = json.loads(lines[2]) | {"started": "2030-01-01T00:00:00Z"}
    files.records.write_text("\n".join([*lines, sealed(changed)]) + "\n")
    assert found(files) == [("records.jsonl", len(lines) + 1, "once")]
    assert "is in line 3 already" in said(files)


def test_the_same_run_on_another_device_is_a_run_of_its_own(files):
    lines = files.records.read_text().splitlines()
    again = json.loads(lines[2]) | {"device": "another", "started": "2030-01-01T00:00:00Z"}
    files.records.write_text("\n".join([*lines, sealed(again)]) + "\n")
    assert found(files) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"spec__seed": 7},
        {"spec__width": 0.5},
        {"id": "0123456789abcdef"},
        {"code": "0123456789abcdef"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_changed_spec_or_id_does_not_fit_the_other(files, changes):
    """Records of other code are held against a neighbour of the same code."""
    number = embedded_record(files)
    edit(files.records, number, **changes)
    faults = found(files)
    if "code" in changes:  # no neighbour tells what that code's recipe was
        assert ("records.jsonl", number, "id") not in faults
    else:
        assert ("records.jsonl", number, "id") in faults


def test_an_id_of_todays_training_is_recomputed(files):
    number = embedded_record(files)
    edit(files.records, number, code=None)
    fault = next(f for f in wrong(verify(files)) if f.check == "id")
    assert fault.line == number
    assert fault.said.startswith("id is '")
    assert "expected '" in fault.said


@pytest.mark.parametrize(
    ("changes", "check", "what"),
    [
        ({"metrics__test_error": 101.0}, "numbers", "is 101, expected 0 to 100"),
        ({"metrics__test_error": 1.0}, "history", "metrics.test_error is 1.0, expected "),
        ({"metrics__train_loss": float("nan")}, "numbers", "is nan, expected a finite"),
        ({"seconds": -1.0}, "numbers", "seconds is -1, expected at least 0"),
        ({"threads": 0}, "numbers", "threads is 0, expected at least 1"),
        ({"images_per_second": 0.0}, "numbers", "images_per_second is 0, expected at"),
        ({"history__2__rate": float("inf")}, "numbers", "history.2.rate is inf"),
        ({"history__2__epoch": 9}, "history", "the history's epochs is [1, 2, 9, 4"),
        ({"epochs": 9}, "history", "epochs is 9, expected 10"),
        ({"seconds": 0.5}, "history", "seconds is 0.5, expected at least the epochs'"),
        ({"seconds_to_errors": {"50": 1.0}}, "history", "seconds_to_errors is {'50': 1.0}"),
        ({"images_per_second": 77.7}, "history", "images_per_second is 77.7, which gives"),
        ({"parameters": 1234}, "parameters", "parameters is 1234, expected "),
        ({"fingerprints__test": "0" * 64}, "data", "embedded test is '000"),
        ({"fingerprints": {}}, "data", "fingerprints of is set(), expected "),
    ],
)
def test_a_wrong_number_or_fingerprint_is_named(files, changes, check, what):
    number = embedded_record(files)
    edit(files.records, number, **changes)
    faults = [f for f in wrong(verify(files)) if f.check == check]
    assert {(Path(f.file).name, f.line) for f in faults} == {("records.jsonl", number)}
    assert any(what in f.said for f in faults), [f.said for f in faults]


def test_a_published_sets_fingerprint_is_held_against_the_pinned_one(files):
    number = number_of(files.records, lambda line: line["spec"]["dataset"] == "cifar10")
    edit(files.records, number, fingerprints__train="1" * 64)
    assert ("records.jsonl", number, "data") in found(files)


def test_weights_of_another_spec_are_found(files):
    lines = [json.loads(line) for line in files.records.read_text().splitlines()]
    edit(files.records, 2, weights_sha256=lines[0]["weights_sha256"])
    assert ("records.jsonl", 2, "once") in found(files)
    assert "its weights are those of line 1" in said(files)


def test_commits_are_looked_up_in_the_repository(files):
    """A repository of one commit: records of others are not of it."""
    folder = files.records.parent
    mail = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], [*mail, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", "-C", folder, *words], check=True)
    head = subprocess.run(
        ["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    edit(files.records, 1, git__commit=head)
    edit(files.records, 2, git__commit=head, git__clean=False)
    states = {
        f.line: f.state
        for f in verify(files)
        if f.check == "commit" and f.file == str(files.records)
    }
    assert states[1] == "right"
    assert states[2] == "not checked"
    assert set(list(states.values())[2:]) == {"wrong"}


# --------------------------------------------------------------------------- measurements


@pytest.mark.parametrize(
    ("changes", "check", "what"),
    [
        ({"weights__run": "0123456789abcdef"}, "weights", "expected the id of a record"),
        ({"weights__run": None}, "weights", "weights.run is None, expected the id"),
        ({"network": "vgg"}, "weights", "network, data set and width is ('vgg', "),
        ({"weights__width": 1.0}, "weights", "network, data set and width is ("),
        ({"metrics__attention__layer10__entropy": 1.5}, "numbers", "is 1.5, expected 0 to"),
        ({"task": "lock"}, "task", "task is 'lock', expected one of attack, "),
        ({"settings": {"colour": 1}}, "task", "colour: Extra inputs are not permitted"),
        ({"metrics": {"a": 1.0}}, "task", "a: "),
        (
            {"weights__trained": "paper, 300 epochs"},
            "weights",
            "training and beginning is ('paper, 300 epochs', None)",
        ),
        ({"weights__beginning": "scripts"}, "weights", "('fast, 10 epochs', 'scripts')"),
        ({"data__split": "half"}, "data", "no such split, expected one of all"),
        ({"data__name": "cosek"}, "data", "cosek"),
    ],
)
def test_a_wrong_measurement_is_named(files, changes, check, what):
    number = number_of(files.measurements, lambda line: line["task"] == "look")
    edit(files.measurements, number, **changes)
    faults = [f for f in wrong(verify(files)) if f.check == check]
    assert [(Path(f.file).name, f.line) for f in faults] == [("measurements.jsonl", number)]
    assert what in faults[0].said


def test_a_line_that_stands_twice_is_found_and_a_later_one_is_not(files):
    lines = files.measurements.read_text().splitlines()
    later = json.loads(lines[0]) | {"started": "2030-01-01T00:00:00Z"}
    text = "\n".join([*lines, lines[0], sealed(later)]) + "\n"
    files.measurements.write_text(text)
    assert found(files) == [("measurements.jsonl", len(lines) + 1, "once")]


def test_prepared_data_are_read_where_they_are(files, monkeypatch):
    """Noise in the place of a set, which then is not held against the published one."""
    anything = replace(SOURCES["caltech101"], fingerprints=None)
    monkeypatch.setitem(SOURCES, "caltech101", anything)
    number = number_of(files.measurements, lambda m: m["data"]["name"] == "caltech101")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8677, 2, 2, 3), dtype=np.uint8)
    labels = np.arange(8677) % 101
    files.data.mkdir()
    classes = np.array([f"c{n}" for n in range(101)])
    np.savez(files.data / "caltech101.npz", x_all=images, y_all=labels, classes=classes)
    mine = load("caltech101", "all", files.data)
    assert ("measurements.jsonl", number, "data") in found(files)
    edit(files.measurements, number, data__fingerprint=mine.fingerprint)
    assert ("measurements.jsonl", number, "data") not in found(files)
    part = mine.images[::8677], mine.labels[::8677]
    edit(files.measurements, number, data__images=1, data__fingerprint=fingerprint(*part))
    assert ("measurements.jsonl", number, "data") not in found(files)
    unread = Files(files.records, files.measurements, files.weights, files.data, False)
    assert wrong(verify(unread)) == []


# -------------------------------------------------------------------------------- weights


def facts(files: Files, **changes) -> None:
    path = files.weights / f"{SMALL}.json"
    kept = json.loads(path.read_text()) | changes
    del kept["facts_sha256"]
    write_facts(path.with_suffix(".safetensors"), kept)  # its digest fits


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"run": "0123456789abcdef"}, "its run is '0123456789abcdef', expected the id"),
        ({"width": 0.25}, "network, data set and width are ('vgg', 'embedded', 0.25)"),
        ({"exported_from": "0" * 64}, "it comes from weights '000"),
        ({"sha256": "0" * 64}, "expected complete weights"),
    ],
)
def test_weights_of_something_else_are_named(files, changes, what):
    facts(files, **changes)
    (fault,) = wrong(verify(files))
    assert fault.file == str(files.weights / f"{SMALL}.safetensors")
    assert what in fault.said


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_half_a_pair_is_found(files, kind):
    (files.weights / f"{SMALL}.{kind}").unlink()
    assert [f.check for f in wrong(verify(files))] == ["weights"]


def test_one_changed_byte_of_the_weights_is_found(files):
    path = files.weights / f"{SMALL}.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (fault,) = wrong(verify(files))
    assert "incomplete or altered" in fault.said


# ------------------------------------------------------------------------------- command


def words(files: Files) -> list[str]:
    return [
        *("records", "verify", "--records", str(files.records)),
        *("--measurements", str(files.measurements), "--weights", str(files.weights)),
        *("--data", str(files.data)),
    ]


def test_the_command_says_a_table_and_each_fault(files, capsys):
    assert main(words(files)) == 0
    out = capsys.readouterr().out
    assert " check " in out
    assert out.endswith(", 0 wrong\n")
    number = embedded_record(files)
    edit(files.records, number, threads=0)
    assert main(words(files)) == 1
    out = capsys.readouterr().out
    fault = "numbers: threads is 0, expected at least 1"
    assert f"{files.records}, line {number}: {fault}\n" in out
    assert out.endswith(", 1 wrong\n")


def test_no_records_at_all_is_said_in_one_line(files, capsys):
    files.records.unlink()
    assert main(words(files)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "records.jsonl" in error


def test_a_finding_names_its_place():
    finding = Finding("a.jsonl", 3, "numbers", "wrong", "x is 1, expected 2")
    assert str(finding) == "a.jsonl, line 3: numbers: x is 1, expected 2"
