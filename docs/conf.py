"""Sphinx: the guides of this folder and a reference of the public names, by ``sphinx-build -W docs build/docs``."""

from avalanche_memplugins import __version__

project = "avalanche-memplugins"
release = version = __version__
html_theme = "furo"
html_title = f"{project} {version}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_heading_anchors = 3
# Guides are written for the repository, where README.md, bench/ and examples/ lie beside docs/; tests/test_guides.py
# looks after their links.
suppress_warnings = ["myst.xref_missing"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
maximum_signature_line_length = 100
