"""Text of the headers: bytes that survive a round trip, counts, flags."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.errors import ConfigError, SourceFormatError
from edge_runtime.sources.tracked._sequence import TrackedSequence

__all__ = ["check_fields", "checked_lines", "counts_of", "flag", "text_of"]


def text_of(head: bytes) -> str:
    """UTF-8; bytes that are none are kept and written again as they were."""
    return head.decode("utf-8", "surrogateescape")


def checked_lines(lines: Sequence[str]) -> bytes:
    """Lines of a header; `ConfigError` for one that would not be read as one line."""
    for line in lines:
        if "\n" in line or "\r" in line or "\0" in line:
            raise ConfigError(f"{line[:60]!r} has a line break; a header holds one line a field")
    return "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")


def check_fields(sequence: TrackedSequence, mark: str) -> None:
    """`ConfigError` for a name or value that would be read back as another; `mark` stands between the two."""
    own = (sequence.transforms, sequence.statuses, sequence.fields, sequence.frame_fields)
    for name in (name for mapping in own for name in mapping):
        if not name or name != name.strip() or mark in name or name.startswith("Seq_Frame"):
            raise ConfigError(f"{name!r} cannot name a field of a file: it is empty, has outer blanks or {mark!r}")
    words = [*sequence.statuses.values(), *sequence.frame_fields.values(), sequence.image_statuses]
    for value in (*sequence.fields.values(), *(value for values in words for value in values)):
        if value is not None and value != value.strip():
            raise ConfigError(f"{value[:60]!r} has blanks at an end; a file does not keep them")


def counts_of(text: str, name: str) -> list[int]:
    """Whole numbers from 0 to 999,999,999."""
    words = text.split()
    if not words or len(words) > 16 or not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise SourceFormatError(f"{name} is {text[:60]!r}; whole numbers of at most nine digits are needed")
    return [int(word) for word in words]


def flag(text: str, name: str) -> bool:
    """True or False."""
    if text.lower() not in ("true", "false"):
        raise SourceFormatError(f"{name} is {text[:20]!r}; True or False is needed")
    return text.lower() == "true"
