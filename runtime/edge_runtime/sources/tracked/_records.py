"""Fields of the records (`Seq_Frame0000_...`) as text and as arrays: what both file formats share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, SourceFormatError
from edge_runtime.sources.tracked._sequence import ABSENT, TrackedSequence

__all__ = ["Records", "nanoseconds", "orientation_of", "record_lines", "seconds"]

PREFIX = "Seq_Frame"
TRANSFORM, STATUS, TIME = "Transform", "TransformStatus", "Timestamp"
TIME_LIMIT_NS = 1 << 62
SPARE_BYTES = 1 << 20


@dataclass(slots=True)
class Records:
    """Fields of the records while a header is read: field name to {record: text}; `size` is the header's in bytes."""

    image_status: str
    size: int = 0
    texts: dict[str, dict[int, str]] = field(default_factory=dict)

    def take(self, key: str, value: str, name: str) -> bool:
        """Keep `key: value` when it belongs to a record; False when it is a field of the whole file."""
        if not key.startswith(PREFIX):
            return False
        number, underscore, field_name = key[len(PREFIX) :].partition("_")
        if not (number.isascii() and number.isdigit() and len(number) <= 9 and underscore and field_name):
            raise SourceFormatError(f"{name}: {key[:60]!r} is not {PREFIX}<number>_<field>")
        self.texts.setdefault(field_name, {})[int(number)] = value
        return True

    def sequence(
        self, frames: npt.NDArray[np.uint8] | None, count: int, orientation: str, fields: dict[str, str], name: str
    ) -> TrackedSequence:
        """The recording; `SourceFormatError` where records and frames do not fit together."""
        texts = dict(self.texts)
        if beyond := [k for by_record in texts.values() for k in by_record if k >= count]:
            raise SourceFormatError(f"{name}: fields of record {max(beyond)}, but {count} records are declared")
        self._check_room(count, name)
        try:
            return self._made(frames, texts, count, orientation, fields, name)
        except ConfigError as error:
            raise SourceFormatError(f"{name}: {error}") from error

    def _made(
        self,
        frames: npt.NDArray[np.uint8] | None,
        texts: dict[str, dict[int, str]],
        count: int,
        orientation: str,
        fields: dict[str, str],
        name: str,
    ) -> TrackedSequence:
        times, images = texts.pop(TIME, None), texts.pop(self.image_status, None)
        transforms, statuses = {}, {}
        for key in [key for key in texts if key.endswith(TRANSFORM) and key != TRANSFORM]:
            transforms[key.removesuffix(TRANSFORM)] = _matrices(texts.pop(key), count, f"{name}: {key}")
        for key in [k for k in texts if k.endswith(STATUS) and k.removesuffix(STATUS) in transforms]:
            words = texts.pop(key)
            statuses[key.removesuffix(STATUS)] = tuple(words.get(k, ABSENT) for k in range(count))
        return TrackedSequence(
            frames=frames,
            orientation=orientation,
            times_ns=None if times is None else _times(times, count, name),
            transforms=transforms,
            statuses=statuses,
            image_statuses=() if images is None else tuple(images.get(k, ABSENT) for k in range(count)),
            fields=fields,
            frame_fields={key: tuple(words.get(k) for k in range(count)) for key, words in texts.items()},
        )

    def _check_room(self, count: int, name: str) -> None:
        """So that a short header cannot ask for much memory: 128 bytes for each record and field."""
        if count * (len(self.texts) + 1) * 128 > 64 * self.size + SPARE_BYTES:
            raise SourceFormatError(
                f"{name}: {count} records and {len(self.texts)} kinds of field are declared in a header of {self.size} "
                "bytes; most records lack their fields"
            )


def _matrices(texts: dict[int, str], count: int, name: str) -> npt.NDArray[np.float64]:
    T = np.full((count, 4, 4), np.nan)
    for k, text in texts.items():
        try:
            numbers = [float(word) for word in text.split()]
        except ValueError:
            numbers = []
        if len(numbers) != 16:
            raise SourceFormatError(f"{name} of record {k} is {text[:60]!r}; 16 numbers, row by row, are needed")
        T[k] = np.reshape(numbers, (4, 4))
    return T


def _times(texts: dict[int, str], count: int, name: str) -> npt.NDArray[np.int64]:
    """(N,) ns of N texts in seconds; `SourceFormatError` when one lacks or is no time."""
    if len(texts) != count:
        lacking = next(k for k in range(count) if k not in texts)
        raise SourceFormatError(f"{name}: record {lacking} has no {TIME}, others have; all or none are needed")
    return np.array([nanoseconds(texts[k], f"{name}: record {k}") for k in range(count)], np.int64)


def nanoseconds(text: str, name: str) -> int:
    """Seconds as text to ns, exactly (no floating point in between)."""
    try:
        number = Decimal(text.strip()[:64])
        ns = int(number.scaleb(9).to_integral_value()) if number.is_finite() and abs(number) < TIME_LIMIT_NS else None
    except InvalidOperation:
        ns = None
    if ns is None or abs(ns) >= TIME_LIMIT_NS:
        raise SourceFormatError(f"{name}: {TIME} is {text[:40]!r}; seconds below 2^62 ns are needed")
    return ns


def seconds(ns: int) -> str:
    """ns as seconds with all nine digits."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    return f"{sign}{ns // 10**9}.{ns % 10**9:09d}"


def record_lines(sequence: TrackedSequence, image_status: str, between: str) -> Iterator[str]:
    """Lines `Seq_Frame0000_<field><between><value>` of all records; numbers with all their digits."""
    for k in range(len(sequence)):
        start = f"{PREFIX}{k:04d}_"
        for key, T in sequence.transforms.items():
            words = sequence.statuses.get(key)
            if words is not None and words[k] == ABSENT and not np.isfinite(T[k]).any():
                continue
            if words is not None or np.isfinite(T[k]).any():
                yield f"{start}{key}{TRANSFORM}{between}{' '.join(repr(float(x)) for x in T[k].flat)}"
            if words is not None:
                yield f"{start}{key}{STATUS}{between}{words[k]}"
        for key, values in sequence.frame_fields.items():
            if values[k] is not None:
                yield f"{start}{key}{between}{values[k]}"
        if sequence.times_ns is not None:
            yield f"{start}{TIME}{between}{seconds(int(sequence.times_ns[k]))}"
        if sequence.image_statuses:
            yield f"{start}{image_status}{between}{sequence.image_statuses[k]}"


def orientation_of(text: str | None, override: str | None, name: str) -> str:
    """The orientation that the file states, or the user."""
    found = (override or text or "XX").strip().upper().removeprefix("US_IMG_ORIENT_")
    if not re.fullmatch(r"(XX|([MU][FN]|[FN][MU])[AD]?)", found):
        raise SourceFormatError(
            f"{name}: the image orientation {found[:20]!r} is not read; MF, MN, UF, UN, FM, FU, NM, NU (also "
            "with A or D) are"
        )
    return found
