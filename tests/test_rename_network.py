"""Renaming a network in results: only its own lines, sealed again, and its weights."""

import json
from pathlib import Path

import torch
from rename_network import rename

from lpa_core.provenance import read_lines, seal, unseal
from lpa_core.results import read_measurements, read_records
from lpa_core.training import Record
from lpa_core.training.checkpoint import read_pair, write_pair

OLD, NEW = "vgg-gap-coarse", "vgg-hires"


def test_a_network_is_renamed_and_nothing_else(tmp_path):
    """The book's own results, of which one network gets another name."""
    shipped = Path(__file__).parents[1] / "results"
    (tmp_path / "results").mkdir()
    (tmp_path / "weights").mkdir()
    lines = {}
    for name in ("records", "measurements"):
        lines[name] = (shipped / f"{name}.jsonl").read_text().splitlines()
    newer = next(unseal(line) for line in lines["records"] if OLD in line)
    newer |= {
        "id": "newer",
        "training_version": 2,
    }  # of code in which the name is another's
    lines["records"].append(seal(json.dumps(newer)))
    for name, text in lines.items():
        (tmp_path / "results" / f"{name}.jsonl").write_text("\n".join(text) + "\n")
    run = next(r.id for r in read_records() if r.spec.network == OLD)
    for name, of in ((OLD, run), (f"{OLD}-b", "another run")):
        path = tmp_path / "weights" / f"{name}_x.safetensors"
        write_pair(path, {"a": torch.ones(2)}, {"network": name, "run": of})

    said = rename(tmp_path, OLD, NEW, before=2)

    count = sum(r.spec.network == OLD for r in read_records())
    measured = sum(m.network == OLD for m in read_measurements())
    assert count and measured and said.startswith(f"{count} records, ")
    after = tmp_path / "results" / "records.jsonl"
    for before, line in zip(lines["records"], read_lines(after, Record), strict=True):
        was = unseal(before)
        if OLD in before and was["id"] != "newer":
            assert line.fields.pop("formerly") == OLD
            assert line.fields["spec"].pop("network") == NEW
            was["spec"].pop("network")
            was.pop("formerly", None)
        assert line.fields == was
    (path,) = (tmp_path / "weights").glob(f"{NEW}*.safetensors")
    assert read_pair(path)[1].items() >= {"network": NEW, "formerly": OLD}.items()
    assert (tmp_path / "weights" / f"{OLD}-b_x.safetensors").exists()
