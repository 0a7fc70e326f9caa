"""Build the site from the notebooks: python tools/build_docs.py

With Quarto where it is installed; otherwise nbdev prepares the notebooks (documentation tables,
hidden cells, links between chapters) and Sphinx lays them out. Order and sections come from
_quarto.yml either way. nbdev's own nbdev_docs is not called: without Quarto it would try to install
it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbdev.config import get_config

sys.path.insert(0, str(Path(__file__).resolve().parent))
from chapters import ROOT, chapters, is_numbered, page_name, sections  # noqa: E402
from procs import Shown  # noqa: E402

OUT, SOURCE = ROOT / "_docs", ROOT / "_docs_src"
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)
FIGURE_ALT = re.compile(r"^#\|\s*fig-alt:\s*(.+?)\s*$", re.MULTILINE)
NO_ECHO = re.compile(r"^#\|\s*echo:\s*false", re.MULTILINE)
CALLOUT = re.compile(r"^:::+\s*\{\.callout-(\w+)[^}]*\}", re.MULTILINE)
NOTEBOOK_LINK = re.compile(r"\]\((?!https?:)([\w./-]+\.ipynb)(#[^)\s]*)?\)")


def process():
    """Let nbdev process every notebook; the folder with the results."""
    import nbdev.serve

    nbdev.serve.FilterDefaults = Shown
    return Path(nbdev.serve.proc_nbs(force=True, n_workers=2))


def front_matter(source):
    """Title and description that nbdev moved from a chapter's first cell, as a heading again."""
    import yaml

    found = yaml.safe_load(source.strip().strip("-"))
    return f"# {found['title']}\n\n> {found.get('description', '')}"


def headings(notebook):
    """The places in a processed notebook that a link can lead to."""
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return {
        slug(title)
        for text in texts
        for title in re.findall(r"^#+\s+(.+?)\s*$", text, re.MULTILINE)
    }


def slug(title):
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def local_links(text, site, places, here="index.ipynb"):
    """Links to the published site and to notebooks, as links between pages here; `here` is the
    notebook's own path.

    nbdev links every exported name, private ones and methods too; those without a heading of their
    own lose the link."""

    def published(match):
        anchor = slug(match["anchor"] or "")
        if anchor and anchor not in places.get(match["page"], ()):
            return match["text"]
        return f"[{match['text']}]({up}{match['page']}.ipynb{'#' + anchor if anchor else ''})"

    def notebook(match):
        path = Path(match[1])
        return f"]({(path.parent / Path(page_name(path.name))).as_posix()}.ipynb{match[2] or ''})"

    up = "../" * here.count("/")  # a guide lies one folder below the chapters
    text = NOTEBOOK_LINK.sub(notebook, text)
    target = rf"{re.escape(site)}/(?P<page>[\w./-]+?)\.html(?:#(?P<anchor>[^)]*))?"
    link = rf"\[(?P<text>[^\]]*)\]\({target}\)"
    return re.sub(link, published, text)


def figure_options(cell, alt):
    """Tell MyST-NB a figure's alternative text."""
    cell.metadata["mystnb"] = {"image": {"alt": alt.strip("\"'")}}


def shown_code(cell):
    """A code cell without directives."""
    if alt := FIGURE_ALT.search(cell.source):
        figure_options(cell, alt[1])
    if NO_ECHO.search(cell.source):
        cell.metadata.setdefault("tags", []).append("remove-input")
    cell.source = DIRECTIVE.sub("", cell.source).strip("\n")
    return cell


def page(notebook, site, places, here):
    """A processed notebook, `here` in the folder of notebooks, in the form that MyST-NB reads."""
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "raw" and cell.source.startswith("---"):
            cell = nbformat.v4.new_markdown_cell(front_matter(cell.source))
        elif cell.source.startswith("<!-- WARNING"):
            continue
        elif cell.cell_type == "code":
            cell = shown_code(cell)
        if cell.cell_type == "markdown":
            cell.source = local_links(CALLOUT.sub(r":::{\1}", cell.source), site, places, here)
        cells.append(cell)
    notebook.cells = cells
    notebook.metadata.pop("widgets", None)
    return notebook


def entry(name):
    """A chapter in the table of contents: numbered ones as `2.1 Title`, reference by title."""
    page, path = page_name(name), Path(name)
    if not is_numbered(name):
        return page
    title = re.search(r"^# (.+)$", first_cell(name), re.MULTILINE)[1]
    number = f"{int(path.parent.name.split('_')[0])}.{int(path.name.split('_')[0])}"
    return f"{number} {title} <{page}>"


def first_cell(name):
    """The source of a notebook's first cell, which holds its title."""
    return nbformat.read(ROOT / "nbs" / name, as_version=4).cells[0].source


def contents():
    """The tables of contents that give Sphinx the order of _quarto.yml."""
    trees = []
    for caption, names in sections():
        pages = [entry(name) for name in names if name != "index.ipynb"]
        if pages:
            option = f":caption: {caption}\n" if caption else ""
            trees.append(
                "```{toctree}\n:hidden:\n:maxdepth: 1\n"
                + option
                + "\n"
                + "\n".join(pages)
                + "\n```"
            )
    return nbformat.v4.new_markdown_cell("\n\n".join(trees))


def with_sphinx(processed):
    cfg = get_config()
    site = cfg.doc_host + cfg.doc_baseurl
    for folder in (SOURCE, OUT):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(processed, SOURCE, ignore=shutil.ignore_patterns("*.ipynb", "*.yml", ".*"))
    (SOURCE / "_static").mkdir(exist_ok=True)
    shutil.copy(ROOT / "nbs" / "styles.css", SOURCE / "_static")
    notebooks = {name: nbformat.read(processed / name, as_version=4) for name in chapters()}
    places = {page_name(name): headings(notebook) for name, notebook in notebooks.items()}
    for name, notebook in notebooks.items():
        notebook = page(notebook, site, places, name)
        if name == "index.ipynb":
            notebook.cells.append(contents())
        target = SOURCE / f"{page_name(name)}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        _, notebook = nbformat.validator.normalize(notebook)
        nbformat.write(notebook, target)
    return subprocess.call(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-W",
            "--keep-going",
            "-b",
            "html",
            "-d",
            str(SOURCE / ".doctrees"),
            "-c",
            str(ROOT / "tools" / "sphinx"),
            str(SOURCE),
            str(OUT),
        ]
    )


def with_quarto(processed):
    cfg = get_config()
    code = subprocess.call(["quarto", "render", "--no-cache"], cwd=processed)
    if not code:
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.move(processed / cfg.doc_path.name, OUT)
    return code


def main():
    os.chdir(ROOT)
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.path.insert(0, str(ROOT))  # the notebooks' imports come from this tree
    quarto = shutil.which("quarto") is not None
    if quarto:
        from nbdev.quarto import refresh_quarto_yml

        refresh_quarto_yml()
    processed = process()
    code = with_quarto(processed) if quarto else with_sphinx(processed)
    if not code:
        print(
            f"The site is in {OUT.relative_to(ROOT)}: open {OUT.relative_to(ROOT) / 'index.html'}"
        )
    return code


if (
    __name__ == "__main__"
):  # the notebooks are processed in processes of their own, which read this file too
    sys.exit(main())
