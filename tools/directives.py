"""The contents of a chapter besides text and code: directives, and values for its prose."""

import ast
import re

import nbformat

__all__ = ["FENCED", "blocks", "glued", "options"]

FENCED = re.compile(
    r"^(?P<fence>`{3,})\{(?P<name>[\w:-]+)\}[ ]*(?P<title>[^\n]*)\n"
    r"(?P<options>(?::[\w-]+:[^\n]*\n)*)(?P<body>.*?)^(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)


def options(match: re.Match) -> dict[str, str]:
    return dict(re.findall(r"^:([\w-]+):[ ]*(.*)$", match["options"], re.MULTILINE))


def blocks(text: str) -> list[re.Match]:
    """The top-level directives of a cell."""
    return list(FENCED.finditer(text))


def glued(notebook: nbformat.NotebookNode) -> dict[str, object]:
    """The values that an executed chapter passed to its text."""
    values = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
                text = next(v for k, v in output.data.items() if k.endswith("text/plain"))
                values[name] = ast.literal_eval(text)
    return values
