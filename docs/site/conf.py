# SPDX-License-Identifier: Apache-2.0

"""Sphinx's settings for the site: `make docs` makes it from the pages in docs/, the headers and the docstrings."""

import os
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]

project = "syncbn"
author = "the syncbn authors"
copyright = "the syncbn authors, Apache License 2.0"
release = re.search(r'SYNCBN_VERSION "([^"]+)"', (ROOT / "include/syncbn/version.h").read_text())[1]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "breathe"]
root_doc = "index"
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_title = f"syncbn {release}"

myst_heading_anchors = 4
nb_execution_mode = "off"  # a test compares the outputs that the notebook has
breathe_projects = {"syncbn": str(ROOT / "build/doxygen/xml")}
breathe_default_project = "syncbn"
breathe_show_include = False
suppress_warnings = ["duplicate_declaration.cpp"]  # each header opens the namespace again
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_use_ivar = True  # else a property that is also listed under Attributes is described twice

# Pages of the site that are files outside docs/. Their own files in docs/site are empty.
OUTSIDE = {
    "site/readme": "README.md",
    "site/readme.zh-CN": "README.zh-CN.md",
    "site/contributing": "CONTRIBUTING.md",
    "site/changes": "CHANGELOG.md",
    "site/security": "SECURITY.md",
    "site/floors": "benchmarks/floors.md",
    "site/digits": "examples/data/README.md",
    "site/examples": "examples/README.md",
    "site/examples-torch": "examples/torch/README.md",
    "site/statistics": "examples/notebooks/statistics.ipynb",
}
PAGES = {file: f"docs/{page}{pathlib.Path(file).suffix}" for page, file in OUTSIDE.items()}


def read_page(app, docname, source):
    """Reads the pages outside docs/, and turns links between files of the tree into links between pages of the site."""
    here = ROOT / "docs" / docname
    file = ROOT / OUTSIDE.get(docname, f"docs/{docname}.md")
    if docname in OUTSIDE:
        source[0] = file.read_text()
        app.env.note_dependency(file)  # else a build after a change of the file keeps the old page

    def relocate(link):
        target = pathlib.Path(os.path.normpath(file.parent / link[1])).relative_to(ROOT).as_posix()
        return "](" + os.path.relpath(ROOT / PAGES.get(target, target), here.parent)

    source[0] = re.sub(r"\]\((?![a-z]+:|#)([^)#]+)", relocate, source[0])


def setup(app):
    app.connect("source-read", read_page)
