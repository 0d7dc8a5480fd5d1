"""Settings of Sphinx; ``python -m nox -s docs`` builds the pages."""

from ptychocli import __version__

project = "ptycho"
author = "the ptycho developers"
copyright = "2026, the ptycho developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [  # their inventories would have to be fetched
    ("py:.*", r"(numpy|os|collections\.abc)\..*"),
]

autodoc_typehints = "signature"

html_theme = "furo"
html_title = f"ptycho {release}"
