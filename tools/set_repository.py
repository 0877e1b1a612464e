"""Replace the repository's address everywhere in the book.

    python tools/set_repository.py https://github.com/OWNER/NAME

The address is set in `_config.yml`. Chapters, badges, links and metadata repeat it, because
a notebook in Colab has no other files. All are changed together, `_config.yml` last, so
that an interrupted command can be completed by running it again. Then the README's table
of chapters gets its badges for Colab.
"""

import argparse
import os
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = ("lpa-book", "learn-to-pay-attention")  # owner and name of no repository
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
    """Owner and name of a GitHub repository. Raises ValueError for other addresses."""
    found = ADDRESS.fullmatch(url)
    if not found or found["name"] in (".", ".."):
        raise ValueError(
            f"the repository's address must be https://github.com/OWNER/NAME, "
            f"because Colab, Binder and Pages open it from there (got {url!r})"
        )
    return found["owner"], found["name"]


def pages_address(owner: str, name: str) -> str:
    """The address where GitHub publishes the repository's pages."""
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
    text = re.sub(rf"^(\s*)cd {name}$", lambda m: f"{m[1]}cd {new[1]}", text, flags=re.M)
    known = "true" if new == PLACEHOLDER else "false"
    return re.sub(r"^(\s+unpublished:) \w+$", rf"\1 {known}", text, flags=re.M)


def set_repository(url: str, root: Path = ROOT) -> list[Path]:
    """Write the address into all files under `root` that name it; returns those changed."""
    new = read_address(url)
    config = root / "_config.yml"
    old = read_address(yaml.safe_load(config.read_text("utf-8"))["repository"]["url"])
    texts = {}
    for place in PLACES:
        for path in sorted(root.glob(place)):
            text = path.read_bytes().decode()  # bytes preserve line endings
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


def write_badges(root: Path = ROOT) -> None:
    """The README's table of chapters, with badges if the repository is set."""
    from readme import chapters, with_blocks  # it takes seconds to import

    page = root / "README.md"
    text = page.read_bytes().decode()
    renewed = with_blocks(text, {"chapters": chapters(root)})
    if renewed != text:
        page.write_bytes(renewed.encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="https://github.com/OWNER/NAME")
    try:
        files = set_repository(parser.parse_args().url)
        write_badges()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(files)} files changed", *(p.relative_to(ROOT) for p in files), sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
