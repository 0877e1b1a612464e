"""The batch under faults: real processes, killed by a signal that none can catch.

A small grid is run by Snakemake as `make full` runs it, in a folder of its own.
"""

import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import chdir, redirect_stdout
from pathlib import Path

import nbformat
import psutil
import pytest
import torch
import yaml

from lpa_core.__main__ import main
from lpa_core.plan import read_grid
from lpa_core.results import read_measurements, read_records
from lpa_core.training import Record, RunSpec, run
from lpa_core.training.checkpoint import read_pair

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SNAKEFILE = ("Snakefile", "profiles", "lpa_core", "requirements.txt", "tools")
STORED = (*SNAKEFILE, "notebooks", "book", "_toc.yml", "_config.yml")
SHARED = {"dataset": "embedded", "recipe": "fast", "width": 0.0625}
GRID = {
    "profile": "smoke",
    "weights": "weights",
    "runs": [
        SHARED | {"epochs": 8, "train_images": 256, "networks": {"vgg": [0]}},
        SHARED | {"epochs": 2, "train_images": 256, "networks": {"vgg-att-pc": [0]}},
    ],
    "measurements": [
        {
            "task": "look",
            "dataset": "embedded",
            "trained_on": "embedded",
            "images": 32,
            "networks": {"vgg-att-pc": [0]},
        }
    ],
}
# This run cannot be: the set has 8000 images.
FAILING = SHARED | {"train_images": 9000, "networks": {"vgg-gap": [0]}}


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def place(folder: Path, grid: dict) -> None:
    """A folder that holds what the batch needs, and nothing that was made."""
    for name in STORED:
        (folder / name).symlink_to(ROOT / name)
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))


def plan(folder: Path) -> str:
    """What the command says. Nobody kills it: this process has imported it already."""
    said = io.StringIO()
    with chdir(folder), redirect_stdout(said):
        assert main(["plan", "--grid", "grid.yaml", "--write", "plan.json"]) == 0
    return said.getvalue()


STEPS = ("--config", "profile=smoke", "train=true", "plan=plan.json", "--", "steps")


def snakemake(folder: Path, *asked: str, cores: int = 1) -> subprocess.Popen:
    """The batch in processes of their own, which can be killed together.

    Args:
        asked: what of it, in Snakemake's words; the plan's steps if nothing is said.
    """
    words = ["--cores", str(cores), "--nolock", "--rerun-incomplete", "--keep-going"]
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *words, "--quiet", "rules", *(asked or STEPS)],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("runs/*/checkpoint-*.json")}


