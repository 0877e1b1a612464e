"""The paper's tables beside what was measured here, from records alone."""

from collections import Counter
from statistics import mean, stdev

import pandas as pd

from lpa_core.results.paper import Table, table1, table2
from lpa_core.training import Record, RunSpec

__all__ = ["NOT_RUN", "repetitions", "summarise", "table1_beside", "table2_beside"]

NOT_RUN = "not run"


def summarise(records: list[Record]) -> pd.DataFrame:
    """One row for each network, data set, width, recipe and number of epochs.

    Columns: network, dataset, width, recipe, epochs, profile, n (runs), test_error (mean,
    in per cent), std (nan below two runs), device (each that trained, with its runs where
    there are several), minutes and images_per_second (means over the runs of the device
    that is named first, the one with most runs), parameters. The recipe is named with
    whatever else differed from it.
    """
    rows = []
    for key, runs in repetitions(records).items():
        network, dataset, width, recipe, epochs, profile = key
        errors = [run.metrics["test_error"] for run in runs]
        devices = Counter(run.device for run in runs).most_common()
        timed = [run for run in runs if run.device == devices[0][0]]
        rows.append(
            {
                "network": network,
                "dataset": dataset,
                "width": width,
                "recipe": recipe,
                "epochs": epochs,
                "profile": profile,
                "n": len(runs),
                "test_error": mean(errors),
                "std": stdev(errors) if len(errors) > 1 else float("nan"),
                "minutes": mean(run.seconds for run in timed) / 60,
                "images_per_second": mean(run.images_per_second for run in timed),
                "parameters": runs[0].parameters,
                "device": named(devices),
            }
        )
    columns = (
        "network dataset width recipe epochs profile n test_error std minutes "
        "images_per_second parameters device"
    )
    return pd.DataFrame(rows, columns=columns.split())


def named(devices: list[tuple[str, int]]) -> str:
    if len(devices) == 1:
        return devices[0][0]
    return ", ".join(f"{device} ({runs})" for device, runs in devices)


def repetitions(records: list[Record]) -> dict[tuple, list[Record]]:
    """Runs that differ in their seed alone, by network, data set, width, recipe, epochs
    and profile. Runs on a part of a set are not to be compared, and left out. Of a seed
    that was trained again, on whatever device, the newest run counts."""
    groups: dict[tuple, dict[int, Record]] = {}
    for record in sorted(records, key=lambda record: record.started):
        spec = record.spec
        if spec.train_images is not None:
            continue
        key = (spec.network, spec.dataset, spec.width, manner(spec), record.epochs)
        groups.setdefault((*key, record.profile), {})[spec.seed] = record
    return {key: list(runs.values()) for key, runs in groups.items()}


def manner(spec: RunSpec) -> str:
    """How a run was trained: its recipe, and what a run may do besides."""
    besides = {
        "other weights to start from": spec.initial is not None,
        "added log-probabilities": spec.add_log_probabilities,
        "averaged gradients": spec.average_gradients,
    }
    return ", ".join([spec.recipe, *(name for name, done in besides.items() if done)])


def table1_beside(records: list[Record], dataset: str = "cifar10") -> pd.DataFrame:
    """Table 1 of the paper, every row, with what was measured beside it.

    Columns: network, paper, measured, difference (measured mean minus the paper's, in
    points), n, profile, width, recipe, epochs. Rows without a run say "not run". Where
    a network was run at several widths or by several recipes, each has a row.

    Raises:
        ValueError: Table 1 has no such data set.
    """
    return beside("Table 1", table1(), records, dataset)


def table2_beside(records: list[Record], dataset: str = "cub200") -> pd.DataFrame:
    """Table 2 in the same way; its rn34 is quoted by the paper and is not run here.

    Raises:
        ValueError: Table 2 has no such data set.
    """
    return beside("Table 2", table2(), records, dataset)


def beside(name: str, table: Table, records: list[Record], dataset: str) -> pd.DataFrame:
    ours = summarise(records)
    rows = []
    for network, columns in table.items():
        if dataset not in columns:
            raise ValueError(
                f"{name} has no data set {dataset!r}: choose one of {', '.join(columns)}"
            )
        figure = columns[dataset]
        paper = "not reported" if figure is None else str(figure)
        found = ours[(ours.network == network) & (ours.dataset == dataset)]
        if found.empty:
            rows.append((network, paper, NOT_RUN, "", 0, "", "", "", ""))
        for run in found.itertuples():
            spread = f" ± {run.std:.2f}" if run.n > 1 else ""
            difference = "" if figure is None else f"{run.test_error - figure.mean:+.2f}"
            rows.append(
                (
                    network,
                    paper,
                    f"{run.test_error:.2f}{spread}",
                    difference,
                    run.n,
                    run.profile,
                    f"{run.width:g}",
                    run.recipe,
                    run.epochs,
                )
            )
    names = "network paper measured difference n profile width recipe epochs"
    return pd.DataFrame(rows, columns=names.split())
