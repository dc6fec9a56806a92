# SPDX-License-Identifier: Apache-2.0

"""Settings of the documentation site, which ``python -m sphinx -W --keep-going -b html docs docs/_build`` builds."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from hybridmim_components import __version__

project = "HybridMIM bundles"
author = f"{project} contributors"
project_copyright = f"2026 {author}"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {version}"

myst_heading_anchors = 3  # page.md#a-heading leads to a heading, as it does where the repository is browsed

# Files outside of this folder, and the pages that include them.
ROOT = Path(__file__).resolve().parents[1]
INCLUDED = {
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "benchmarks/README.md": "explanation/measurements",
    "bundles/hybridmim_msd_spleen_unet_segmentation/docs/README.md": "reference/bundle",
}

autodoc_mock_imports = ["dynamic_network_architectures", "nnunetv2"]  # the extra nnunet is not needed for the site
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # attributes that a docstring lists are documented once, there


def escape_stars(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Keep the star of a shape such as (B, C, *spatial), which reStructuredText would take for emphasis."""
    lines[:] = [re.sub(r"(?<=[( ])\*(?=[a-z_]+[) ])", r"\\*", line) for line in lines]


def skip_fields(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, whose own docstring only counts them: the class lists them."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def link_outside(app: Sphinx, doctree: nodes.document) -> None:
    """Let links to Markdown outside of this folder work in the site too; where the repository is browsed they do.

    They lead to the page that includes the file, or else offer it for download. A folder gets no link.
    """
    for link in list(doctree.findall(addnodes.pending_xref)):
        target = str(link["reftarget"])
        if link["refdomain"] == "doc" and os.path.isabs(target):
            file = Path(f"{target}.md")
            page = INCLUDED.get(file.relative_to(ROOT).as_posix())
            if page is not None:
                link["reftarget"] = page
            else:
                place = f"/{os.path.relpath(file, app.srcdir)}"
                link.replace_self(addnodes.download_reference("", "", *link.children, reftarget=place))
        elif link["reftype"] == "myst" and Path(app.srcdir, Path(link["refdoc"]).parent, target).is_dir():
            link.replace_self(link.children)


def setup(app: Sphinx) -> None:
    """Register the functions above with Sphinx."""
    app.connect("autodoc-process-docstring", escape_stars)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-read", link_outside, priority=400)  # before Sphinx collects the downloads, at 500
