"""Write README.md from nbs/index.ipynb: python tools/build_readme.py [--check]

nbdev's processing drops hidden cells and directives; what is left is written as Markdown, with the
outputs that the notebook has recorded. Links to chapters and pictures get the folder in front, and
files beside README.md, such as `CONTRIBUTING.md`, become links. With
--check nothing is written, and the exit status says whether README.md is what the notebook gives.
"""

import os
import re
import sys
from pathlib import Path

from nbdev.config import get_config

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from procs import Plain  # noqa: E402

LOCAL = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)\s]+\))")
BESIDE = re.compile(r"`([A-Z]+(?:\.\w+)?)`")
MARK = "<!-- Written by tools/build_readme.py from nbs/{}: change it there. -->"


def joined(text):
    return text if isinstance(text, str) else "".join(text)


def shown(output):
    """One recorded output as Markdown; pictures and HTML have their place in the notebook only."""
    if output["output_type"] == "stream":
        return "```\n" + joined(output["text"]).rstrip() + "\n```"
    data = output.get("data", {})
    if "text/markdown" in data:
        return joined(data["text/markdown"]).strip()
    if "text/plain" in data and "image/png" not in data:
        return "```\n" + joined(data["text/plain"]).rstrip() + "\n```"
    return ""


def parts(cell):
    """The pieces of Markdown a processed cell becomes."""
    if cell.cell_type == "raw" or cell.source.startswith("<!-- WARNING"):
        return []
    if cell.cell_type == "markdown":
        return [cell.source.strip()]
    code = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.MULTILINE).strip("\n")
    hidden = re.search(r"^#\|\s*echo:\s*false", cell.source, re.MULTILINE)
    return ([] if hidden or not code else [f"```python\n{code}\n```"]) + [
        shown(o) for o in cell.get("outputs", [])
    ]


def readme(root=ROOT):
    """The text of README.md, made from the notebook that settings.ini names."""
    from nbdev.process import NBProcessor

    cfg = get_config(path=root)
    name = cfg.readme_nb
    processor = NBProcessor(Path(root) / cfg.nbs_path.name / name, procs=Plain().procs())
    processor.process()
    front = processor.nb.frontmatter_
    pieces = [MARK.format(name), f"# {front['title']}", f"> {front['description']}"]
    pieces += [piece for cell in processor.nb.cells for piece in parts(cell)]
    text = "\n\n".join(piece for piece in pieces if piece)
    text = LOCAL.sub(rf"\g<1>{cfg.nbs_path.name}/\g<2>", text) + "\n"
    return BESIDE.sub(
        lambda m: f"[{m[0]}]({m[1]})" if (Path(root) / m[1]).is_file() else m[0], text
    )


def main():
    os.chdir(ROOT)
    text, target = readme(), ROOT / "README.md"
    if "--check" in sys.argv[1:]:
        same = target.is_file() and target.read_text(encoding="utf-8") == text
        print("README.md is what the notebook gives" if same else "README.md differs: make readme")
        return 0 if same else 1
    beside = target.with_suffix(".md.tmp")
    beside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(beside, target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
