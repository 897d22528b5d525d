"""The site: ``python -m sphinx -W -n -c docs . build/site`` makes it from the pages and the docstrings.

The pages are read where they are, the repository's root included, so that a link between two of them leads to
the same place on the site and beside the source. The sidebar is the list of links in ``docs/index.md``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from integrity_triton import __version__  # noqa: E402

project = "integrity_triton"
release = version = __version__
html_title = f"{project} {release}"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "bench/README.md", "examples/**/README.md", "tests/README.md", "*.md"]
exclude_patterns = [".*", "build", "dist", "integrity_triton", "kernels", "tests/[!R]*", "xpu-compiler"]

myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
# Annotations name types of other packages, and of rooms that have no page here.
nitpick_ignore_regex = [
    ("py:(class|obj)", ".*"),
    ("py:(func|mod)", r"get|hashlib.*|integrity_triton\.launching\..*"),
]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "to_index.html"}
templates_path = ["_templates"]
html_copy_source = False
html_show_sphinx = False
html_permalinks_icon = "#"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_theme_options: dict[str, Any] = {
    "light_css_variables": {"color-brand-primary": "#1f5f8b", "color-brand-content": "#1f5f8b"},
    "dark_css_variables": {"color-brand-primary": "#7cc4f0", "color-brand-content": "#7cc4f0"},
}


def _with_contents(app: Any, docname: str, source: list[str]) -> None:
    """Puts a table of contents after each list of links of the index: Sphinx needs it for the sidebar."""
    if docname != root_doc:
        return
    lists = ["```{toctree}\n:hidden:\n\n../README\n```\n"]
    for section in re.split(r"^## ", source[0], flags=re.M)[1:]:
        title = section.partition("\n")[0]
        pages = re.findall(r"^- \[.*?\]\(([^)#]+)\.md\)", section, flags=re.M)
        lists.append(f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(pages) + "\n```\n")
    source[0] += "\n" + "\n".join(lists)


def setup(app: Any) -> None:
    app.connect("source-read", _with_contents)
