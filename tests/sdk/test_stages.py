"""The stage cache: what is redone, what is kept, and that nothing half-written is ever seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_sdk.config import OptimiserConfig
from edge_sdk.progress import ProgressEvent
from edge_sdk.stages import Stages


class _Work:
    """Counts its runs and writes one file."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.runs += 1
        (folder / "sub").mkdir()
        (folder / "sub" / "out.txt").write_text("content")
        return {"value": (1, 2.5)}


def test_a_second_run_is_cached_and_gives_equal_values(tmp_path: Path) -> None:
    work, events = _Work(), list[ProgressEvent]()
    first = Stages(tmp_path, events.append).run("a", {"seed": 1}, work)
    again = Stages(tmp_path, events.append).run("a", {"seed": 1}, work)
    assert (work.runs, first.cached, again.cached) == (1, False, True)
    assert first.record == again.record
    assert again.record.result == {"value": [1, 2.5]}
    assert (again.folder / "sub" / "out.txt").read_text() == "content"
    assert events[0].note == "started"
    assert events[-1].note == "cached"


def test_only_what_changed_is_redone(tmp_path: Path) -> None:
    first, second = _Work(), _Work()

    def pipeline(seed: int, rate: float) -> None:
        stages = Stages(tmp_path)
        a = stages.run("a", {"seed": seed}, first)
        stages.run("b", {"a": a.sha256, "optimiser": OptimiserConfig(learning_rate=rate)}, second)

    pipeline(1, 0.1)
    pipeline(1, 0.2)
    assert (first.runs, second.runs) == (1, 2)
    pipeline(2, 0.2)  # the first stage is redone, its outputs are the same, so the second is not
    assert (first.runs, second.runs) == (2, 2)
    pipeline(1, 0.1)
    assert (first.runs, second.runs) == (2, 2)


def test_key_order_does_not_matter_but_the_name_does(tmp_path: Path) -> None:
    work, stages = _Work(), Stages(tmp_path)
    stages.run("a", {"x": 1, "y": 2}, work)
    stages.run("a", {"y": 2, "x": 1}, work)
    stages.run("b", {"x": 1, "y": 2}, work)
    assert work.runs == 2
    assert list(stages.timings()) == ["a", "b"]


def test_a_failing_stage_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path).run("a", {}, fail)
    assert list(tmp_path.iterdir()) == []


_KILLED = """
import os, signal, sys
from pathlib import Path
from edge_sdk.stages import Stages

def work(folder):
    (folder / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)

Stages(Path(sys.argv[1])).run("a", {"seed": 1}, work)
"""


def test_a_killed_stage_is_made_anew_and_its_remains_go(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    work = _Work()
    result = Stages(tmp_path).run("a", {"seed": 1}, work)
    assert work.runs == 1
    assert list(tmp_path.iterdir()) == [result.folder]


@pytest.mark.parametrize("damage", ["change", "delete", "add", "record"])
def test_a_damaged_folder_is_made_anew(tmp_path: Path, damage: str) -> None:
    work = _Work()
    folder = Stages(tmp_path).run("a", {}, work).folder
    file = folder / "sub" / "out.txt"
    if damage == "change":
        file.write_text("Content")
    elif damage == "delete":
        file.unlink()
    elif damage == "add":
        (folder / "more").write_text("x")
    else:
        (folder / "stage.json").write_text("{")
    Stages(tmp_path).run("a", {}, work)
    assert work.runs == 2
    assert file.read_text() == "content"
    assert sorted(path.name for path in folder.iterdir()) == ["stage.json", "sub"]


def test_the_record_says_inputs_seconds_versions_and_hashes(tmp_path: Path) -> None:
    folder = Stages(tmp_path).run("a", {"optimiser": OptimiserConfig(seed=7)}, _Work()).folder
    record = json.loads((folder / "stage.json").read_text())
    assert record["inputs"]["optimiser"]["seed"] == 7
    assert record["versions"]["numpy"] == np.__version__
    assert record["seconds"] >= 0
    assert list(record["outputs"]) == ["sub/out.txt"]


def test_a_refused_result_is_refused_each_time(tmp_path: Path) -> None:
    work = _Work()

    def refuse(result: object) -> None:
        raise ConfigError("not good enough")

    for _ in range(2):
        with pytest.raises(ConfigError, match="not good enough"):
            Stages(tmp_path).run("a", {}, work, check=refuse)
    assert work.runs == 1


def test_the_work_folder_outlives_a_failure_and_goes_with_success(tmp_path: Path) -> None:
    stages = Stages(tmp_path)

    def work(folder: Path) -> None:
        checkpoint = stages.work_folder("a", {"k": 1}) / "checkpoint"
        if not checkpoint.exists():
            checkpoint.write_text("half way")
            raise ConfigError("interrupted")

    with pytest.raises(ConfigError, match="interrupted"):
        stages.run("a", {"k": 1}, work)
    folder = stages.run("a", {"k": 1}, work).folder
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b"])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="stage name"):
        Stages(tmp_path).run(name, {}, _Work())


def test_inputs_that_have_no_hash_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="JSON"):
        Stages(tmp_path).run("a", {"x": object()}, _Work())
