"""A teacher's answers on disk, found again by what they depend on, so that a second student costs no teacher run.

folder/KEY/0.npy         answers of the first output: float16, memory-mapped
folder/KEY/record.json   what they are, their sizes and hashes; written last
folder/KEY/0.part, part.json   answers so far of a run that was stopped, with a hash of every batch
folder/KEY.lock          held while KEY is written or checked
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge_runtime.atomic import make_folder, sync, write_bytes
from edge_runtime.errors import ConfigError, InferenceError
from edge_sdk.progress import Progress, ProgressEvent, ignore_progress
from edge_sdk.teachers.answers import CLIP, TASK, answers_sha256, ask, check_inputs
from edge_sdk.teachers.lock import hold, try_hold
from edge_sdk.teachers.teacher import ANSWER, Teacher

__all__ = ["CacheEntry", "TeacherCache", "cached_answers"]

_VERSION = 1
_KEY = re.compile(r"[0-9a-f]{64}")


class _Output(msgspec.Struct, frozen=True, kw_only=True):
    """One stored array: which output, shape, size of the file, hash of its values."""

    name: str
    shape: tuple[int, ...]
    bytes: int
    sha256: str


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    teacher: str
    teacher_sha256: str
    outputs: tuple[_Output, ...]


class _Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Frames of one finished batch and, for each output, the hash of their values."""

    frames: int
    sha256: tuple[str, ...]


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    shapes: tuple[tuple[int, ...], ...]
    batches: tuple[_Batch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One stored set of answers: its key, its teacher's name, bytes on disk, last use in Unix ns, whether whole."""

    key: str
    teacher: str
    bytes: int
    used_ns: int
    complete: bool


class TeacherCache:
    """Answers of teachers in `folder`, which is made when it is missing.

    An entry's key is the sha256 over the teacher's identity and output forms, the frames' shape and values, the
    clip of the logits and the stored type. Any number of threads and processes may use one folder: who comes second
    waits for the first, and reads. A stopped run goes on from its last whole batch. Every file is checked by size
    and hash when it is opened; one that was damaged is made again, and a progress note says so.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        make_folder(self.folder)

    def key(self, teacher: Teacher, inputs: Tensor) -> str:
        """The key of `teacher`'s answers to `inputs`; `ConfigError` for a teacher without an identity."""
        if not teacher.sha256:
            raise ConfigError(
                f"teacher {teacher.name} has no sha256, so its answers cannot be told from another's; make it with "
                "teacher_from_module or load_teacher, or give Teacher(sha256=...) a hash of all it depends on"
            )
        digest = hashlib.sha256()
        forms = repr(list(teacher.forms.items()))
        kind = [_VERSION, teacher.sha256, forms, teacher.output_name, CLIP, "float16", tuple(inputs.shape)]
        digest.update(repr(kind).encode())
        for frame in inputs:
            digest.update(np.ascontiguousarray(frame.to(torch.float32).cpu().numpy()).tobytes())
        return digest.hexdigest()

    def answers(
        self, teacher: Teacher, inputs: Tensor, progress: Progress = ignore_progress, *, batch_size: int = 16
    ) -> dict[str, tuple[Tensor, str]]:
        """By output name: the answers to `inputs` (N, C, H, W), float16 over a memory map, and their sha256.

        The map is private: writing into a tensor changes no file. Raises `ConfigError` for inputs that are not
        frames and a teacher without an identity, and what the teacher raises.
        """
        check_inputs(inputs)
        key = self.key(teacher, inputs)
        home = self.folder / key

        def waiting() -> None:
            progress(_note(len(inputs), 0, "waiting for another run that asks this teacher about these frames"))

        with hold(self.folder / f"{key}.lock", waiting):
            make_folder(home)
            record, damage = _check(home)
            if record is not None:
                progress(_note(len(inputs), len(inputs), "cached"))
            else:
                if damage:
                    progress(_note(len(inputs), 0, f"stored answers are damaged ({damage}); asking again"))
                record = _build(home, teacher, inputs, progress, batch_size)
            # the time of use to the nanosecond: the file system's own stamps are some milliseconds coarse
            now = time.time_ns()
            os.utime(home / "record.json", ns=(now, now))
            return {item.name: (_open(home / f"{k}.npy"), item.sha256) for k, item in enumerate(record.outputs)}

    def entries(self) -> list[CacheEntry]:
        """What is stored, least recently used first; folders of other names are left out."""
        found = []
        for home in self.folder.iterdir():
            if _KEY.fullmatch(home.name) and home.is_dir():
                record = _read(home / "record.json", _Record)
                stamp = home / "record.json" if record else home
                found.append(
                    CacheEntry(
                        key=home.name,
                        teacher=record.teacher if record else "",
                        bytes=_bytes(home),
                        used_ns=stamp.stat().st_mtime_ns,
                        complete=record is not None,
                    )
                )
        return sorted(found, key=lambda entry: entry.used_ns)

    def size(self) -> int:
        """Bytes of everything that is stored."""
        return sum(entry.bytes for entry in self.entries())

    def prune(self, max_bytes: int) -> list[CacheEntry]:
        """Remove the least recently used entries until at most `max_bytes` are left; gives what was removed.

        Entries that are being written are left alone. Tensors that are still open stay valid.
        """
        if max_bytes < 0:
            raise ConfigError(f"max_bytes is {max_bytes}; zero or more is needed")
        entries, removed = self.entries(), []
        left = sum(entry.bytes for entry in entries)
        for entry in entries:
            if left <= max_bytes:
                break
            with try_hold(self.folder / f"{entry.key}.lock") as held:
                if held:
                    shutil.rmtree(self.folder / entry.key)
                    removed.append(entry)
                    left -= entry.bytes
        return removed


def cached_answers(
    teacher: Teacher,
    inputs: Tensor,
    cache: TeacherCache | None = None,
    progress: Progress = ignore_progress,
    *,
    batch_size: int = 16,
) -> tuple[Tensor, str]:
    """The single output of `teacher` for `inputs` (N, C, H, W): float16 tensor, and the sha256 of shape and values.

    From `cache` where it has them, kept there otherwise; without a cache the teacher is asked and the answers stay
    in memory, with the same values and hash. Raises what `TeacherCache.answers` does, and `ConfigError` for a
    teacher with several outputs.
    """
    if list(teacher.forms) != [ANSWER]:
        raise ConfigError(f"teacher {teacher.name} gives {sorted(teacher.forms)}; use TeacherCache.answers for several")
    if cache is not None:
        return cache.answers(teacher, inputs, progress, batch_size=batch_size)[ANSWER]
    check_inputs(inputs)
    parts = [batch[ANSWER] for batch in ask(teacher, inputs, progress, batch_size=batch_size)]
    _same_rows(teacher, [part.shape for part in parts])
    joined = np.concatenate(parts)
    return torch.from_numpy(joined), answers_sha256(joined)


def _bytes(home: Path) -> int:
    total = 0
    for path in home.iterdir():
        with suppress(FileNotFoundError):  # a temporary file of a run that is writing
            total += path.stat().st_size
    return total


def _note(total: int, step: int, note: str) -> ProgressEvent:
    return ProgressEvent(task=TASK, step=step, total=total, note=note)


def _same_rows(teacher: Teacher, shapes: list[tuple[int, ...]]) -> None:
    if len({shape[1:] for shape in shapes}) > 1:
        raise InferenceError(
            f"teacher {teacher.name}: its answers have {sorted({shape[1:] for shape in shapes})} entries per frame in "
            "different batches; one size is needed to keep them"
        )


def _read(path: Path, kind: type[Any]) -> Any:
    """The struct in a JSON file, None when the file is missing or is not one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def _open(path: Path) -> Tensor:
    """The array in `path` over a private (copy-on-write) map of the file."""
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def _check(home: Path) -> tuple[_Record | None, str]:
    """The record of whole answers, or None and what is wrong with them ("" where there are none yet)."""
    record = _read(home / "record.json", _Record)
    if record is None:
        return None, "its record cannot be read" if (home / "record.json").exists() else ""
    for k, item in enumerate(record.outputs):
        path = home / f"{k}.npy"
        if not path.is_file():
            return None, "" if (home / "part.json").exists() else f"{path.name} is missing"
        if path.stat().st_size != item.bytes:
            return None, f"{path.name} has {path.stat().st_size} bytes, not {item.bytes}"
        try:
            values: npt.NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            return None, f"{path.name}: {error}"
        if values.dtype != np.float16 or values.shape != item.shape or answers_sha256(values) != item.sha256:
            return None, f"the hash of {path.name} differs"
    return record, ""


def _build(home: Path, teacher: Teacher, inputs: Tensor, progress: Progress, batch_size: int) -> _Record:
    """Ask for what is missing, keeping every batch, then put the record and the arrays in place."""
    for stale in [home / "record.json", *home.glob("*.npy")]:
        stale.unlink(missing_ok=True)
    part, start = _resume(home, len(teacher.forms))
    if start:
        progress(_note(len(inputs), start, f"going on after {start} frames of an earlier run"))
    for answer in ask(teacher, inputs, progress, start=start, batch_size=batch_size):
        part = _append(home, teacher, list(answer.values()), part, len(inputs))
    assert part is not None
    files = [home / f"{k}.part" for k in range(len(part.shapes))]
    outputs = tuple(
        _Output(
            name=name,
            shape=shape,
            bytes=path.stat().st_size,
            sha256=answers_sha256(np.load(path, mmap_mode="r", allow_pickle=False)),
        )
        for name, shape, path in zip(teacher.forms, part.shapes, files, strict=True)
    )
    record = _Record(version=_VERSION, teacher=teacher.name, teacher_sha256=teacher.sha256, outputs=outputs)
    write_bytes(home / "record.json", msgspec.json.encode(record))
    for path in files:  # a run that is stopped here finds the record, no array, and the parts: it comes back here
        os.replace(path, path.with_suffix(".npy"))
    (home / "part.json").unlink()
    return record


def _header(shape: tuple[int, ...]) -> bytes:
    """What an `.npy` file of float16 values of `shape` begins with."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return file.getvalue()


def _append(
    home: Path, teacher: Teacher, answers: list[npt.NDArray[np.float16]], part: _Part | None, total: int
) -> _Part:
    """Write one batch behind the earlier ones and note its hashes."""
    shapes = tuple((total, *map(int, answer.shape[1:])) for answer in answers)
    if part is None:
        part = _Part(shapes=shapes)
        for k, shape in enumerate(shapes):
            (home / f"{k}.part").write_bytes(_header(shape))
    for before, shape in zip(part.shapes, shapes, strict=True):
        _same_rows(teacher, [before, shape])
    for k, answer in enumerate(answers):
        with (home / f"{k}.part").open("ab") as file:
            file.write(answer.tobytes())
        sync(home / f"{k}.part")
    hashes = tuple(hashlib.sha256(answer.tobytes()).hexdigest() for answer in answers)
    part = _Part(shapes=part.shapes, batches=(*part.batches, _Batch(frames=len(answers[0]), sha256=hashes)))
    write_bytes(home / "part.json", msgspec.json.encode(part))
    return part


def _resume(home: Path, outputs: int) -> tuple[_Part | None, int]:
    """What an earlier run left: the batches whose values are whole in every file, which are cut behind them."""
    part = _read(home / "part.json", _Part)
    files = [home / f"{k}.part" for k in range(outputs)]
    if part is None or len(part.shapes) != outputs or not all(path.is_file() for path in files):
        for path in [home / "part.json", *home.glob("*.part")]:
            path.unlink(missing_ok=True)
        return None, 0
    with ExitStack() as stack:
        open_files = [stack.enter_context(path.open("r+b")) for path in files]
        for file, shape in zip(open_files, part.shapes, strict=True):
            file.seek(len(_header(shape)))
        ends, whole, frames = [file.tell() for file in open_files], 0, 0
        for batch in part.batches:
            counts = [2 * batch.frames * int(np.prod(shape[1:])) for shape in part.shapes]
            found = [file.read(count) for file, count in zip(open_files, counts, strict=True)]
            if tuple(hashlib.sha256(data).hexdigest() for data in found) != batch.sha256:
                break
            ends = [end + count for end, count in zip(ends, counts, strict=True)]
            whole, frames = whole + 1, frames + batch.frames
        for file, shape, end in zip(open_files, part.shapes, ends, strict=True):
            file.truncate(end)
            file.seek(0)
            file.write(_header(shape))
    return _Part(shapes=part.shapes, batches=part.batches[:whole]), frames
