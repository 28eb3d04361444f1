"""A self-contained HTML page: sections of text, tables, pictures and video, nothing fetched from elsewhere."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jinja2

from edge_runtime.atomic import write_bytes

__all__ = ["Figure", "Section", "Table", "Tile", "write_page"]

MEDIA = {".png": "image/png", ".svg": "image/svg+xml", ".webm": "video/webm", ".jpg": "image/jpeg"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One headline figure with its goal."""

    label: str
    value: str
    goal: str
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text; the first column is left aligned."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture or video as a data URI."""

    uri: str
    alt: str
    caption: str
    kind: Literal["picture", "plot", "video"] = "picture"

    @classmethod
    def from_file(
        cls, path: Path, *, alt: str, caption: str, kind: Literal["picture", "plot", "video"] = "picture"
    ) -> Figure:
        """Embed `path`, whose suffix is one of `MEDIA`."""
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        return cls(uri=f"data:{MEDIA[path.suffix]};base64,{data}", alt=alt, caption=caption, kind=kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with what stands beneath it, in this order: text, tables, figures."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = field(default=())


def write_page(path: Path, *, title: str, subtitle: str, tiles: list[Tile], sections: list[Section]) -> None:
    """Render and write the page at once or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("report.html.j2")
    html = template.render(title=title, subtitle=subtitle, tiles=tiles, sections=sections)
    write_bytes(path, html.encode())
