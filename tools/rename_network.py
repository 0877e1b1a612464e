"""Rename a network in the results, if its old name now means another network.

    python tools/rename_network.py vgg-gap vgg-gap-coarse --before 2

Records trained before that training version, the measurements of their weights, and the
shipped weights get the new name and keep the old one as `formerly`. Numbers, ids and dates
do not change; each changed line is sealed again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from lpa_core.provenance import seal, unseal, write_whole
from lpa_core.training.checkpoint import facts_path, read_pair, write_facts

ROOT = Path(__file__).parents[1]


def rename_lines(path: Path, chosen, new: str) -> int:
    """Rename the network in the lines that `chosen` selects; returns their number."""
    lines, renamed = path.read_bytes().splitlines(), 0
    for place, line in enumerate(lines):
        if line.strip() and chosen(fields := unseal(line.decode())):
            holder = fields.get("spec", fields)
            fields["formerly"], holder["network"] = holder["network"], new
            lines[place] = seal(json.dumps(fields)).encode()
            renamed += 1
    write_whole(path, b"".join(line + b"\n" for line in lines))
    return renamed


def rename_weights(folder: Path, runs: set[str], old: str, new: str) -> int:
    """Rename shipped weights of these runs: their files and their facts."""
    renamed = 0
    for path in sorted(folder.glob(f"{old}_*.safetensors")):
        _, facts = read_pair(path)
        if facts["run"] not in runs:
            continue
        target = path.with_name(path.name.replace(old, new, 1))
        path.rename(target)
        facts_path(path).unlink()
        write_facts(target, facts | {"network": new, "formerly": old})
        renamed += 1
    return renamed


def rename(root: Path, old: str, new: str, before: int) -> str:
    """Rename the network in a repository; returns a sentence on what was done."""
    records, runs = root / "results" / "records.jsonl", set()

    def of_old_code(fields: dict[str, Any]) -> bool:
        found = fields["spec"]["network"] == old
        found = found and fields.get("training_version", 1) < before
        runs.update([fields["id"]] if found else [])
        return found

    def of_those_runs(fields: dict[str, Any]) -> bool:
        return (fields["weights"] or {}).get("run") in runs

    counts = (
        rename_lines(records, of_old_code, new),
        rename_lines(records.with_name("measurements.jsonl"), of_those_runs, new),
        rename_weights(root / "weights", runs, old, new),
    )
    return "{} records, {} measurements and {} weights renamed".format(*counts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("old", help="the name in the results")
    parser.add_argument("new", help="the new name")
    parser.add_argument("--before", type=int, required=True, help="training version")
    given = parser.parse_args()
    print(rename(ROOT, given.old, given.new, given.before))
