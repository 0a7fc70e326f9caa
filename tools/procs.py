"""What nbdev does to a notebook before it becomes a page, with this project's changes."""

import ast

from execnb.nbio import mk_cell
from nbdev.process import Processor
from nbdev.processors import FilterDefaults, add_links, add_show_docs, exec_show_docs, rm_export

HIDDEN = {"hide", "default_exp", "exporti"}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def public_names(cell):
    """The public functions and classes that an exported cell defines."""
    if cell.cell_type != "code" or not {"export", "exports"} & cell.directives_.keys():
        return []
    return [
        node.name
        for node in cell.parsed_() or ()
        if isinstance(node, DEFINITIONS) and node.name[0] != "_"
    ]


class name_headings(Processor):
    """Put a heading with its name in front of everything public, for links and for the page's
    table of contents."""

    def begin(self):
        for cell in reversed(list(self.nb.cells)):
            for name in reversed(public_names(cell)):
                self.nb.cells.insert(self.nb.cells.index(cell), mk_cell(f"### {name}", "markdown"))


def hide_only(cell):
    """Remove hidden cells, but show exported ones: the code is what a workbook is read for."""
    if cell.directives_ and cell.directives_.keys() & HIDDEN:
        del cell["source"]


class Shown(FilterDefaults):
    """For the site: exported code is shown under its name.

    Signature, parameters and docstring stand in that code, so the tables that nbdev would add, and
    the running of cells they need, are left out."""

    def base_procs(self):
        changed = {add_show_docs: name_headings, exec_show_docs: None, rm_export: hide_only}
        return [proc for proc in (changed.get(proc, proc) for proc in super().base_procs()) if proc]


class Plain(FilterDefaults):
    "For README.md: no links to a published site."

    def base_procs(self):
        return [proc for proc in super().base_procs() if proc is not add_links]