def wait_for(what, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


def undisturbed(spec: RunSpec, runs: Path) -> Record:
    """Trained in one go, by as many threads as the batch: sums depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(int(environment()["OMP_NUM_THREADS"]))
    try:
        return run(spec, runs=runs, device="cpu", progress=False)
    finally:
        torch.set_num_threads(threads)


def test_killed_at_any_moment_the_same_command_goes_on(tmp_path):
    """All is killed at once, as when the machine goes down; twice, at random moments."""
    place(tmp_path, GRID)
    draw = random.Random()  # another moment each time
    for _ in range(2):
        plan(tmp_path)
        before = checkpoints(tmp_path)
        process = snakemake(tmp_path)
        wait_for(lambda before=before: checkpoints(tmp_path) - before, process)
        time.sleep(draw.uniform(0, 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    plan(tmp_path)
    process = snakemake(tmp_path)
    out = process.communicate(timeout=600)[0]
    assert process.returncode == 0, out[-2000:]

    lines = (tmp_path / "results/records.jsonl").read_text().splitlines()
    assert all(json.loads(line) for line in lines)  # none is torn
    records = {r.spec.network: r for r in read_records(tmp_path / "results/records.jsonl")}
    assert len(lines) == len(records) == 2
    assert max(record.sessions for record in records.values()) > 1
    for spec in read_grid(tmp_path / "grid.yaml").specs():
        straight = undisturbed(spec, tmp_path / "straight")
        assert records[spec.network].metrics == straight.metrics
        assert records[spec.network].weights_sha256 == straight.weights_sha256
    (measured,) = read_measurements(tmp_path / "results/measurements.jsonl")
    assert measured.weights.run == records["vgg-att-pc"].id
    assert "nothing is left to do" in plan(tmp_path)


def test_a_run_that_outlives_snakemake_is_waited_for(tmp_path):
    """Snakemake alone is killed: what it started goes on training, and only once."""
    place(tmp_path, GRID | {"runs": GRID["runs"][:1], "measurements": []})
    plan(tmp_path)
    first = snakemake(tmp_path)
    wait_for(lambda: checkpoints(tmp_path), first)
    left = psutil.Process(first.pid).children(recursive=True)
    for process in left:
        process.suspend()  # so that it is still there when the batch starts again
    first.kill()
    first.wait()
    first.stdout.close()
    out = ""
    try:
        plan(tmp_path)
        second = snakemake(tmp_path)
        busy = "waiting for vgg_embedded_w0.0625_fast_e8_s0 that was started before"
        while busy not in out:
            line = second.stdout.readline()
            assert line, out[-2000:]
            out += line
    finally:
        for process in left:
            process.resume()
    out += second.communicate(timeout=600)[0]
    assert second.returncode == 0, out[-2000:]
    (record,) = read_records(tmp_path / "results/records.jsonl")
    assert record.sessions == 1
    facts = read_pair(tmp_path / "weights/vgg_embedded_w0.0625.safetensors")[1]
    assert facts["run"] == record.id


CHAPTERS = {
    "good": "print('good')",
    "bad": "from pathlib import Path\nassert Path('../mended').exists(), 'not mended yet'",
    # Its parent is papermill.
    "slow": (
        "import os, time\nfrom pathlib import Path\n"
        "Path('../papermill').write_text(str(os.getppid()))\n"
        "time.sleep(0 if Path('../mended').exists() else 600)"
    ),
}


def test_a_chapter_that_fails_or_is_killed_costs_no_other(tmp_path):
    """One has a failing cell, papermill is killed over another; the third one is done."""
    for name in SNAKEFILE:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "notebooks").mkdir()
    for name, source in CHAPTERS.items():
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        nbformat.write(book, tmp_path / f"notebooks/{name}.ipynb")
    parts = [{"chapters": [{"file": f"notebooks/{name}"} for name in CHAPTERS]}]
    toc = {"root": "book/intro", "parts": parts}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    executed = {name: tmp_path / f"_build/executed/{name}.ipynb" for name in CHAPTERS}
    asked = ["--", *(str(path.relative_to(tmp_path)) for path in executed.values())]

    process = snakemake(tmp_path, *asked, cores=3)
    papermill = tmp_path / "papermill"
    wait_for(lambda: papermill.exists() and papermill.read_text(), process)
    wait_for(executed["good"].exists, process)
    os.kill(int(papermill.read_text()), signal.SIGKILL)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    report = out[out.index("2 failed, their logs:") :]
    assert all(f"_build/logs/{name}.log" in report for name in ("bad", "slow"))
    assert "not mended yet" in (tmp_path / "_build/logs/bad.log").read_text()
    assert {name for name, path in executed.items() if path.exists()} == {"good"}

    made = executed["good"].stat().st_mtime_ns
    (tmp_path / "mended").touch()
    process = snakemake(tmp_path, *asked, cores=3)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 0, out[-2000:]
    assert all(path.exists() for path in executed.values())
    assert executed["good"].stat().st_mtime_ns == made  # and was not executed again


def test_one_failing_run_is_reported_at_the_end_and_keeps_nobody_else(tmp_path):
    grid = GRID | {"runs": [FAILING, *GRID["runs"][1:]]}
    place(tmp_path, grid)
    assert "2 to train, 1 to measure, 2 to ship" in plan(tmp_path)
    process = snakemake(tmp_path)
    out = process.communicate(timeout=600)[0]
    assert process.returncode == 1
    log = "_build/logs/train-vgg-gap_embedded_w0.0625_fast_s0.log"
    report = out[out.index("1 failed, their logs:") :]
    assert log in report
    assert "train_images 9000: the set has 8000" in (tmp_path / log).read_text()
    (record,) = read_records(tmp_path / "results/records.jsonl")
    assert record.spec.network == "vgg-att-pc"
    assert len(read_measurements(tmp_path / "results/measurements.jsonl")) == 1
    facts = read_pair(tmp_path / "weights/vgg-att-pc_embedded_w0.0625.safetensors")[1]
    assert facts["run"] == record.id
    # The same command tries again what failed, and nothing else.
    assert "1 to train, 0 to measure, 1 to ship" in plan(tmp_path)


def test_runs_side_by_side_have_a_gpu_each(tmp_path):
    """What is run in place of the training notes its GPU, and when it had it."""
    grid = GRID | {"runs": [SHARED | {"networks": {"vgg": [0, 1, 2, 3, 4]}}]}
    place(tmp_path, grid | {"weights": "", "measurements": []})
    plan(tmp_path)
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/bash\n"
        'begin=$(date +%s.%N); sleep 0.7; echo "$CUDA_VISIBLE_DEVICES $begin '
        '$(date +%s.%N)" >> gpus.txt\n'
    )
    program.chmod(0o755)
    words = ["--cores", "4", "--nolock", "--resources", "gpu=2", "--config", "gpus=2"]
    words += ["profile=smoke", "train=true", "plan=plan.json", "--", "steps"]
    path = f"{program.parent}{os.pathsep}{environment()['PATH']}"
    subprocess.run(
        [sys.executable, "-m", "snakemake", *words],
        cwd=tmp_path,
        env=environment() | {"PATH": path, "CUDA_VISIBLE_DEVICES": "5,7"},
        capture_output=True,
        check=True,
    )
    rows = [line.split() for line in (tmp_path / "gpus.txt").read_text().splitlines()]
    assert len(rows) == 5
    assert {gpu for gpu, *_ in rows} == {"5", "7"}
    for gpu in ("5", "7"):
        times = sorted((float(begin), float(end)) for g, begin, end in rows if g == gpu)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(times))
    first, second = sorted((float(begin), float(end)) for _, begin, end in rows)[:2]
    assert second[0] < first[1]  # they did run side by side
