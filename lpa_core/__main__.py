"""The command line: `python -m lpa_core train …`, what the training chapter does.

`attack`, `transfer`, `segment`, `query` and `look` put trained networks to the paper's
tasks.
"""

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from lpa_core.data import DataError, list_datasets
from lpa_core.networks import list_networks
from lpa_core.training import (
    RECIPES,
    RecordError,
    RunSpec,
    WeightsError,
    explain,
    export_weights,
    run,
)
from lpa_core.training.checkpoint import copy_pair, read_pair
from lpa_core.training.distributed import reports

TASKS = ("attack", "transfer", "segment", "query", "look")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m lpa_core", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train",
        help="train a network; started again after a kill, it goes on where it was",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    defaults = RunSpec()
    train.add_argument(
        "--network", default=defaults.network, help=", ".join(list_networks())
    )
    train.add_argument(
        "--dataset", default=defaults.dataset, help=", ".join(list_datasets())
    )
    train.add_argument("--recipe", default=defaults.recipe, help=", ".join(RECIPES))
    train.add_argument("--width", type=float, default=defaults.width, help="1 = paper's")
    train.add_argument("--seed", type=int, default=defaults.seed)
    train.add_argument("--epochs", type=int, help="in place of the recipe's")
    train.add_argument("--train-images", type=int, help="train on so many images only")
    train.add_argument("--precision", default=defaults.precision)
    train.add_argument("--initial", help="weights to start from, all but the classifier")
    train.add_argument(
        "--add-log-probabilities",
        action="store_true",
        help="indep networks: add log-probabilities, as the authors' scripts do",
    )
    train.add_argument(
        "--average-gradients",
        action="store_true",
        help="average gradients where branches meet, as the authors' scripts do",
    )
    train.add_argument("--profile", default="laptop", help="smoke, laptop or paper")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    train.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the training step; None: on a GPU, in one process",
    )
    train.add_argument("--data", help="folder of the prepared data sets")
    train.add_argument("--runs", default="runs", help="folder of checkpoints and weights")
    train.add_argument(
        "--records", default="results/records.jsonl", help="file to append the record to"
    )
    train.add_argument("--weights", help="file to copy the final weights to")
    export = commands.add_parser(
        "export", help="weights in half precision, to ship: of several runs, the best"
    )
    export.add_argument("sources", nargs="+", metavar="source", help="a run's weights")
    export.add_argument("target", help="where to, ending in .safetensors")
    export.add_argument(
        "--records", default="results/records.jsonl", help="where the runs' errors stand"
    )
    add_plan(commands)
    readme = commands.add_parser(
        "readme", help="write the README's chapters and results, and the opening page's"
    )
    readme.add_argument("--root", default=".", help="the repository's folder")
    readme.add_argument("--records", default="results/records.jsonl")
    add_records(commands)
    status = commands.add_parser("status", help="write the book's page on its own state")
    status.add_argument("target", help="where to, ending in .md")
    status.add_argument("--executed", required=True, help="folder of executed chapters")
    status.add_argument("--notebooks", default="notebooks", help="folder of all chapters")
    status.add_argument("--benchmarks", help="folder of what Snakemake measured of each")
    status.add_argument(
        "--page", default="book/status.md", help="the page whose tables are filled in"
    )
    add_results(status)
    add_tasks(commands)
    return top


def add_records(commands: argparse._SubParsersAction) -> None:
    """The commands that look after the files of results."""
    records = commands.add_parser("records", help="look after the records")
    actions = records.add_subparsers(dest="action", required=True)
    verify = actions.add_parser(
        "verify",
        help="check every line of the records and measurements, and the shipped weights",
    )
    add_results(verify)
    verify.add_argument("--data", help="folder of the prepared data sets")
    verify.add_argument("--no-data", action="store_true", help="read no prepared data sets")
    same = actions.add_parser(
        "same-code",
        help="see whether the code that made the records trains as today's, on small runs",
    )
    same.add_argument("--records", default="results/records.jsonl")
    same.add_argument("--comparisons", default="results/same_code.jsonl")
    same.add_argument("--repository", default=".", help="with the old commits")
    same.add_argument("--data", help="folder of the prepared data sets")


