"""JupyterLab on the chapters, as `make lab` and Binder open it, in Chromium."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def test_the_rule_opens_the_chapters():
    rule = re.search(r"^lab:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    assert rule == "\t@$(BIN)/jupyter lab notebooks\n"


def test_binder_installs_the_pins_and_the_package():
    folder = ROOT / ".binder"
    included = re.fullmatch(r"-r (.+)\n", (folder / "requirements.txt").read_text())[1]
    assert (folder / included).resolve() == ROOT / "requirements.txt"
    pins = (ROOT / "requirements.txt").read_text()
    assert re.search(r"^jupyterlab==", pins, re.M)
    # postBuild makes the package without fetching what it is made with
    assert re.search(r"^hatchling==", pins, re.M)
    assert (folder / "postBuild").stat().st_mode & 0o111
    version = re.fullmatch(r"python-(3\.\d+)\n", (folder / "runtime.txt").read_text())[1]
    assert f'requires-python = ">={version}"' in (ROOT / "pyproject.toml").read_text()


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab on a copy of the chapters, where it may save."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    own = {f"JUPYTER_{name}": str(tmp_path / name.lower()) for name in folders}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces")}
    command = [
        *(sys.executable, "-m", "jupyterlab", "notebooks", "--no-browser", "--allow-root"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        *("--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=book"),
    ]
    address = f"http://127.0.0.1:{port}/lab"
    log = tmp_path / "lab.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=os.environ | own, stdout=out, stderr=out
        )
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{address}?token=book", timeout=5)
                    break
                except OSError:
                    assert server.poll() is None, log.read_text()
                    time.sleep(0.5)
            else:
                pytest.fail(log.read_text())
            yield address
        finally:
            server.terminate()
            server.wait(60)


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_chapter_opens_and_a_cell_runs(lab):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(f"{lab}?token=book")
        listed = page.locator(".jp-DirListing-itemName")
        listed.get_by_text("01_idea.ipynb", exact=True).wait_for()
        names = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
        assert names <= set(listed.all_inner_texts())
        # the address that Binder's button leads to
        page.goto(f"{lab}/tree/01_idea.ipynb")
        cell = page.locator(".jp-Notebook .jp-CodeCell").first
        # what is typed while the kernel starts may reach the notebook, not the cell
        page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()
        editor = cell.locator(".cm-content")
        editor.click()
        expect(editor).to_be_focused()
        page.keyboard.press("Control+Home")
        page.keyboard.type("print('cells', 'run')\n")
        expect(editor).to_contain_text("print('cells', 'run')")
        page.keyboard.press("Shift+Enter")
        cell.locator(".jp-OutputArea-output").get_by_text("cells run").wait_for()
        browser.close()
