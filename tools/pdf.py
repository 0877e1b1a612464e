"""The book as one PDF, by jupyter-book's pdfhtml builder.

    python tools/pdf.py SOURCE TARGET

SOURCE is the folder that the book is built from (`_build/source`, with the executed
chapters), TARGET the file to write. The original builder prints with playwright's own
Chromium as soon as the page is idle. This one prefers the system's Chromium and waits for
the formulas and pictures.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import jupyter_book.pdf
from jupyter_book.cli.main import main as build_book
from playwright.sync_api import Error, sync_playwright
from sphinx.registry import SphinxComponentRegistry

ALL_SET = """[...document.querySelectorAll('.math')]
    .every(formula => formula.querySelector('mjx-container'))"""
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Hides what does not work on paper, and avoids page breaks in the wrong places.
STYLE = """
.bd-header, .bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .header-article,
.prev-next-footer, .bd-footer, #pst-back-to-top, .copybtn, .headerlink, .skip-link,
.togglebutton, .search-button, details.hide.above-input { display: none !important; }
.bd-main, .bd-content, .bd-article-container, .bd-page-width, .bd-container__inner
  { max-width: 100% !important; display: block !important; padding: 0 !important; }
details > *, .toggle-hidden, .toggle-hidden * { visibility: visible !important; }
.solution { display: none !important; }
pre { white-space: pre-wrap !important; overflow-wrap: anywhere; }
img { max-height: 270mm; object-fit: contain; }
figure, table, div.cell_output img, div.math { break-inside: avoid; }
pre, .highlight, .cell, .cell_input, .cell_output { break-inside: auto !important; }
.cell_output table { font-size: 70%; display: table !important; }
.cell_output table :is(td, th) { white-space: normal !important; padding: 2px 4px; }
.pst-scrollable-table-container, .cell_output, .highlight, pre
  { overflow: visible !important; }
h1, h2, h3, h4 { break-after: avoid; }
[id^="document-"] + section { break-before: page; }
"""


def browser_program() -> str | None:
    """The system's Chromium, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def print_page(html: Path, pdf: Path) -> None:
    """Print an HTML page after all formulas are rendered and all pictures are loaded."""
    html = Path(html)
    leads_on = re.search(
        r'http-equiv="Refresh" content="0; url=([^"]+)"', html.read_text("utf-8")
    )
    if leads_on:  # the page is in a folder, but its links are relative to index.html
        shutil.copyfile(html.parent / leads_on[1], html)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_program())
        page = browser.new_page(color_scheme="light")
        page.set_default_timeout(1000 * float(os.environ.get("LPA_PDF_TIMEOUT", 120)))
        page.goto(html.resolve().as_uri(), wait_until="load")
        page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.wait_for_function(
            "[...document.images].every(i => i.complete)", timeout=120_000
        )
        page.wait_for_function(ALL_SET)
        page.add_style_tag(content=STYLE)
        page.pdf(
            path=pdf,
            format="A4",
            scale=0.8,
            margin={"top": "16mm", "bottom": "18mm", "left": "16mm", "right": "16mm"},
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=(
                '<div style="font-size:8px;width:100%;text-align:center">'
                '<span class="pageNumber"></span></div>'
            ),
            outline=True,
            tagged=True,
        )
        browser.close()


def give_nodes_of_html(builder_name: str = "singlehtml") -> None:
    """Register with a builder the nodes that extensions registered only for `html`.

    Sphinx falls back to a builder's format only if nothing is registered for its name, but
    sphinx-exercise registers something.
    """
    create = SphinxComponentRegistry.create_translator

    def create_with_all(self, builder, *arguments):
        handlers = self.translation_handlers
        handlers[builder_name] = {
            **handlers.get("html", {}),
            **handlers.get(builder_name, {}),
        }
        return create(self, builder, *arguments)

    SphinxComponentRegistry.create_translator = create_with_all


def make_pdf(source: Path, target: Path) -> None:
    """Build `source` into the PDF `target`, which only appears when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pdf-") as folder:
        give_nodes_of_html()
        jupyter_book.pdf.html_to_pdf = print_page
        command = ["build", "--builder", "pdfhtml", "--path-output", folder, str(source)]
        build_book(command, standalone_mode=False)
        os.replace(Path(folder) / "_build/pdf/book.pdf", target)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    try:
        make_pdf(options.source, options.target)
    except Error as error:
        print(
            f"error: Chromium could not print the PDF: {error}\n"
            "Is it installed? (Debian: apt-get install chromium)",
            file=sys.stderr,
        )
        return 1
    print(f"{options.target}: {options.target.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
