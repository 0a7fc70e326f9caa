"""The order of the chapters, read from the one place where it is written: the sidebar of
_quarto.yml.

A folder of nbs/ is a part of the book and a package of the library. A notebook whose name begins
with a number is a chapter of the reading path; one without a number is reference."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def sections(root=ROOT):
    """[(caption or None, [notebook, ...]), ...] in reading order; notebooks as paths below nbs/."""
    text = (root / "_quarto.yml").read_text(encoding="utf-8")
    contents = yaml.safe_load(text)["website"]["sidebar"]["contents"]
    found = []
    for entry in contents:
        if isinstance(entry, str):
            found.append((None, [entry]))
        else:
            found.append((entry["section"], list(entry["contents"])))
    return found


def chapters(root=ROOT):
    """All notebooks of the site in reading order."""
    return [name for _, names in sections(root) for name in names]


def is_numbered(notebook):
    """Whether a notebook belongs to the reading path."""
    return re.match(r"\d+_", Path(notebook).name) is not None


def page_name(notebook):
    """The page a notebook becomes:

    02_io/01_scan.ipynb -> 02_io/scan, guides/data.ipynb -> guides/data.
    """
    path = Path(notebook)
    return path.with_name(re.sub(r"^\d+_", "", path.stem)).as_posix()
