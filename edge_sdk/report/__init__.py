"""Reports as self-contained HTML pages."""

from edge_sdk.report.page import Figure, Section, Table, Tile, write_page

__all__ = ["Figure", "Section", "Table", "Tile", "write_page"]
