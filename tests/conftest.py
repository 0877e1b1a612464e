"""Quick tests first; `--build` builds the book before the tests that read it."""

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
# They run last, in this order.
READS_THE_BOOK = ("test_notebooks.py", "test_teacher_pack.py", "test_book.py")
BUILD = pytest.StashKey[str]()


@pytest.fixture(autouse=True)
def same_draws():
    """Each test starts from one seed, in whatever order the tests run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_cifar10() -> Path:
    """The folder of the prepared CIFAR-10; a test that asks for it needs the real one."""
    folder = Path(os.environ.get("LPA_DATA") or "~/.cache/lpa").expanduser()
    if not (folder / "cifar10.npz").exists():
        pytest.skip(f"no prepared CIFAR-10 at {folder} (set LPA_DATA to its folder)")
    return folder


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
    """Quick failures first: what needs the book comes last."""

    def place(item):
        name = item.path.name
        return READS_THE_BOOK.index(name) + 1 if name in READS_THE_BOOK else 0

    items.sort(key=place)  # stable: all else stays in its order


def pytest_runtest_setup(item):
    if item.path.name in READS_THE_BOOK:
        fault = book_fault(item.config)
        if fault:
            pytest.fail(fault, pytrace=False)


def book_fault(config) -> str:
    """What keeps the book from being read, "" if nothing does; found out once."""
    if BUILD not in config.stash:
        config.stash[BUILD] = build(config) if config.getoption("--build") else ""
    if config.stash[BUILD]:
        return config.stash[BUILD]
    if not (ROOT / "_build/html/.built").exists():
        return "there is no built book: run `make book` first, or pytest --build"
    return ""


def build(config) -> str:
    """Run Snakemake as `make book` does, its output in sight; "" if it went well."""
    here = Path(sys.executable).parent
    command = [
        *(sys.executable, "-m", "snakemake", "--cores", "all", "--nolock"),
        *("--rerun-incomplete", "--keep-going", "--quiet", "rules", "host", "progress"),
        *("--config", "profile=smoke", "--", "book"),
    ]
    path = f"{here}{os.pathsep}{os.environ['PATH']}"
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\nbuilding the book: ", " ".join(command[1:]), flush=True)
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": path})
    if done.returncode:
        return "the book was not built: see the log above, or run `make book`"
    return ""
