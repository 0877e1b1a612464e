"""A chapter's page opens with its idea; how to run it is at the end.

A notebook has to begin with its set-up: a table of times by profile, the parameters, and
`notebook.begin`. On the page, these move to a last, folded section. The code that checks an
exercise is folded in place, with its output visible.
"""

from docutils import nodes
from sphinx.transforms import SphinxTransform

HEADING = "Run this chapter"
SAID = (
    "This page is a notebook. The rocket at the top opens it in Colab or Binder. One word, "
    "its profile, sets how much is computed:"
)


def is_cell(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def source(cell: nodes.Element) -> str:
    """A code cell's own text, without its output."""
    inputs = [
        node
        for node in cell.findall(nodes.container)
        if node.get("nb_element") == "cell_code_source"
    ]
    return inputs[0].astext() if inputs else ""


def fold(cell: nodes.Element, mode: str, what: str) -> None:
    """Fold a cell like one of myst-nb's own tags does.

    Args:
        mode: "all", or "input" to keep the cell's output visible.
        what: name of the folded part, for its button.
    """
    cell["hide_mode"] = mode
    cell["prompt_show"] = f"Show {what}"
    cell["prompt_hide"] = f"Hide {what}"


def is_profiles(node: nodes.Node) -> bool:
    """Whether it is the table of the profiles and their times."""
    if not isinstance(node, nodes.table):
        return False
    entry = next(node.findall(nodes.entry), None)
    return entry is not None and entry.astext() == "profile"


class RunningLast(SphinxTransform):
    """Move a chapter's set-up to its end, and fold it and the checks of exercises."""

    default_priority = 800

    def apply(self, **kwargs) -> None:
        chapter = next(self.document.findall(nodes.section), None)
        if chapter is None or not str(self.env.doc2path(self.env.docname)).endswith(
            ".ipynb"
        ):
            return
        moved = [node for node in chapter.children if is_profiles(node)]
        for cell in [n for n in self.document.findall(nodes.container) if is_cell(n)]:
            code = source(cell)
            if "tag_parameters" in cell["classes"]:
                fold(cell, "all", "the parameters")
                moved.append(cell)
            elif "notebook.begin(globals())" in code:
                fold(cell, "all", "how it begins, and on what it ran")
                moved.append(cell)
            elif "\ndef check_" in f"\n{code}":
                fold(cell, "input", "the function to complete, and its check")
        if moved:
            chapter.append(self.last_section(moved))

    def last_section(self, moved: list[nodes.Element]) -> nodes.section:
        for node in moved:
            node.parent.remove(node)
        section = nodes.section(names=[nodes.fully_normalize_name(HEADING)])
        self.document.set_id(section)
        section.extend([nodes.title("", HEADING), nodes.paragraph("", SAID), *moved])
        return section


def setup(app):
    app.add_transform(RunningLast)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
