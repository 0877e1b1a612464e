"""The command line: `python -m lpa_core train …` does what the training chapter does.

The options of a command are the fields of pydantic models: `RunSpec` or a task's options.
`COMMANDS` and the registry of tasks list the commands. Modules that take seconds to import
are only imported by the commands that need them.
"""

import ast
import io
import itertools
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import field, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import BaseModel, Field, ValidationError

__all__ = ["COMMANDS", "help_text", "main", "parse"]

PROG = "python -m lpa_core"
Command = Callable[[list[str]], int | None]

Records = Annotated[Path, Field(description="file of the records")]
Measurements = Annotated[Path, Field(description="file of the measurements")]
Data = Annotated[Path | None, Field(description="folder of the prepared data sets")]
Device = Annotated[str, Field(description="auto, cpu, cuda, cuda:1, …")]
RECORDS = Path("results/records.jsonl")
MEASUREMENTS = Path("results/measurements.jsonl")


class UsageError(ValueError):
    """The command line is not a valid command with valid options."""


MADE = ("overrides",)  # fields of a spec that are built from several options

# ------------------------------------------------------------------------------ parsing


def parse(
    command: str,
    words: list[str],
    *models: type[BaseModel],
    several: tuple[str, ...] = (),
    **help: str,
) -> dict[str, Any]:
    """The values of all fields of some models, from the words after a command.

    The models' validators do not run here; they run when the models are made.

    Args:
        several: names of fields that take one or more values and become lists.
        help: texts that replace the descriptions of fields, by name.

    Raises:
        UsageError: an option is unknown, or its value has another type.
        SystemExit: the help was requested and is printed.
    """
    fields = []
    # A field of two models, such as `attach`, has the type of the later model.
    every = {n: i for model in models for n, i in model.model_fields.items()}
    for name, info in every.items():
        if name in MADE:
            continue
        extra = (*info.metadata, tyro.conf.arg(help=help.get(name, info.description)))
        annotation: Any = info.annotation
        default: Any = partial(info.get_default, call_default_factory=True)
        if name in several:
            annotation, default = list[annotation], lambda get=default: [get()]
        kind = Annotated[(annotation, *extra)]  # type: ignore[valid-type]
        required = info.is_required()
        fields.append(
            (name, kind) if required else (name, kind, field(default_factory=default))
        )
    made = make_dataclass(command.replace(" ", "_"), fields, kw_only=True)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            found = tyro.cli(
                made,
                args=words,
                prog=f"{PROG} {command}",
                description=summaries()[command],
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(f"{one_line(said.getvalue())} (see {PROG} {command} -h)") from None
    given = vars(found)
    for name, value in given.items():
        if value == [] and name in several:
            raise UsageError(f"Missing value for argument '--{name}'")
        if value == Path("--"):
            raise UsageError(f"--{name}: '--' is not the name of a file or folder")
    return given


def one_line(box: str) -> str:
    """The error message in tyro's box on one line, with its suggestions."""
    plain = re.sub("[│╭╮╰╯]", " ", box)
    _, *parts = re.split(r"^ *[-─]{4,} *$|^ *─ .* ─+ *$", plain, flags=re.MULTILINE)
    said = [" ".join(part.split()) for part in parts] or [" ".join(plain.split())]
    return "; ".join([said[0], *(s for s in said[1:] if s.startswith("Perhaps you meant"))])


def pick(given: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    return {name: given[name] for name in model.model_fields if name in given}


# ----------------------------------------------------------------------------- commands


class TrainOptions(BaseModel):
    profile: Annotated[str, Field(description="smoke, laptop, gpu or paper")] = "laptop"
    device: Device = "auto"
    compile: Annotated[
        bool,
        Field(description="compile the network, even where it does not pay off"),
    ] = False
    no_compile: Annotated[bool, Field(description="never compile it")] = False
    data: Data = None
    runs: Annotated[Path, Field(description="folder of checkpoints and weights")] = Path(
        "runs"
    )
    records: Annotated[Path, Field(description="file to append the record to")] = RECORDS
    weights: Annotated[
        Path | None, Field(description="file to copy the final weights to")
    ] = None


class OwnRecipe(BaseModel):
    """The options that make `RunSpec.overrides`."""

    lr: Annotated[float | None, Field(description="instead of the recipe's")] = None
    batch_size: Annotated[int | None, Field(description="instead of the recipe's")] = None
    set: Annotated[
        list[str],
        tyro.conf.UseAppendAction,
        Field(description="field=value, any field of the recipe; may be given again"),
    ] = []


class OwnNetwork(BaseModel):
    """The options that make `RunSpec.attach`."""

    attach: Annotated[
        str | None,
        Field(description="add attention to this torchvision network, instead of using "
              "one of the paper's"),
    ] = None  # fmt: skip
    layers: Annotated[
        list[str], Field(description="its layers to attend to, lowest first")
    ] = []
    compatibility: Annotated[str, Field(description="pc, dp, tanh or mean")] = "pc"
    fusion: Annotated[str, Field(description="concat or indep")] = "concat"
    query: Annotated[
        str | None,
        Field(description="layer that gives g; None: the last linear layer's input"),
    ] = None
    tokens: Annotated[bool, Field(description="the layers give tokens, as in a ViT")] = (
        False
    )


SEVERAL = ("network", "seed")  # `train` takes one or more of each


def train(words: list[str]) -> int:
    """train one or several networks; a killed run resumes at its last checkpoint"""
    from lpa_core.training import RunSpec, run
    from lpa_core.training.distributed import reports

    models = RunSpec, OwnRecipe, OwnNetwork, TrainOptions
    given = parse("train", words, *models, several=SEVERAL, **train_help())
    if given["compile"] and given["no_compile"]:
        raise UsageError("--compile and --no-compile contradict each other: give one")
    own = {"overrides": overrides_of(given), "attach": attachment_of(given)}
    fields = pick(given, RunSpec) | own
    pairs = itertools.product(given["network"], given["seed"])
    specs = [RunSpec(**fields | {"network": n, "seed": s}) for n, s in pairs]
    options = {
        "runs": given["runs"],
        "records": given["records"],
        "profile": given["profile"],
        "data_root": given["data"],
        "device": given["device"],
        "compile": given["compile"] or (False if given["no_compile"] else None),
    }
    if len(specs) > 1:
        if given["weights"]:
            raise UsageError("--weights is a file for one run: give one network and seed")
        return train_several(specs, options)
    record = run(specs[0], weights=given["weights"], **options)
    if reports():
        print(run_line(record))
    return 0


def train_several(specs: list, options: dict[str, Any]) -> int:
    """Print one line per run when it ends; returns 1 if any failed."""
    from tqdm.auto import tqdm

    from lpa_core.training import run_several

    failed = 0
    for found in run_several(specs, **options):
        if found.record is None:
            failed += 1
            tqdm.write(f"error: {found.spec.label()}: {found.error}", file=sys.stderr)
        else:
            before = "" if found.trained else " (finished already)"
            tqdm.write(run_line(found.record) + before)
    if failed:
        print(f"error: {failed} of {len(specs)} runs failed", file=sys.stderr)
    return 1 if failed else 0


def run_line(record: Any) -> str:
    """The result of a run in one line."""
    return (
        f"{record.spec.label()}: test error {record.metrics['test_error']:.2f} % after "
        f"{record.epochs} epochs, {record.seconds / 60:.1f} min, "
        f"{record.images_per_second:.0f} images/s on {record.device}"
    )


def overrides_of(given: dict[str, Any]) -> dict[str, Any]:
    """From --recipe FILE, --lr, --batch-size and --set; `recipe` is then a name."""
    import yaml

    from lpa_core.training import RECIPES, read_recipe

    overrides: dict[str, Any] = {}
    if given["recipe"] not in RECIPES and Path(given["recipe"]).suffix in (".yaml", ".yml"):
        given["recipe"], overrides = read_recipe(given["recipe"])
    for name in ("lr", "batch_size"):
        if given[name] is not None:
            overrides[name] = given[name]
    for word in given["set"]:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--set {word}: write it as field=value")
        try:
            overrides[name.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {word}: {value!r} is not a valid value") from error
    return overrides


def attachment_of(given: dict[str, Any]) -> dict[str, Any] | None:
    """The fields of `Attachment`; `network` is then the backbone's name."""
    fields = pick(given, OwnNetwork)
    name = fields.pop("attach")
    if name is None:
        if fields["layers"]:
            raise UsageError("--layers needs --attach NETWORK, the network of the layers")
        return None
    from lpa_core.training import RunSpec

    usual = RunSpec.model_fields
    if given["network"] != [usual["network"].default]:
        raise UsageError("--network and --attach contradict each other: give one")
    given["network"] = [name]
    if given["width"] == usual["width"].default:
        given["width"] = 1.0
    return fields


def train_help() -> dict[str, str]:
    """Help for the spec's fields, with all allowed names."""
    from lpa_core.data import list_datasets
    from lpa_core.networks import list_networks
    from lpa_core.training import RECIPES

    return {
        "network": "one or several of " + ", ".join(list_networks()),
        "seed": "one or several, for initialisation, order and augmentation",
        "dataset": f"{', '.join(list_datasets())}, or the path of {OWN}",
        "recipe": f"{', '.join(RECIPES)}, or a YAML file",
        "width": "1 is the paper's width",
        "epochs": "instead of the recipe's",
        "train_images": "train on this many images only",
        "initial": "weights to start from, except for the classifier",
        "add_log_probabilities": "in indep networks, as the authors' scripts do",
        "average_gradients": "where branches meet, as the authors' scripts do",
        "initialisation": "of the network; None: the recipe's",
        "query_std": "initial standard deviation of the learned query u",
        "image_size": "pixels per side, for photographs of your own; None: 32",
    }


OWN = "your own: a folder of class folders or a .npz"


class ShowOptions(BaseModel):
    photographs: Annotated[
        list[Path],
        tyro.conf.Positional,
        Field(description="files, or folders of photographs"),
    ]
    weights: Annotated[Path | None, Field(description="of a trained network")] = None
    network: Annotated[
        str, Field(description="a shipped network, if no weights are given")
    ] = "vgg-att2-concat-pc"
    dataset: Annotated[str, Field(description="the network's training set")] = "cifar10"
    out: Annotated[Path, Field(description="figure to write, .png, .svg or .pdf")] = Path(
        "attention.png"
    )


def show(words: list[str]) -> None:
    """draw a figure of where a network looks in your photographs"""
    given = parse("show", words, ShowOptions)
    import matplotlib as mpl

    from lpa_core.provenance import check_appendable
    from lpa_core.results import shipped_network
    from lpa_core.show import find_photographs
    from lpa_core.show import show as draw
    from lpa_core.training import load_trained

    out: Path = given["out"]
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--out {out}: name a file that ends in .png, .svg or .pdf")
    photographs = find_photographs(given["photographs"])
    check_appendable(out)
    mpl.use("agg")
    trained = (
        load_trained(given["weights"])
        if given["weights"]
        else shipped_network(given["network"], given["dataset"])
    )
    draw(photographs, trained).savefig(out, dpi=150)
    print(out)


class PrepareOptions(BaseModel):
    files: Annotated[
        list[Path],
        tyro.conf.Positional,
        Field(description="a folder of class folders, then the .npz to write"),
    ]
    size: Annotated[int, Field(description="pixels per side")] = 32
    skip: Annotated[bool, Field(description="leave out files that cannot be read")] = False


def prepare(words: list[str]) -> None:
    """convert a folder of photographs to one file, which loads faster"""
    given = parse("prepare", words, PrepareOptions)
    from lpa_core.data.own import prepare_own

    if len(given["files"]) != 2:
        raise UsageError("prepare needs a folder of class folders, and the .npz to write")
    folder, target = given["files"]
    counts, left_out = prepare_own(folder, target, given["size"], given["skip"])
    for said in left_out:
        print("left out:", said, file=sys.stderr)
    listed = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"{target}: {listed} images, {len(left_out)} left out")


class ExportOptions(BaseModel):
    files: Annotated[
        list[Path],
        tyro.conf.Positional,
        Field(description="weights of one or more runs, then the file to write"),
    ]
    records: Annotated[Path, Field(description="file with the runs' errors")] = RECORDS
    format: Annotated[
        Literal["safetensors", "onnx"],
        Field(description="only weights, or a graph that gives logits and maps"),
    ] = "safetensors"


def export(words: list[str]) -> None:
    """export the best of several runs: half-precision weights or an ONNX graph"""
    given = parse("export", words, ExportOptions)
    from lpa_core.training import export_onnx, export_weights

    if len(given["files"]) < 2:
        raise UsageError("export needs the weights of a run, and the file to write")
    *sources, target = given["files"]
    best = sources[0]
    if len(sources) > 1:
        best = best_of(sources, target, given["records"])
    if best == target:
        print(f"{target} is the best already")
    elif given["format"] == "onnx":
        print(f"{target}: {', '.join(export_onnx(best, target))}")
    else:
        print(export_weights(best, target))


def best_of(sources: list[Path], target: Path, records: Path) -> Path:
    """The weights with the lowest test error of several runs, or `target` if it has it."""
    from lpa_core.results import read_records
    from lpa_core.training.checkpoint import read_pair

    errors = {r.id: r.metrics["test_error"] for r in read_records(records)}
    runs = {path: read_pair(path)[1].get("run") for path in sources}
    unknown = [str(path) for path, run_id in runs.items() if run_id not in errors]
    if unknown:
        raise ValueError(f"{records} has no record of the run that made {unknown[0]}")
    return min(sources, key=lambda path: (errors[runs[path] or ""], path != target))


class PlanOptions(BaseModel):
    grid: Annotated[
        str, Field(description="smoke, laptop, gpu or paper, or a file of your own")
    ] = "laptop"
    write: Annotated[
        Path | None, Field(description="file from which the Snakefile reads its steps")
    ] = None
    markers: Annotated[Path, Field(description="markers' folder, see --write")] = Path(
        "_build/steps"
    )
    keep: Annotated[
        bool, Field(description="count results of other versions or images as done")
    ] = False
    all: Annotated[bool, Field(description="also show finished steps")] = False
    device: Annotated[str, Field(description="for the estimate")] = "auto"
    runs: Annotated[Path, Field(description="folder of the runs")] = Path("runs")
    records: Records = RECORDS
    measurements: Measurements = MEASUREMENTS
    data: Data = None


def plan(words: list[str]) -> None:
    """show what is trained and measured, what is missing, and its cost"""
    given = parse("plan", words, PlanOptions)
    from lpa_core import plan as planning

    places = planning.Places(
        **{name: given[name] for name in ("runs", "records", "measurements", "data")}
    )
    grid = planning.read_grid(given["grid"])
    made = planning.make_plan(grid, places, given["device"], given["keep"])
    table = planning.plan_table(made)
    shown = table if given["all"] else table[table.state == "to do"]
    if len(shown):
        print(shown.to_string(index=False))
    print(f"{made.profile}, {len(made.steps)} steps: {planning.total(made.steps)}")
    if given["write"]:
        planning.write_plan(made, given["write"], given["markers"])


class VerifyOptions(BaseModel):
    records: Records = RECORDS
    measurements: Measurements = MEASUREMENTS
    weights: Annotated[Path, Field(description="folder of shipped weights")] = Path(
        "weights"
    )
    data: Data = None
    no_data: Annotated[bool, Field(description="do not read the data sets")] = False


def verify(words: list[str]) -> int:
    """check every line of the results and the shipped weights"""
    given = parse("records verify", words, VerifyOptions)
    from lpa_core.results import verify as checks

    read_data = not given.pop("no_data")
    findings = checks.verify(checks.Files(**given, read_data=read_data))
    print(checks.summary(findings).to_string(index=False))
    faults = checks.wrong(findings)
    for fault in faults:
        print(fault)
    print(f"{len(findings)} checks, {len(faults)} wrong")
    return 1 if faults else 0


class SealOptions(BaseModel):
    files: Annotated[
        list[Path], tyro.conf.Positional, Field(description="files of JSON lines")
    ]


def seal_files(words: list[str]) -> None:
    """add a digest to each line that has none"""
    from lpa_core.provenance import seal_file

    for path in parse("records seal", words, SealOptions)["files"]:
        sealed = seal_file(path)
        lines = len(path.read_bytes().splitlines())
        print(f"{path}: {sealed} of {lines} lines sealed")


# -------------------------------------------------------------------------------- tasks


class MeasureCommand(BaseModel):
    """Options that every task takes besides its own."""

    weights: Annotated[
        list[Path],
        tyro.conf.UseAppendAction,
        Field(description="of a trained network, .safetensors; may be given several times"),
    ] = []
    dataset: str | None = None
    split: Annotated[
        str | None, Field(description="None: test, or all if a set has no such split")
    ] = None
    images: Annotated[int | None, Field(description="use only this many images")] = None
    data: Data = None
    measurements: Annotated[Path, Field(description="file to append to")] = MEASUREMENTS
    again: Annotated[bool, Field(description="repeat existing measurements")] = False


class DeviceOption(BaseModel):
    device: Device = "auto"


class DirectOption(BaseModel):
    direct: Annotated[
        bool, Field(description="the same as --classifier own, the default for stl10")
    ] = False


def measure(name: str, words: list[str]) -> None:
    """Run a task on networks; each adds a line to the measurements."""
    from lpa_core import tasks
    from lpa_core.data import list_datasets

    task = tasks.TASKS[name]
    models = [task.options, MeasureCommand]
    models += [] if task.on_cpu else [DeviceOption]
    # `--direct` is older than --classifier, and users' scripts may contain it.
    models += [DirectOption] if "classifier" in task.options.model_fields else []
    names = ", ".join(list_datasets())
    sets = f"None: {task.dataset}; or one of {names}, or the path of {OWN}"
    given = parse(name, words, *models, dataset=sets)
    chosen = pick(given, task.options)
    if given.get("direct"):
        chosen["classifier"] = "own"
    where = tasks.MeasureOptions(
        dataset=given["dataset"],
        split=given["split"],
        images=given["images"],
        root=given["data"],
        device=given.get("device", "cpu"),
        path=given["measurements"],
        again=given["again"],
    )
    found = tasks.measure(name, given["weights"], task.options(**chosen), where)
    for measurement in found:
        print(tasks.headline(measurement))


def task_summaries() -> dict[str, str]:
    """Names and summaries of the tasks, read from their sources: imports take seconds."""
    found = {}
    for file in sorted((Path(__file__).parent / "tasks").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Task":
                values = {k.arg: k.value for k in node.keywords}
                name, summary = values["name"], values["summary"]
                found[ast.literal_eval(name)] = ast.literal_eval(summary)
    return found


# ------------------------------------------------------------------------- the whole

COMMANDS: dict[str, Command] = {
    "train": train,
    "show": show,
    "prepare": prepare,
    "export": export,
    "plan": plan,
    "records verify": verify,
    "records seal": seal_files,
}


def summaries() -> dict[str, str]:
    """A short summary of each command."""
    own = {name: (command.__doc__ or "") for name, command in COMMANDS.items()}
    return own | task_summaries()


def find_command(words: list[str]) -> tuple[Command, list[str]]:
    """The command at the start of the words, and the remaining words.

    Raises:
        UsageError: unknown command.
    """
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return COMMANDS[name], words[length:]
    if words and words[0] in task_summaries():
        return partial(measure, words[0]), words[1:]
    what = f"unknown command {words[0]!r}" if words else "no command"
    raise UsageError(f"{what}: choose one of {', '.join(summaries())}")


def overview(group: str = "") -> str:
    """The summaries of all commands, or of a group such as "records"."""
    found = {k: v for k, v in summaries().items() if k.startswith(group)}
    wide = max(map(len, found))
    lines = [f"  {name:{wide}}  {summary}" for name, summary in found.items()]
    usage = f"usage: {PROG} {group or 'COMMAND'} …".replace("records …", "records ACTION …")
    return "\n".join([usage, "", *lines, "", "Run a command with --help for more.", ""])


def help_text(command: str = "") -> str:
    """The text of `python -m lpa_core … --help`.

    Raises:
        UsageError: unknown command.
    """
    if command in ("", "records"):
        return overview(command)
    work, rest = find_command(command.split())
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            work([*rest, "--help"])
    except SystemExit:
        pass
    return said.getvalue()


def main(words: list[str] | None = None) -> int:
    """Run a command. An error that the user can fix prints one line and returns 2.

    `records verify` returns 1 if a line is wrong, `train` if one of several runs failed.
    """
    words = sys.argv[1:] if words is None else words
    try:
        if words and words[-1] in ("-h", "--help") and words[:-1] in ([], ["records"]):
            print(overview(*words[:-1]), end="")
            return 0
        work, rest = find_command(words)
        return work(rest) or 0
    except ValidationError as error:
        from lpa_core.training import explain

        said = explain(error)
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        said = str(error)
    except RuntimeError as error:
        if not type(error).__module__.startswith("lpa_core."):
            raise
        said = str(error)
    print("error:", " ".join(said.split()), file=sys.stderr)
    return 2
