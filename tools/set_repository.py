"""Write another address of the repository wherever the book says it.

    python tools/set_repository.py https://github.com/OWNER/NAME

The address stands in `_config.yml`. Chapters, badges, links and metadata repeat it, since a
notebook in Colab has nothing but itself. They are changed together, `_config.yml` last: a
command that was interrupted is completed by giving it again.
"""

import argparse
import os
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
# Files that may name the repository; tests/test_house.py finds others.
PLACES = (
    "README.md",
    "CITATION.cff",
    "pyproject.toml",
    "Makefile",
    "book/**/*.md",
    "notebooks/*.ipynb",
    "teaching/*.ipynb",
    ".github/**/*.yml",
    "profiles/**/*.yaml",
    "_config.yml",
)
ADDRESS = re.compile(
    r"https://github\.com/(?P<owner>[A-Za-z0-9](?:-?[A-Za-z0-9])*)/(?P<name>[\w.-]+?)(?:\.git)?/?"
)


def read_address(url: str) -> tuple[str, str]:
    """Owner and name of a repository on GitHub. Raises ValueError for anything else."""
    found = ADDRESS.fullmatch(url)
    if not found or found["name"] in (".", ".."):
        raise ValueError(
            f"the repository's address must be https://github.com/OWNER/NAME, "
            f"because Colab, Binder and Pages open it from there (got {url!r})"
        )
    return found["owner"], found["name"]


def pages_address(owner: str, name: str) -> str:
    """Where GitHub publishes the repository's pages."""
    site = f"{owner.lower()}.github.io"
    return f"https://{site}/" if name.lower() == site else f"https://{site}/{name}/"


def changed(text: str, old: tuple[str, str], new: tuple[str, str]) -> str:
    """The text with each address of the old repository replaced by the new one's."""
    owner, name = map(re.escape, old)
    hosts = r"github\.com/|colab\.research\.google\.com/github/|mybinder\.org/v2/gh/"
    text = re.sub(
        rf"https://({hosts}){owner}/{name}(?![\w-])",
        lambda match: f"https://{match[1]}{new[0]}/{new[1]}",
        text,
    )
    text = text.replace(pages_address(*old), pages_address(*new))
    return re.sub(rf"^(\s*)cd {name}$", lambda m: f"{m[1]}cd {new[1]}", text, flags=re.M)


def set_repository(url: str, root: Path = ROOT) -> list[Path]:
    """Write the address into all files under `root` that name it; gives those changed."""
    new = read_address(url)
    config = root / "_config.yml"
    old = read_address(yaml.safe_load(config.read_text("utf-8"))["repository"]["url"])
    texts = {}
    for place in PLACES:
        for path in sorted(root.glob(place)):
            text = path.read_bytes().decode()  # bytes, so that line ends stay as they are
            if (renewed := changed(text, old, new)) != text:
                texts[path] = renewed
    waiting = {path: path.with_name(f".{path.name}.new") for path in texts}
    try:
        for path, text in texts.items():
            waiting[path].write_bytes(text.encode())
            waiting[path].chmod(path.stat().st_mode)
        for path in texts:
            os.replace(waiting[path], path)
    finally:
        for path in waiting.values():
            path.unlink(missing_ok=True)
    return list(texts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="https://github.com/OWNER/NAME")
    try:
        files = set_repository(parser.parse_args().url)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(files)} files changed", *(p.relative_to(ROOT) for p in files), sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
