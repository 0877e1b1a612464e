"""The batch: train -> chapters -> book.

Snakemake runs what is out of date and nothing else. A chapter depends on its notebook, on
lpa_core, on the records and on the shipped weights; the book on the chapters, on the
prose and on its configuration.

    snakemake --cores all book                               the smoke profile
    snakemake --cores all --config profile=laptop train=true -- book

On a cluster: `--executor slurm` or `--executor kubernetes`, with their plugins.
"""

import json
import sys
from pathlib import Path

import yaml


PROFILE = config.get("profile", "smoke")
if PROFILE not in ("smoke", "laptop", "paper"):
    sys.exit(f"unknown profile {PROFILE!r}: choose one of smoke, laptop, paper")


def toc_files() -> list[str]:
    """The book's pages as _toc.yml names them, in order, without their suffixes."""
    toc = yaml.safe_load(Path("_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [toc["root"], *chapters]


# Executed chapters of different profiles lie apart: changing over runs nothing anew.
EXECUTED = "_build/executed" if PROFILE == "smoke" else f"_build/executed-{PROFILE}"
CHAPTERS = [Path(f).name for f in toc_files() if f.startswith("notebooks/")]
CODE = sorted(map(str, Path("lpa_core").rglob("*.py")))
PROSE = sorted(str(p) for p in Path("book").rglob("*") if p.is_file())
SHIPPED = [
    str(p)
    for folder in ("results", "weights")
    for p in sorted(Path(folder).glob("*"))
    if p.is_file() and not p.name.startswith(".")
]

# What `make full` trains, network and seed: the lines of Table 1. A run whose record stands
# in results/records.jsonl is not trained again.
TABLE_1 = [
    *(("vgg", seed) for seed in (0, 1, 2)),
    *(("vgg-att2-concat-pc", seed) for seed in (0, 1, 2)),
    ("vgg-att3-concat-pc", 0),
]
SIZES = {
    "laptop": {"dataset": "cifar10", "recipe": "fast", "width": 0.25},
    "paper": {"dataset": "cifar10", "recipe": "paper", "width": 1.0},
}


def missing_runs() -> list[str]:
    """Markers of the runs of Table 1 that have no record."""
    if not config.get("train"):
        return []
    if PROFILE not in SIZES:
        sys.exit("train=true goes with profile=laptop or profile=paper")
    recorded = []
    file = Path("results/records.jsonl")
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            recorded.append(json.loads(line)["spec"])
        except (ValueError, KeyError, TypeError):
            continue  # the chapters report damaged lines
    wanted = [SIZES[PROFILE] | {"network": n, "seed": seed} for n, seed in TABLE_1]
    return [
        f"runs/done/{PROFILE}/{run['network']}_s{run['seed']}"
        for run in wanted
        if not any(run.items() <= spec.items() for spec in recorded)
    ]


# In every rule: `command > log 2>&1 || failed log` shows what counts, and where the rest is.
shell.prefix(
    "set -euo pipefail; failed() {{ "
    "{{ grep -E 'WARNING|ERROR' $1 | head -n 20 || true; tail -n 25 $1; "
    "echo \"FAILED: the whole log is in $1\"; }} >&2; exit 1; }}; "
)


wildcard_constraints:
    chapter=r"\w+",
    seed=r"\d+",
    profile=r"\w+",


localrules:
    book,


rule book:
    input:
        chapters=expand(f"{EXECUTED}/{{chapter}}.ipynb", chapter=CHAPTERS),
        prose=PROSE,
        status=f"_build/status-{PROFILE}.md",
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
        echo 'building the book'
        rm -rf _build/source _build/making
        mkdir -p _build/source/notebooks
        cp -r {input.config} book _build/source/
        cp {input.chapters} _build/source/notebooks/
        cp {input.status} _build/source/book/status.md
        jupyter-book build -W -n --keep-going \
            --path-output _build/making _build/source > {log} 2>&1 || failed {log}
        rm -rf _build/html
        mv _build/making/_build/html _build/html
        echo {params.profile} > {output}
        """


rule status:
    input:
        chapters=expand(f"{EXECUTED}/{{chapter}}.ipynb", chapter=CHAPTERS),
        page="book/status.md",
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
        python -m lpa_core status {output} --page {input.page} \
            --executed {params.executed} --benchmarks _build/benchmarks \
            > {log} 2>&1 || failed {log}
        """


rule execute:
    input:
        notebook="notebooks/{chapter}.ipynb",
        code=CODE,
        shipped=SHIPPED,
        trained=missing_runs(),
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
    threads: 2
    shell:
        # The output moves into place when the last cell has run; what a failed chapter got
        # to stays in _build/running.
        """
        echo 'running {input.notebook}'
        mkdir -p _build/running
        export OMP_NUM_THREADS={threads} PYTHONHASHSEED=0
        papermill {input.notebook} {params.running} {params.profile} \
            --kernel python3 --cwd notebooks --no-progress-bar --log-output \
            > {log} 2>&1 || failed {log}
        mv {params.running} {output}
        """


rule train:
    output:
        touch("runs/done/{profile}/{network}_s{seed}"),
    params:
        size=lambda wildcards: SIZES[wildcards.profile],
    log:
        "_build/logs/train-{profile}-{network}_s{seed}.log",
    threads: workflow.cores  # one run takes the machine
    shell:
        # Started again after a kill, a run goes on where it was.
        """
        echo 'training {wildcards.network}, seed {wildcards.seed}: see {log}'
        python -m lpa_core train --network {wildcards.network} --seed {wildcards.seed} \
            --dataset {params.size[dataset]} --recipe {params.size[recipe]} \
            --width {params.size[width]} --profile {wildcards.profile} \
            > {log} 2>&1 || failed {log}
        """
