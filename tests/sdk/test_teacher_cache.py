"""Answers on disk: found again, resumed, repaired, shared between writers, pruned."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edge_runtime.errors import ConfigError, InferenceError
from edge_sdk.progress import ProgressEvent
from edge_sdk.teachers import OutputForm, Teacher, TeacherCache, cached_answers

FRAMES = torch.randn((21, 1, 4, 6), generator=torch.Generator().manual_seed(0))


class Counting:
    """A forward pass that counts the frames it is asked about, and stops after `limit` of them."""

    def __init__(self, scale: float = 3.0, limit: int = 10**9) -> None:
        self.scale, self.limit, self.frames = scale, limit, 0

    def __call__(self, frames: Tensor) -> Tensor:
        self.frames += len(frames)
        if self.frames > self.limit:
            raise KeyboardInterrupt
        return frames * self.scale


def teacher(forward: Any, sha256: str = "a" * 64, **form: Any) -> Teacher:
    return Teacher(name="t.onnx", forward=forward, sha256=sha256, form=OutputForm(channels=1, **form))


@pytest.fixture
def cache(tmp_path: Path) -> TeacherCache:
    return TeacherCache(tmp_path / "cache")


def only(cache: TeacherCache, name: str) -> Path:
    (home,) = [path for path in cache.folder.iterdir() if path.is_dir()]
    return home / name


def test_a_second_student_costs_no_teacher_run(cache: TeacherCache) -> None:
    forward = Counting()
    first, sha256 = cached_answers(teacher(forward), FRAMES, cache)
    assert forward.frames == len(FRAMES)
    events: list[ProgressEvent] = []
    again, same = cached_answers(teacher(forward), FRAMES.clone(), TeacherCache(cache.folder), events.append)
    assert forward.frames == len(FRAMES)
    assert torch.equal(first, again)
    assert sha256 == same
    assert [(event.step, event.total, event.note) for event in events] == [(21, 21, "cached")]


def test_answers_are_the_direct_ones_to_half_precision(cache: TeacherCache) -> None:
    direct = teacher(Counting())(FRAMES)
    stored, sha256 = cached_answers(teacher(Counting()), FRAMES, cache, batch_size=5)
    memory, memory_sha256 = cached_answers(teacher(Counting()), FRAMES)
    assert stored.dtype == torch.float16
    assert torch.equal(stored, direct.to(torch.float16))
    assert torch.equal(memory, stored)
    assert memory_sha256 == sha256


def test_writing_into_the_tensor_changes_no_file(cache: TeacherCache) -> None:
    stored, _ = cached_answers(teacher(Counting()), FRAMES, cache)
    before = only(cache, "0.npy").read_bytes()
    stored.zero_()
    assert only(cache, "0.npy").read_bytes() == before
    assert bool(cached_answers(teacher(Counting(limit=0)), FRAMES, cache)[0].any())


def test_the_key_follows_teacher_form_and_frames(cache: TeacherCache) -> None:
    other = FRAMES.clone()
    other[3, 0, 1, 1] += 1e-3
    asked = [
        (teacher(abs), FRAMES),
        (teacher(abs, sha256="b" * 64), FRAMES),
        (teacher(abs, values="values"), FRAMES),
        (teacher(abs), other),
        (teacher(abs), FRAMES[:20]),
        (teacher(abs), FRAMES.reshape(21, 1, 6, 4)),
    ]
    assert len({cache.key(who, frames) for who, frames in asked}) == len(asked)
    assert cache.key(*asked[0]) == cache.key(teacher(Counting()), FRAMES.clone())


def test_a_stopped_run_goes_on_from_its_last_whole_batch(cache: TeacherCache) -> None:
    with pytest.raises(KeyboardInterrupt):
        cached_answers(teacher(Counting(limit=9)), FRAMES, cache, batch_size=4)
    forward = Counting()
    events: list[ProgressEvent] = []
    stored, _ = cached_answers(teacher(forward), FRAMES, cache, events.append, batch_size=7)
    assert forward.frames == 21 - 8
    assert events[0].note == "going on after 8 frames of an earlier run"
    assert (events[-1].step, events[-1].total) == (21, 21)
    assert torch.equal(stored, (FRAMES * 3).to(torch.float16))


@pytest.mark.parametrize("harm", ["torn", "flipped", "header", "record", "gone"])
def test_a_damaged_part_is_asked_again(cache: TeacherCache, harm: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        cached_answers(teacher(Counting(limit=9)), FRAMES, cache, batch_size=4)
    part = only(cache, "0.part")
    data = bytearray(part.read_bytes())
    if harm == "torn":
        part.write_bytes(data[:-5])
    elif harm == "flipped":
        data[-3] ^= 1
        part.write_bytes(data)
    elif harm == "header":
        part.write_bytes(b"x" * 20 + data[20:])
    elif harm == "record":
        only(cache, "part.json").write_bytes(b"{")
    else:
        part.unlink()
    forward = Counting()
    stored, _ = cached_answers(teacher(forward), FRAMES, cache)
    kept = {"torn": 4, "flipped": 4, "header": 8, "record": 0, "gone": 0}[harm]
    assert forward.frames == 21 - kept
    assert torch.equal(stored, (FRAMES * 3).to(torch.float16))


@pytest.mark.parametrize("harm", ["truncated", "flipped", "header", "gone", "record"])
def test_damaged_answers_are_made_again_with_a_note(cache: TeacherCache, harm: str) -> None:
    cached_answers(teacher(Counting()), FRAMES, cache)
    path = only(cache, "0.npy")
    data = bytearray(path.read_bytes())
    if harm == "truncated":
        path.write_bytes(data[:-2])
    elif harm == "flipped":
        data[-1] ^= 1
        path.write_bytes(data)
    elif harm == "header":
        path.write_bytes(b"nonsense" + data[8:])
    elif harm == "gone":
        path.unlink()
    else:
        only(cache, "record.json").write_bytes(b"[]")
    forward = Counting()
    events: list[ProgressEvent] = []
    stored, _ = cached_answers(teacher(forward), FRAMES, cache, events.append)
    assert forward.frames == len(FRAMES)
    assert "damaged" in events[0].note
    assert torch.equal(stored, (FRAMES * 3).to(torch.float16))
    cached_answers(teacher(Counting(limit=0)), FRAMES, cache)


def test_a_run_stopped_between_record_and_arrays_asks_nothing_again(
    cache: TeacherCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    def stop(*paths: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda a, b: stop() if str(a).endswith(".part") else Path(a).rename(b))
        with pytest.raises(KeyboardInterrupt):
            cached_answers(teacher(Counting()), FRAMES, cache)
    stored, _ = cached_answers(teacher(Counting(limit=0)), FRAMES, cache)
    assert torch.equal(stored, (FRAMES * 3).to(torch.float16))


def test_writers_side_by_side_ask_once(cache: TeacherCache) -> None:
    count: list[int] = []
    notes: list[str] = []
    found: list[Tensor] = []

    def slow(frames: Tensor) -> Tensor:
        time.sleep(0.02)
        count.append(len(frames))
        return frames * 3

    def work() -> None:
        own = TeacherCache(cache.folder)
        found.append(cached_answers(teacher(slow), FRAMES, own, lambda e: notes.append(e.note), batch_size=4)[0])

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(count) == len(FRAMES)
    assert all(torch.equal(answer, found[0]) for answer in found)
    assert sum(note.startswith("waiting") for note in notes) <= 4
    assert notes.count("cached") == 4
    assert not list(cache.folder.glob("*.lock"))


_KILLED = """
import os, sys, torch
from pathlib import Path
from edge_sdk.teachers import OutputForm, Teacher, TeacherCache, cached_answers
calls = []
def forward(frames):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), 9)
    return frames * 3
