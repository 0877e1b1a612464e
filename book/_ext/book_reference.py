"""Links and help texts that the reference pages take from the code during the build.

* `{line}` with `lpa_core.attention.AttentionEstimator.weigh, softmax` is a link to the one
  line of that object's source that contains the text, at the repository's address.
* `{help} records verify` shows the `--help` text of that command of lpa_core.
* A name of lpa_core links to its entry under any of its paths: an object that a package
  exports has its entry there, and no second one at the module that defines it.
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
    """All modules that export names, packages before their modules."""
    package = importlib.import_module(PACKAGE)
    inside = pkgutil.walk_packages(package.__path__, f"{PACKAGE}.")
    names = [PACKAGE, *(m.name for m in inside if not m.name.endswith("__main__"))]
    return tuple(n for n in names if hasattr(importlib.import_module(n), "__all__"))


def find(path: str) -> object:
    """The object with a dotted name.

    Raises:
        LookupError: it does not exist.
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

    An object that a package exports from its modules has its entry in the package; one that
    a module exports from elsewhere has it there. lpa_core itself only re-exports.
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
    """The name of the entry for each exported name, `module.name`."""
    return {
        f"{module}.{name}": entry(module, name)
        for module in modules()
        for name in importlib.import_module(module).__all__
    }


def stands_elsewhere(app, what, name, thing, skip, options) -> bool | None:
    """For autodoc: True skips a name whose entry is in another module."""
    module = app.env.temp_data.get("autodoc:module")
    if what != "module" or module not in modules():
        return None
    own = f"{module}.{name}"
    return True if entries().get(own, own) != own else None


def resolve(app, env, node, written):
    """Resolve a name without an entry of its own: to its entry by another path, or no link.

    The book has no entries for names of torch and Python, or for names that lpa_core does
    not export. Names that do not exist are left to Sphinx, which reports them.
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
    """The entry of `module.name` and the name within it; None if there is no entry."""
    known = entries()
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        owner = ".".join(parts[:length])
        if owner in known:
            return known[owner], ".".join(parts[length:])
    return None, ""


# --------------------------------------------------------------------------- lines


def line_of(path: str, text: str = "") -> tuple[Path, int]:
    """The file of an object, relative to the repository, and a line number in it.

    Args:
        path: the object's dotted name.
        text: a text that is in exactly one of the object's lines; "" for its first line.

    Raises:
        LookupError: there is no such object, or not exactly one such line.
    """
    thing = inspect.unwrap(find(path))
    lines, first = inspect.getsourcelines(thing)
    found = [first + n for n, line in enumerate(lines) if text in line]
    if text and len(found) != 1:
        raise LookupError(f"{path}: {len(found)} lines contain {text!r}, expected one")
    root = Path(importlib.import_module(PACKAGE).__file__).parents[1]
    return Path(inspect.getsourcefile(thing)).relative_to(root), found[0]


def repository(config) -> str:
    """The address of the code's files, from the one in _config.yml."""
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
    """The text of `python -m lpa_core … --help`, in lines of at most COLUMNS characters.

    Raises:
        LookupError: unknown command.
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