def add_plan(commands: argparse._SubParsersAction) -> None:
    """What a grid still needs."""
    plan = commands.add_parser(
        "plan", help="what is trained and measured already, what is not, and at what cost"
    )
    plan.add_argument(
        "--grid", default="laptop", help="smoke, laptop or paper, or a file of your own"
    )
    plan.add_argument("--write", help="file that the Snakefile takes its steps from")
    plan.add_argument("--markers", default="_build/steps", help="of the steps, see --write")
    plan.add_argument(
        "--keep",
        action="store_true",
        help="count records of other code or images as done, do not run them again",
    )
    plan.add_argument("--all", action="store_true", help="show what is done as well")
    plan.add_argument("--device", default="auto", help="that would compute")
    plan.add_argument("--runs", default="runs")
    plan.add_argument("--records", default="results/records.jsonl")
    plan.add_argument("--measurements", default="results/measurements.jsonl")
    plan.add_argument("--comparisons", default="results/same_code.jsonl")
    plan.add_argument("--data", help="folder of the prepared data sets")


def add_results(command: argparse.ArgumentParser) -> None:
    """Where results lie."""
    command.add_argument("--records", default="results/records.jsonl")
    command.add_argument("--measurements", default="results/measurements.jsonl")
    command.add_argument("--weights", default="weights", help="folder of shipped weights")


def add_tasks(commands: argparse._SubParsersAction) -> None:
    """The commands that measure: each adds a line to the measurements."""
    attack = add_task(commands, "attack", "fooling rates, as figure 6", "cifar10")
    attack.add_argument("--attack", default="fgsm", help="fgsm or pgd")
    attack.add_argument("--steps", type=int, default=10, help="of pgd")
    transfer = add_task(commands, "transfer", "another domain, as Table 3", "caltech101")
    transfer.add_argument(
        "--direct",
        action="store_true",
        default=None,
        help="ask the network's own classifier, as is done for stl10",
    )
    transfer.add_argument("--solver", help="liblinear or lbfgs")
    segment = add_task(commands, "segment", "cutting out objects, as figure 9", "coseg")
    segment.add_argument(
        "--methods",
        nargs="*",
        default=["bms", "mc", "centre"],
        metavar="METHOD",
        help="that need no weights: bms, bms-objects, mc, centre",
    )
    query = add_task(commands, "query", "attention under another's query", "coseg")
    query.add_argument("--pairs", type=int, default=1000, help="of either kind")
    query.add_argument("--layer", default="layer10", help="whose map")
    query.add_argument("--seed", type=int, default=0, help="of the draw of pairs")
    add_task(commands, "look", "where each level looks, as figures 3, 4 and 7", "coseg")