teacher = Teacher(name="t.onnx", forward=forward, sha256="a" * 64, form=OutputForm(channels=1))
frames = torch.randn((21, 1, 4, 6), generator=torch.Generator().manual_seed(0))
cached_answers(teacher, frames, TeacherCache(Path(sys.argv[1])), batch_size=4)
"""


def test_a_killed_process_gives_its_lock_back_and_its_batches_are_kept(cache: TeacherCache) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(cache.folder)], check=False, timeout=120)
    assert done.returncode == -9
    forward = Counting()
    cached_answers(teacher(forward), FRAMES, cache)
    assert forward.frames == 21 - 8
    assert not list(cache.folder.glob("*.lock"))


def test_size_and_prune_by_last_use(cache: TeacherCache) -> None:
    teachers = [teacher(Counting(), sha256=str(k) * 64) for k in range(3)]
    for one in teachers:
        cached_answers(one, FRAMES, cache)
    cached_answers(teachers[0], FRAMES, cache)  # used last
    (cache.folder / "notes.txt").write_text("not ours")
    entries = cache.entries()
    assert [entry.key for entry in entries][-1] == cache.key(teachers[0], FRAMES)
    assert cache.size() == sum(p.stat().st_size for p in cache.folder.rglob("*/*"))
    assert all(entry.complete and entry.teacher == "t.onnx" and entry.bytes > 21 * 24 * 2 for entry in entries)
    kept, _ = cached_answers(teachers[1], FRAMES, cache)
    removed = cache.prune(2 * entries[0].bytes)
    assert [entry.key for entry in removed] == [cache.key(teachers[2], FRAMES)]
    assert len(cache.prune(0)) == 2
    assert cache.size() == 0
    assert torch.equal(kept, (FRAMES * 3).to(torch.float16))  # an open map outlives its file
    assert (cache.folder / "notes.txt").exists()
    with pytest.raises(ConfigError, match="max_bytes"):
        cache.prune(-1)


def test_prune_leaves_what_is_being_written(cache: TeacherCache) -> None:
    removed: list[Any] = []

    def forward(frames: Tensor) -> Tensor:
        removed.extend(cache.prune(0))
        return frames * 3

    stored, _ = cached_answers(teacher(forward), FRAMES, cache, batch_size=4)
    assert removed == []
    assert torch.equal(stored, (FRAMES * 3).to(torch.float16))


def test_sure_classes_stay_apart_in_half_precision() -> None:
    sure = torch.tensor([50.0, 40.0, -80.0]).view(1, 3, 1, 1)
    three = Teacher(name="t", forward=lambda x: sure.expand(len(x), -1, 4, 6), classes=3)
    stored, _ = cached_answers(three, FRAMES)
    assert stored[0, :, 0, 0].tolist() == [30.0, 20.0, -30.0]
    one = Teacher(name="t", forward=lambda x: x.sign() * 1e6, classes=1)
    assert set(cached_answers(one, FRAMES)[0].abs().flatten().tolist()) == {30.0}


def test_several_outputs_are_kept_by_name(cache: TeacherCache) -> None:
    forms = {"heat:0": OutputForm(channels=1, stride=2), "box": OutputForm(channels=4, layout="rows", values="values")}
    asked: list[int] = []

    def forward(frames: Tensor) -> dict[str, Tensor]:
        asked.append(len(frames))
        return {"heat:0": frames[:, :, ::2, ::2], "box": frames.reshape(len(frames), 6, 4) * 100}

    several = Teacher(name="d", forward=forward, form=forms, sha256="c" * 64)
    for _ in range(2):
        found = cache.answers(several, FRAMES)
        assert torch.equal(found["heat:0"][0], FRAMES[:, :, ::2, ::2].to(torch.float16))
        assert torch.equal(found["box"][0], (FRAMES.reshape(21, 6, 4) * 100).to(torch.float16))
    assert sum(asked) == len(FRAMES)
    with pytest.raises(ConfigError, match=r"\['box', 'heat:0'\]"):
        cached_answers(several, FRAMES, cache)


def test_what_cannot_be_kept_is_refused(cache: TeacherCache, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"t\.onnx has no sha256"):
        cached_answers(teacher(abs, sha256=""), FRAMES, cache)
    with pytest.raises(ConfigError, match=r"\(0, 1, 4, 6\)"):
        cached_answers(teacher(abs), FRAMES[:0], cache)
    with pytest.raises(InferenceError, match="half precision"):
        cached_answers(teacher(lambda x: x * 1e6, values="values"), FRAMES, cache)
    with pytest.raises(InferenceError, match="NaN"):
        cached_answers(teacher(lambda x: x * float("nan")), FRAMES, cache)
    rows = Teacher(
        name="r",
        forward=lambda x: torch.zeros(len(x), len(x), 4),
        sha256="d" * 64,
        form=OutputForm(channels=4, layout="rows", values="values"),
    )
    for where in (cache, None):
        with pytest.raises(InferenceError, match="different batches"):
            cached_answers(rows, FRAMES, where)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made a folder"):
        TeacherCache(tmp_path / "file")
    assert np.isfinite(cached_answers(teacher(abs), FRAMES, cache)[0].numpy()).all()
