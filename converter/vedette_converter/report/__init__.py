"""What a build found out, as a Markdown table for people and one object for programs."""

from .table import as_object, blame, markdown, written

__all__ = ["as_object", "blame", "markdown", "written"]
