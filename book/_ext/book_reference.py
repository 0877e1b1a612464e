"""What the reference pages take from the code when the book is built.

* `{line}` with `lpa_core.attention.AttentionEstimator.weigh, softmax` is a link to the one
  line of that object's source that holds the text, at the repository's address.
* `{help} records verify` shows what that command of lpa_core says with `--help`.
* A name of lpa_core leads to its entry by whatever path it is written: an object that a
  package exports has its entry there, and not a second one at the module that defines it.
"""

import functools
import importlib
import inspect
import os
import pkgutil
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.logging import getLogger
from sphinx.util.nodes import make_refnode

PACKAGE = "lpa_core"
COLUMNS = 72  # of a help text
LOG = getLogger(__name__)


# --------------------------------------------------------------------------- names


@functools.cache
def modules() -> tuple[str, ...]:
    """Every module that exports names, packages before what they hold."""
    package = importlib.import_module(PACKAGE)
    inside = pkgutil.walk_packages(package.__path__, f"{PACKAGE}.")
    names = [PACKAGE, *(m.name for m in inside if not m.name.endswith("__main__"))]
    return tuple(n for n in names if hasattr(importlib.import_module(n), "__all__"))


def find(path: str) -> object:
    """The object of a dotted name.

    Raises:
        LookupError: there is none.
    """
    module, rest = path, []
    while module:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, name = module.rpartition(".")
            rest.insert(0, name)
    else:
        raise LookupError(f"no module in {path!r}")
    for name in rest:
        if not hasattr(found, name):
            raise LookupError(f"{path!r}: {found!r} has no {name!r}")
        found = getattr(found, name)
    return found


def exports(module: str, name: str, thing: object) -> bool:
    """Whether a module exports this very object by this name."""
    found = importlib.import_module(module)
    return name in getattr(found, "__all__", ()) and getattr(found, name) is thing


def entry(module: str, name: str) -> str:
    """The name of an exported object's entry.

    What a package exports of its modules has its entry in the package; what a module
    exports of another has it there. lpa_core itself only hands on.
    """
    thing = getattr(importlib.import_module(module), name)
    if inspect.ismodule(thing):
        return thing.__name__
    origin = getattr(thing, "__module__", None) or module
    if getattr(thing, "__name__", None) != name or not origin.startswith(f"{PACKAGE}."):
        origin = module
    if not exports(origin, name, thing):
        origin = module
    package = origin.rpartition(".")[0]
    if package not in ("", PACKAGE) and exports(package, name, thing):
        return f"{package}.{name}"
    return f"{origin}.{name}"


@functools.cache
def entries() -> dict[str, str]:
    """Of every exported name, as `module.name`, the name of its entry."""
    return {
        f"{module}.{name}": entry(module, name)
        for module in modules()
        for name in importlib.import_module(module).__all__
    }


def stands_elsewhere(app, what, name, thing, skip, options) -> bool | None:
    """For autodoc: True leaves a name out whose entry is another module's."""
    module = app.env.temp_data.get("autodoc:module")
    if what != "module" or module not in modules():
        return None
    own = f"{module}.{name}"
    return True if entries().get(own, own) != own else None


def resolve(app, env, node, written):
    """A name that has no entry as it is written: its entry by another path, or no link.

    Torch's and Python's own names are not in this book, nor what lpa_core does not
    export. What is not there at all is left to Sphinx, which says so.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    owner, member = entry_of(target)
    objects = env.get_domain("py").objects
    entry = f"{owner}.{member}" if member else owner
    if owner and entry in objects:
        found = objects[entry]
        return make_refnode(
            app.builder, node["refdoc"], found.docname, found.node_id, written
        )
    if node["reftype"] == "obj" or not target.startswith(f"{PACKAGE}."):
        return written
    try:
        find(target)
    except LookupError:
        return None
    return written


def entry_of(target: str) -> tuple[str | None, str]:
    """The entry of `module.name` and what is named within it; None where there is none."""
    known = entries()
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        owner = ".".join(parts[:length])
        if owner in known:
            return known[owner], ".".join(parts[length:])
    return None, ""


# --------------------------------------------------------------------------- lines


def line_of(path: str, text: str = "") -> tuple[Path, int]:
    """The file of an object, from the repository, and the number of a line of its source.

    Args:
        path: the object's dotted name.
        text: what exactly one of the object's lines holds; "" for its first line.

    Raises:
        LookupError: there is no such object, or not one such line.
    """
    thing = inspect.unwrap(find(path))
    lines, first = inspect.getsourcelines(thing)
    found = [first + n for n, line in enumerate(lines) if text in line]
    if text and len(found) != 1:
        raise LookupError(f"{path}: {len(found)} lines hold {text!r}, it should be one")
    root = Path(importlib.import_module(PACKAGE).__file__).parents[1]
    return Path(inspect.getsourcefile(thing)).relative_to(root), found[0]


def repository(config) -> str:
    """Where the code's files stand, by the address in _config.yml."""
    options = config.html_theme_options
    return f"{options['repository_url']}/blob/{options['repository_branch']}"


class Line(SphinxRole):
    """A link to one line of the code."""

    def run(self):
        path, _, text = self.text.partition(", ")
        try:
            file, number = line_of(path, text)
        except LookupError as error:
            LOG.warning("%s", error, location=self.get_location())
            return [nodes.literal(text=self.text)], []
        address = f"{repository(self.config)}/{file.as_posix()}#L{number}"
        text = f"{file.name}:{number}"
        return [nodes.reference("", text, refuri=address, classes=["code-line"])], []


# --------------------------------------------------------------------------- help


def help_text(words: str) -> str:
    """What `python -m lpa_core … --help` says, in lines of at most COLUMNS characters.

    Raises:
        LookupError: there is no such command.
    """
    cli = importlib.import_module(f"{PACKAGE}.cli")
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(COLUMNS)
    try:
        return cli.help_text(words)
    except cli.UsageError as error:
        raise LookupError(str(error)) from error
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


class Help(SphinxDirective):
    """The help text of a command."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self):
        try:
            text = help_text(self.arguments[0] if self.arguments else "")
        except LookupError as error:
            raise self.error(str(error)) from None
        return [nodes.literal_block(text, text, language="text")]


def setup(app):
    app.add_role("line", Line())
    app.add_directive("help", Help)
    app.connect("autodoc-skip-member", stands_elsewhere)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
