"""What nbdev does to a notebook before it becomes a page, with this project's two changes."""
from nbdev.processors import FilterDefaults, add_links, rm_export

HIDDEN = {"hide", "default_exp", "exporti"}


def hide_only(cell):
    """Remove hidden cells, but show exported ones: the code is what a workbook is read for."""
    if cell.directives_ and cell.directives_.keys() & HIDDEN:
        del cell["source"]


class Shown(FilterDefaults):
    "For the site: the exported code stays in."

    def base_procs(self):
        return [hide_only if proc is rm_export else proc for proc in super().base_procs()]


class Plain(FilterDefaults):
    "For README.md: no links to a published site."

    def base_procs(self):
        return [proc for proc in super().base_procs() if proc is not add_links]
