"""The batch: train -> ship, measure -> chapters -> book.

Snakemake runs what is out of date and nothing else. A chapter depends on its notebook, on
lpa_core, on the records and on the shipped weights; the book on the chapters, on the
prose and on its configuration. What is trained and measured stands in a plan, which
`python -m lpa_core plan` makes from a grid and what is recorded already.

    snakemake --cores all book                               the smoke profile

    python -m lpa_core plan --grid laptop --write _build/plan-laptop.json
    snakemake --cores all --config profile=laptop train=true -- book

`make book` and `make full` say the same. On several GPUs of one machine:
`--config gpus=2 --resources gpu=2`; on a cluster: `--profile profiles/slurm` or
`--profile profiles/kubernetes`.
"""

import json
import os
import shlex
import sys
from pathlib import Path

import yaml
from snakemake.utils import min_version, validate

min_version("8.0")
validate(config, "profiles/config.schema.yaml")

PROFILE = config["profile"]


def toc_files() -> list[str]:
    """The book's pages as _toc.yml names them, in order, without their suffixes."""
    toc = yaml.safe_load(Path("_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [toc["root"], *chapters]


# Executed chapters of different profiles lie apart: changing over runs nothing anew.
EXECUTED = "_build/executed" if PROFILE == "smoke" else f"_build/executed-{PROFILE}"
CHAPTERS = [Path(f).name for f in toc_files() if f.startswith("notebooks/")]
CODE = sorted(
    str(p)
    for p in Path("lpa_core").rglob("*")
    if p.is_file() and "__pycache__" not in p.parts  # the grids and the paper's numbers too
)
PROSE = sorted(str(p) for p in Path("book").rglob("*") if p.is_file())
SHIPPED = [
    str(p)
    for folder in ("results", "weights")
    for p in sorted(Path(folder).glob("*"))
    if p.is_file() and not p.name.startswith(".")
]

# Steps to train, ship and measure, by name; none without train=true.
PLAN = Path(config.get("plan", f"_build/plan-{PROFILE}.json"))
GPUS = config["gpus"]
GPU = {"gpu": 1, "gpu_manufacturer": "nvidia"} if GPUS else {}


def visible_gpus() -> list:
    """Names of the GPUs that runs are shared out among, as CUDA knows them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else list(range(GPUS))) if GPUS else []


# On a cluster there is no such number; its profile says what a run asks for.
CORES = workflow.resource_settings.cores or 1


def planned() -> dict[str, dict]:
    """The plan's steps that are to be done."""
    if config["train"] in (False, "false"):
        return {}
    if not PLAN.exists():
        sys.exit(f"no {PLAN}: python -m lpa_core plan --grid {PROFILE} --write {PLAN}")
    steps = json.loads(PLAN.read_text(encoding="utf-8"))["steps"]
    return {step["name"]: step for step in steps if step["todo"]}


TODO = planned()


def markers(names) -> list[str]:
    """Files that say of steps that they are done."""
    return [f"_build/steps/{TODO[n]['stage']}/{n}" for n in names if n in TODO]


def words(wildcards) -> str:
    """A step's command line, behind `python -m lpa_core`."""
    return shlex.join(TODO[wildcards.step]["words"])


# Whoever kills Snakemake alone leaves its jobs running. `alone name` waits for such a one,
# and for another `make` in this folder; the lock ends with whatever runs behind it.
WAIT = """
import fcntl, sys
try:
    fcntl.flock(8, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("waiting for", sys.argv[1], "that was started before", file=sys.stderr)
    fcntl.flock(8, fcntl.LOCK_EX)
"""

# In every rule: `command > log 2>&1 || failed log` shows what counts, and where the rest is.
shell.prefix(
    "set -euo pipefail; failed() {{ "
    "{{ grep -E 'WARNING|ERROR' $1 | head -n 20 || true; tail -n 25 $1; "
    "echo \"FAILED: the whole log is in $1\"; }} >&2; "
    "mkdir -p _build; echo $1 >> _build/failed; exit 1; }}; "
    "alone() {{ mkdir -p _build/locks; exec 8> _build/locks/$1; "
    f"{shlex.quote(sys.executable)} -c {shlex.quote(WAIT)} $1; }}}}; "
)


onstart:
    Path("_build/failed").unlink(missing_ok=True)


onerror:
    # Once more at the end, where it is seen: the rest has gone on after it.
    failed = Path("_build/failed")
    logs = sorted(set(failed.read_text().split())) if failed.exists() else []
    if logs:
        print(f"{len(logs)} failed, their logs:", *logs, sep="\n  ", file=sys.stderr)


wildcard_constraints:
    chapter=r"\w+",
    step=r"[\w.-]+",


localrules:
    book,
    status,
    steps,
    ship,


rule book:
    input:
        chapters=expand(f"{EXECUTED}/{{chapter}}.ipynb", chapter=CHAPTERS),
        prose=PROSE,
        status=f"_build/status-{PROFILE}.md",
        lab="_build/lab/expected.json",
        config=["_config.yml", "_toc.yml"],
    output:
        # Says which profile the book was built from; written when all else is in place.
        "_build/html/.built",
    params:
        profile=PROFILE,
    log:
        "_build/logs/book.log",
    benchmark:
        "_build/benchmarks/book.tsv"
    shell:
        # jupyter-book reads one folder: put the executed chapters where the stored ones
        # stand. A page is never left over from an earlier build, nor half a book shown.
        """
        alone book
        echo 'building the book'
        rm -rf _build/source _build/making
        mkdir -p _build/source/notebooks
        cp -r {input.config} book _build/source/
        cp {input.chapters} _build/source/notebooks/
        cp {input.status} _build/source/book/status.md
        cp -r _build/lab/data _build/source/book/_static/lab/
        jupyter-book build -W -n --keep-going \
            --path-output _build/making _build/source > {log} 2>&1 || failed {log}
        rm -rf _build/html
        mv _build/making/_build/html _build/html
        echo {params.profile} > {output}
        """


rule lab:
    input:
        script="tools/lab.py",
        code=CODE,
        shipped=SHIPPED,
    output:
        "_build/lab/expected.json",
    log:
        "_build/logs/lab.log",
    shell:
        # What the interactive pages load, and torch's numbers to test them with.
        """
        alone lab
        echo 'writing what the interactive pages load'
        python {input.script} _build/lab > {log} 2>&1 || failed {log}
        """


rule status:
    input:
        chapters=expand(f"{EXECUTED}/{{chapter}}.ipynb", chapter=CHAPTERS),
        page="book/status.md",
        contents="_toc.yml",
        script="tools/status.py",
        reader="tools/readme.py",
        code=CODE,
        shipped=SHIPPED,
    output:
        f"_build/status-{PROFILE}.md",
    params:
        executed=EXECUTED,
    log:
        "_build/logs/status.log",
    shell:
        # The benchmarks are of the chapters' own runs: they change with them.
        """
        python {input.script} {output} --page {input.page} \
            --executed {params.executed} --benchmarks _build/benchmarks \
            > {log} 2>&1 || failed {log}
        """


rule execute:
    input:
        notebook="notebooks/{chapter}.ipynb",
        code=CODE,
        shipped=SHIPPED,
        steps=markers(TODO),
        environment="requirements.txt",
    output:
        f"{EXECUTED}/{{chapter}}.ipynb",
    params:
        # smoke is every chapter's default: nothing is injected, so that the reader sees
        # the notebook as it is stored.
        profile="" if PROFILE == "smoke" else f"-p profile {PROFILE}",
        running=f"_build/running/{PROFILE}-{{chapter}}.ipynb",
    log:
        "_build/logs/{chapter}.log",
    benchmark:
        "_build/benchmarks/{chapter}.tsv"
    # A smoke chapter spends half its time on imports: two side by side end sooner.
    threads: 1 if PROFILE == "smoke" else 2
    shell:
        # The output moves into place when the last cell has run; what a failed chapter got
        # to stays in _build/running.
        """
        alone {wildcards.chapter}
        echo 'running {input.notebook}'
        mkdir -p _build/running
        export OMP_NUM_THREADS={threads} PYTHONHASHSEED=0
        papermill {input.notebook} {params.running} {params.profile} \
            --kernel python3 --cwd notebooks --no-progress-bar --log-output \
            > {log} 2>&1 || failed {log}
        mv {params.running} {output}
        """


rule teaching_lab:
    input:
        notebook="teaching/lab.ipynb",
        code=CODE,
        environment="requirements.txt",
    output:
        # Beside the chapters, for the teacher pack.
        f"{EXECUTED}/teaching/lab.ipynb",
    log:
        "_build/logs/teaching_lab.log",
    shell:
        # Checkpoints of an earlier run would make the time that is measured a short one.
        """
        alone teaching_lab
        echo 'running {input.notebook}'
        rm -rf _build/running/lab
        mkdir -p _build/running/lab
        export OMP_NUM_THREADS=1 PYTHONHASHSEED=0
        papermill {input.notebook} _build/running/lab.ipynb \
            --kernel python3 --cwd _build/running/lab --no-progress-bar \
            > {log} 2>&1 || failed {log}
        mv _build/running/lab.ipynb {output}
        """


rule steps:
    # All that trains, ships and measures, and no more: what fails keeps nothing else.
    input:
        markers(TODO),


rule train:
    input:
        lambda wildcards: markers(TODO[wildcards.step]["after"]),
    output:
        touch("_build/steps/train/{step}"),
    params:
        words=words,
        gpus=visible_gpus(),
    log:
        "_build/logs/train-{step}.log",
    benchmark:
        "_build/benchmarks/train-{step}.tsv"
    # One run takes the machine, or one of its GPUs and its share of the cores.
    threads: max(1, CORES // max(1, GPUS))
    resources:
        **GPU,
    shell:
        # Started again after a kill, a run goes on where it was. A GPU that no other run of
        # this machine holds is found by its lock; on a cluster the scheduler names one.
        """
        alone {wildcards.step}
        echo 'training {wildcards.step}: see {log}'
        export OMP_NUM_THREADS={threads}
        mkdir -p _build/gpus
        for gpu in {params.gpus}; do
            exec 9> _build/gpus/$gpu
            if flock -n 9; then export CUDA_VISIBLE_DEVICES=$gpu; break; fi
        done
        python -m lpa_core {params.words} > {log} 2>&1 || failed {log}
        """


rule ship:
    input:
        lambda wildcards: markers(TODO[wildcards.step]["after"]),
    output:
        touch("_build/steps/ship/{step}"),
    params:
        words=words,
    log:
        "_build/logs/{step}.log",
    shell:
        """
        alone {wildcards.step}
        echo '{wildcards.step}'
        python -m lpa_core {params.words} > {log} 2>&1 || failed {log}
        """


rule measure:
    input:
        lambda wildcards: markers(TODO[wildcards.step]["after"]),
    output:
        touch("_build/steps/measure/{step}"),
    params:
        words=words,
    log:
        "_build/logs/measure-{step}.log",
    benchmark:
        "_build/benchmarks/measure-{step}.tsv"
    threads: 2
    shell:
        """
        alone {wildcards.step}
        echo 'measuring {wildcards.step}: see {log}'
        export OMP_NUM_THREADS={threads}
        python -m lpa_core {params.words} > {log} 2>&1 || failed {log}
        """
