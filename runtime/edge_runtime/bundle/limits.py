"""The caps of the reader: what is larger is refused before it is parsed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_LIMITS", "Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper bounds, all inclusive. `docs/bundle.md` says why each is where it is.

    Of the file: `file_bytes`, `member_bytes`, `manifest_bytes`, `members` (count, manifest and signature
    included), `name_bytes`, `array_bytes` (one golden array). Of a model: `nodes` (subgraphs included), `tensors`
    (initializers), `fields` (of the protobuf), `depth` (graphs inside graphs), `rank`, `elements` (one tensor),
    `window` (a kernel or pad, in pixels), `scale` (one axis of a Resize, a stride, a dilation).
    """

    file_bytes: int = 512 << 20
    member_bytes: int = 256 << 20
    manifest_bytes: int = 1 << 20
    members: int = 256
    name_bytes: int = 120
    array_bytes: int = 64 << 20
    nodes: int = 20_000
    tensors: int = 20_000
    fields: int = 2_000_000
    depth: int = 8
    rank: int = 8
    elements: int = 1 << 28
    window: int = 1024
    scale: float = 64.0


DEFAULT_LIMITS = Limits()
