"""What a comparison of methods found: as a table, and as one page that needs nothing beside it."""

from __future__ import annotations

from .gallery import GalleryItem
from .page import write_report
from .table import markdown_table, print_table, summary_rows

__all__ = ["GalleryItem", "markdown_table", "print_table", "summary_rows", "write_report"]
