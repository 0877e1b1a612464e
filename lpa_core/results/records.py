"""Reading the records of finished runs, and the weights that ship with the book."""

import json
import warnings
from pathlib import Path

from pydantic import ValidationError

from lpa_core.provenance import unseal
from lpa_core.training import Record, Trained, explain, load_trained

__all__ = ["DamagedRecord", "read_records", "shipped", "shipped_network"]


class DamagedRecord(UserWarning):
    """A line of a records file could not be read; it was left out."""


def shipped(folder: str) -> Path:
    """`results` or `weights`, of the repository or as installed with lpa_core."""
    package = Path(__file__).parents[1]
    places = [package.parent / folder, package / "_shipped" / folder]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"no {folder} folder at {' or '.join(map(str, places))}")


def reason(error: ValueError) -> str:
    return explain(error) if isinstance(error, ValidationError) else str(error)


def read_records(path: str | Path | None = None) -> list[Record]:
    """The records of a file; None takes those that ship with the book.

    A damaged line is reported with its number, as a `DamagedRecord` warning, and left
    out. A run that was recorded twice counts once.
    """
    path = Path(path) if path else shipped("results") / "records.jsonl"
    records: dict[tuple, Record] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = Record.model_validate_json(json.dumps(unseal(line.decode())))
        except (ValidationError, ValueError) as error:
            warnings.warn(
                f"{path}, line {number}: {reason(error)[:300]}",
                DamagedRecord,
                stacklevel=2,
            )
            continue
        records[record.id, record.started, record.device] = record
    return list(records.values())


def shipped_network(network: str, dataset: str = "cifar10") -> Trained:
    """A trained network that ships with the book.

    Raises:
        ValueError: none of that name ships; the message lists those that do.
    """
    found = {}
    for path in sorted(shipped("weights").glob("*.safetensors")):
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        found[facts["network"], facts["dataset"]] = path
    if (network, dataset) not in found:
        listed = ", ".join(f"{n} on {d}" for n, d in found) or "none"
        raise ValueError(
            f"no weights of {network} on {dataset} ship with the book; there are: {listed}"
        )
    return load_trained(found[network, dataset])
