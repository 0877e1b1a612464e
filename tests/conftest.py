"""The book is built before the tests that read it; shapes and types are checked throughout.

`make test` runs the suite in several processes, all that needs no book first.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

# Before anything imports lpa_core: each annotated shape and type is then checked at each
# call. An int passes for a float, as it does in Python.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
jaxtyping.install_import_hook("lpa_core", CHECKER)

ROOT = Path(__file__).resolve().parents[1]
# A checkpoint after each epoch, however short: tests kill and resume runs between them.
os.environ["LPA_CHECKPOINT_SECONDS"] = "0"
# Processes beside each other share the cores, and so do the programs that they start.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
if WORKERS > 1:
    THREADS = max(1, (os.cpu_count() or 1) // WORKERS)
    torch.set_num_threads(THREADS)
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

READ_THE_BOOK = (
    "test_notebooks.py",
    "test_teacher_pack.py",
    "test_slides.py",
    "test_book.py",
    "test_touch.py",
)


@pytest.fixture(autouse=True)
def same_draws():
    """Each test starts from one seed, in whatever order the tests run."""
    torch.manual_seed(0)


@pytest.fixture
def few_test_images(monkeypatch):
    """For runs of which the weights count: the first 200 test images stand for all.

    All 2,000 of the embedded set take as long as hundreds of steps of training.
    """
    from lpa_core.training import inputs

    real = inputs.load

    def load(name, split, *given):
        data = real(name, split, *given)
        count = 200 if split == "test" else len(data)
        return dataclasses.replace(
            data, images=data.images[:count], labels=data.labels[:count], masks=None
        )

    monkeypatch.setattr(inputs, "load", load)


@pytest.fixture
def muon_as_on_a_card(monkeypatch):
    """`StackedMuon`, also on a CPU with bfloat16, which trains with torch's own.

    Torch's asks for the rate as a number, which a recorded step cannot.
    """
    from lpa_core.training import optim

    monkeypatch.setattr(optim, "newton_schulz_type", lambda device: torch.float32)


@pytest.fixture(scope="session")
def real_cifar10() -> Path:
    """The folder of the prepared CIFAR-10; a test that asks for it needs the real one."""
    folder = Path(os.environ.get("LPA_DATA") or "~/.cache/lpa").expanduser()
    if not (folder / "cifar10.npz").exists():
        pytest.skip(f"no prepared CIFAR-10 at {folder} (set LPA_DATA to its folder)")
    return folder


@pytest.fixture(scope="session")
def site():
    """The address at which the built book is served here."""
    from browser import serve

    with serve() as address:
        yield address


@pytest.fixture(scope="session")
def chromium():
    """The browser, one for all tests of a process."""
    from browser import launch

    with launch() as browser:
        yield browser


def pytest_addoption(parser):
    parser.addoption(
        "--build",
        action="store_true",
        help="bring the executed chapters and the book up to date before their tests",
    )
    parser.addoption(
        "--whole",
        action="store_true",
        help="run the teacher pack's long notebooks whole, not only what exercises need",
    )


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name in READ_THE_BOOK:
            item.add_marker(pytest.mark.book)


def pytest_sessionstart(session):
    """Build the book once, whatever number of processes runs the tests."""
    here = not hasattr(session.config, "workerinput")
    if here and session.config.getoption("--build") and (fault := build(session.config)):
        pytest.exit(fault, returncode=1)


def pytest_runtest_setup(item):
    built = (ROOT / "_build/html/.built").exists()
    if item.get_closest_marker("book") and not built:
        fault = "there is no built book: run `make book` first, or pytest --build"
        pytest.fail(fault, pytrace=False)


def build(config) -> str:
    """Run Snakemake as `make book` does, its output in sight; "" if it went well."""
    here = Path(sys.executable).parent
    command = [
        *(sys.executable, "-m", "snakemake", "--cores", "all", "--nolock"),
        *("--rerun-incomplete", "--keep-going", "--quiet", "rules", "host", "progress"),
        *("--config", "profile=smoke", "--", "book", "teaching_lab"),
    ]
    path = f"{here}{os.pathsep}{os.environ['PATH']}"
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\nbuilding the book: ", " ".join(command[1:]), flush=True)
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": path})
    if done.returncode:
        return "the book was not built: see the log above, or run `make book`"
    return ""
