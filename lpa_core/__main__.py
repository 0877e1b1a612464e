"""The command line: `python -m lpa_core train …`, what the training chapter does."""

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
    train.add_argument("--data", help="folder of the prepared data sets")
    train.add_argument("--runs", default="runs", help="folder of checkpoints and weights")
    train.add_argument(
        "--records", default="results/records.jsonl", help="file to append the record to"
    )
    export = commands.add_parser("export", help="weights in half precision, to ship")
    export.add_argument("source", help="weights.safetensors of a run")
    export.add_argument("target", help="where to, ending in .safetensors")
    readme = commands.add_parser("readme", help="write the README's results from records")
    readme.add_argument("--file", default="README.md")
    readme.add_argument("--records", default="results/records.jsonl")
    return top


def readme_command(arguments: argparse.Namespace) -> None:
    from lpa_core.results import read_records  # needs pandas, which training does not
    from lpa_core.results.readme import update

    update(Path(arguments.file), read_records(arguments.records))


def train_command(arguments: argparse.Namespace) -> None:
    spec = RunSpec(
        **{name: getattr(arguments, name) for name in RunSpec.model_fields}
    )
    record = run(
        spec,
        runs=arguments.runs,
        records=arguments.records,
        profile=arguments.profile,
        data_root=arguments.data,
        device=arguments.device,
    )
    print(
        f"{spec.label()}: test error {record.metrics['test_error']:.2f} % after "
        f"{record.epochs} epochs, {record.seconds / 60:.1f} min, "
        f"{record.images_per_second:.0f} images/s on {record.device}"
    )


def main(words: list[str] | None = None) -> int:
    """Run a command; what the user can mend is said in one line, and 2 is returned."""
    arguments = parser().parse_args(words)
    try:
        if arguments.command == "train":
            train_command(arguments)
        elif arguments.command == "readme":
            readme_command(arguments)
        else:
            print(export_weights(arguments.source, arguments.target))
    except ValidationError as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    except (
        ValueError,
        FloatingPointError,
        OSError,
        DataError,
        RecordError,
        WeightsError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