def add_task(
    commands: argparse._SubParsersAction, name: str, what: str, dataset: str
) -> argparse.ArgumentParser:
    task = commands.add_parser(
        name, help=what, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    task.add_argument(
        "--weights",
        action="append",
        default=[],
        required=name != "segment",
        help="of a trained network, .safetensors; may be given several times",
    )
    task.add_argument("--dataset", default=dataset, help=", ".join(list_datasets()))
    task.add_argument("--split", help="all, or test where a set has no such split")
    task.add_argument("--images", type=int, help="measure on so many only")
    task.add_argument("--data", help="folder of the prepared data sets")
    if name != "segment":  # half of its methods have nothing to do on a GPU
        task.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    task.add_argument(
        "--measurements", default="results/measurements.jsonl", help="file to append to"
    )
    task.add_argument("--again", action="store_true", help="make anew what is there")
    return task


def task_command(arguments: argparse.Namespace) -> None:
    from lpa_core import tasks  # needs scikit-learn, which training does not

    where = tasks.MeasureOptions(
        dataset=arguments.dataset,
        split=arguments.split,
        images=arguments.images,
        root=arguments.data,
        device=getattr(arguments, "device", "cpu"),
        path=arguments.measurements,
        again=arguments.again,
    )
    options = tasks.TASKS[arguments.command].options
    given = {name: getattr(arguments, name, None) for name in options.model_fields}
    if getattr(arguments, "direct", None):
        given["classifier"] = "own"
    settings = options(**{k: v for k, v in given.items() if v is not None})
    weights = arguments.weights
    for measurement in tasks.measure(arguments.command, weights, settings, where):
        print(tasks.headline(measurement))


def verify_command(arguments: argparse.Namespace) -> int:
    from lpa_core.results import verify  # needs scikit-learn, which training does not

    findings = verify.verify(
        verify.Files(
            records=Path(arguments.records),
            measurements=Path(arguments.measurements),
            weights=Path(arguments.weights),
            data=Path(arguments.data) if arguments.data else None,
            read_data=not arguments.no_data,
        )
    )
    print(verify.summary(findings).to_string(index=False))
    faults = verify.wrong(findings)
    for fault in faults:
        print(fault)
    print(f"{len(findings)} checks, {len(faults)} wrong")
    return 1 if faults else 0


def same_command(arguments: argparse.Namespace) -> int:
    from lpa_core import batch  # needs PyYAML and pandas, which training does not
    from lpa_core.results import read_records

    found = batch.show_same(
        read_records(arguments.records),
        Path(arguments.comparisons),
        Path(arguments.repository),
        Path(arguments.data) if arguments.data else None,
    )
    for comparison in found:
        said = "the same weights" if comparison.same else "OTHER WEIGHTS"
        spec = comparison.spec
        print(f"{comparison.was} {spec.network} on {spec.dataset}: {said}")
    print(f"{len(found)} compared with today's code")
    return 0 if all(comparison.same for comparison in found) else 1


def plan_command(arguments: argparse.Namespace) -> None:
    from lpa_core import batch  # needs PyYAML and pandas, which training does not

    places = batch.Places(
        runs=Path(arguments.runs),
        records=Path(arguments.records),
        measurements=Path(arguments.measurements),
        comparisons=Path(arguments.comparisons),
        data=Path(arguments.data) if arguments.data else None,
    )
    plan = batch.make_plan(
        batch.read_grid(arguments.grid), places, arguments.device, arguments.keep
    )
    table = batch.plan_table(plan)
    shown = table if arguments.all else table[table.state == "to do"]
    if len(shown):
        print(shown.to_string(index=False))
    print(f"{plan.profile}, {len(plan.steps)} steps: {batch.total(plan.steps)}")
    if arguments.write:
        batch.write_plan(plan, Path(arguments.write), Path(arguments.markers))


def export_command(arguments: argparse.Namespace) -> None:
    sources, target = [Path(s) for s in arguments.sources], Path(arguments.target)
    best = sources[0]
    if len(sources) > 1:
        best = best_of(sources, target, arguments.records)
    if best == target:
        print(f"{target} is the best already")
    else:
        print(export_weights(best, target))


def best_of(sources: list[Path], target: Path, records: str) -> Path:
    """Of several runs' weights those with the lowest test error; `target` if it has."""
    from lpa_core.results import read_records  # needs pandas, which training does not

    errors = {r.id: r.metrics["test_error"] for r in read_records(records)}
    runs = {path: read_pair(path)[1].get("run") for path in sources}
    unknown = [str(path) for path, run_id in runs.items() if run_id not in errors]
    if unknown:
        raise ValueError(f"{records} has no record of the run that made {unknown[0]}")
    return min(sources, key=lambda path: (errors[runs[path]], path != target))


def status_command(arguments: argparse.Namespace) -> None:
    from lpa_core.results import status  # needs pandas, which training does not

    status.write(
        Path(arguments.target),
        page=Path(arguments.page),
        sources=status.Sources(
            executed=Path(arguments.executed),
            notebooks=Path(arguments.notebooks),
            benchmarks=Path(arguments.benchmarks) if arguments.benchmarks else None,
            records=Path(arguments.records),
            measurements=Path(arguments.measurements),
            weights=Path(arguments.weights),
        ),
    )


def readme_command(arguments: argparse.Namespace) -> None:
    from lpa_core.results import read_records  # needs pandas, which training does not
    from tools.readme import update

    update(Path(arguments.root), read_records(arguments.records))


def train_command(arguments: argparse.Namespace) -> None:
    spec = RunSpec(**{name: getattr(arguments, name) for name in RunSpec.model_fields})
    record = run(
        spec,
        runs=arguments.runs,
        records=arguments.records,
        profile=arguments.profile,
        data_root=arguments.data,
        device=arguments.device,
        compile=arguments.compile,
    )
    if not reports():
        return
    if arguments.weights:
        own = Path(arguments.runs) / f"{spec.label()}_{record.id}" / "weights.safetensors"
        copy_pair(own, Path(arguments.weights))
    print(
        f"{spec.label()}: test error {record.metrics['test_error']:.2f} % after "
        f"{record.epochs} epochs, {record.seconds / 60:.1f} min, "
        f"{record.images_per_second:.0f} images/s on {record.device}"
    )


def main(words: list[str] | None = None) -> int:
    """Run a command; what the user can mend is said in one line, and 2 is returned.

    `records verify` returns 1 where a line is wrong, `records same-code` where code
    trains otherwise.
    """
    arguments = parser().parse_args(words)
    try:
        if arguments.command == "train":
            train_command(arguments)
        elif arguments.command == "readme":
            readme_command(arguments)
        elif arguments.command == "plan":
            plan_command(arguments)
        elif arguments.command == "records":
            work = verify_command if arguments.action == "verify" else same_command
            return work(arguments)
        elif arguments.command == "status":
            status_command(arguments)
        elif arguments.command in TASKS:
            task_command(arguments)
        else:
            export_command(arguments)
    except ValidationError as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    except (
        ValueError,
        FloatingPointError,
        OSError,
        ImportError,
        DataError,
        RecordError,
        WeightsError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
