"""`make pdf`: a small book, printed for real, and what is said without Chromium."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools/pdf.py"
PAGE = """# A page

```{figure} dot.png
:alt: A dot.
A picture.
```

$$ e^{i\\pi} = -1 $$
"""
DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "book").mkdir(parents=True)
    (folder / "_config.yml").write_text(
        "title: A book\nparse: {myst_enable_extensions: [dollarmath]}\n"
        "sphinx: {config: {mathjax_path: mathjax/tex-svg-full.js,"
        " html_static_path: [book/_static]}}\n"
    )
    (folder / "_toc.yml").write_text("format: jb-book\nroot: book/intro\n")
    (folder / "book/intro.md").write_text(PAGE)
    (folder / "book/dot.png").write_bytes(DOT)
    (folder / "book/_static").mkdir()
    os.symlink(ROOT / "book/_static/mathjax", folder / "book/_static/mathjax")
    return folder


def run(source: Path, target: Path, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), str(source), str(target)]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


needs_chromium = pytest.mark.skipif(
    not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    reason="needs Chromium",
)


@needs_chromium
def test_a_book_is_printed(source, tmp_path):
    target = tmp_path / "out" / "book.pdf"
    done = run(source, target)
    assert done.returncode == 0, done.stdout + done.stderr
    content = target.read_bytes()
    assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
    assert list(target.parent.iterdir()) == [target]  # nothing of the making is left


@needs_chromium
def test_a_formula_that_is_not_set_is_not_printed(source, tmp_path):
    os.unlink(source / "book/_static/mathjax")
    target = tmp_path / "out" / "book.pdf"
    done = run(source, target, LPA_PDF_TIMEOUT="3")
    assert done.returncode == 1 and "error: Chromium could not print the PDF" in done.stderr
    assert list(target.parent.iterdir()) == []


def test_without_chromium_it_says_so_and_leaves_nothing(source, tmp_path):
    target = tmp_path / "out" / "book.pdf"
    empty = tmp_path / "no-browsers"
    done = run(source, target, PATH="/nowhere", PLAYWRIGHT_BROWSERS_PATH=str(empty))
    assert done.returncode == 1
    assert "error: Chromium could not print the PDF" in done.stderr
    assert "apt-get install chromium" in done.stderr
    assert list(target.parent.iterdir()) == []
