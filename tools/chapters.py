"""The order of the chapters, read from the one place where it is written: the sidebar of _quarto.yml."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def sections(root=ROOT):
    """[(caption or None, [notebook, ...]), ...] in reading order; notebooks as paths below nbs/."""
    contents = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))["website"][
        "sidebar"
    ]["contents"]
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


def page_name(notebook):
    """The page a notebook becomes: 00_scan.ipynb -> scan, guides/01_data.ipynb -> guides/data."""
    path = Path(notebook)
    return path.with_name(re.sub(r"^\d+[a-z]?_", "", path.stem)).as_posix()
