"""How Sphinx turns the processed notebooks into pages that need no network."""

import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
settings = ConfigParser()
settings.read(HERE.parent.parent / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]

project = cfg["title"]
copyright = cfg["copyright"]
release = cfg["version"]
language = "en"
extensions = ["myst_nb", "mathml"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables in Markdown outputs
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline", "deflist"]
myst_heading_anchors = 4
myst_update_mathjax = False
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

html_theme = "pydata_sphinx_theme"
html_title = cfg["title"]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_copy_source = False
html_css_files = ["styles.css"]
html_theme_options = {
    "navbar_center": [],
    "navbar_end": ["theme-switcher"],
    "primary_sidebar_end": [],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_nav_level": 2,
}
html_sidebars = {"**": ["globaltoc.html"]}  # all chapters on each page, not only those beside it


def setup(app):
    app.connect(
        "config-inited",
        lambda app, config: config.html_static_path.append(str(Path(app.srcdir) / "_static")),
    )
