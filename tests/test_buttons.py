"""A page's buttons lead to the repository, or say that there is none yet."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "https://github.com/some-one/attention"
CHAPTER = nbformat.v4.new_notebook(
    cells=[nbformat.v4.new_markdown_cell(f"# One\n\n[here]({ADDRESS}/issues)")]
)


@pytest.fixture(scope="module", params=[True, False], ids=["unpublished", "published"])
def built(request, tmp_path_factory):
    """(whether it is unpublished, its chapter) of a book of two pages."""
    folder = tmp_path_factory.mktemp("book")
    (folder / "notebooks").mkdir()
    nbformat.write(CHAPTER, folder / "notebooks/one.ipynb")
    (folder / "book").mkdir()
    (folder / "book/publishing.md").write_text("# Us\n\n(not-yet-published)=\n## Why\n")
    (folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/publishing\nchapters:\n  - file: notebooks/one\n"
    )
    whole = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config = {
        "execute": {"execute_notebooks": "off"},
        "repository": whole["repository"] | {"url": ADDRESS},
        "launch_buttons": whole["launch_buttons"],
        "html": {k: v for k, v in whole["html"].items() if k.startswith("use_")},
        "sphinx": {
            "local_extensions": {"book_buttons": str(ROOT / "book/_ext")},
            "extra_extensions": ["book_buttons"],
            "config": {"unpublished": request.param},
        },
    }
    (folder / "_config.yml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [Path(sys.executable).with_name("jupyter-book"), "build", "-q", str(folder)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (folder / "_build/html/notebooks/one.html").read_text(encoding="utf-8")
    return request.param, BeautifulSoup(page, "html.parser")


def test_buttons_open_the_repository_or_say_why_not(built):
    unpublished, page = built
    buttons = page.select(".header-article__inner a.btn[href]")
    led = {button.get_text(strip=True): button for button in buttons}
    for text in ("Colab", "Binder", "Repository", "Suggest edit", "Open issue"):
        button = led[text]
        if unpublished:
            assert button["href"] == "../book/publishing.html#not-yet-published"
            assert (
                button["title"].startswith(text) and "does not work yet" in button["title"]
            )
        else:
            assert "some-one/attention" in button["href"]
            assert "does not work" not in button.get("title", "")


def test_links_in_the_text_do_so_as_well(built):
    unpublished, page = built
    link = page.find("a", string="here")
    wanted = "../book/publishing.html#not-yet-published" if unpublished else ADDRESS
    assert link["href"].startswith(wanted)
    assert ("does not work yet" in link.get("title", "")) == unpublished


def test_the_page_on_publishing_has_the_place_that_buttons_lead_to():
    sys.path.insert(0, str(ROOT / "book/_ext"))
    import book_buttons

    page = (ROOT / f"{book_buttons.PAGE}.md").read_text(encoding="utf-8")
    assert f"({book_buttons.PLACE.removeprefix('#')})=" in page
    for command in re.findall(r"^\s+make ([\w-]+)", page, re.MULTILINE):
        assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
