"""A report as text. Each format has a file and a function here."""

from __future__ import annotations

from collections.abc import Callable

from ..report import Report
from .html import to_html
from .json import from_dict, to_dict, to_json
from .junit import to_junit
from .markdown import to_markdown

__all__ = ["FORMATS", "from_dict", "to_dict", "to_html", "to_json", "to_junit", "to_markdown"]

FORMATS: dict[str, Callable[[Report], str]] = {
    "json": to_json,
    "md": to_markdown,
    "html": to_html,
    "xml": to_junit,
}
"""The formats by the suffix that a file of each has."""
