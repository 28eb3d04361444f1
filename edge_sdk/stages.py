"""A cache of stages by the hash of their inputs, so that a rerun redoes only what changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.atomic import sync
from edge_runtime.errors import ConfigError
from edge_sdk.progress import Progress, ProgressEvent, ignore_progress

__all__ = ["StageRecord", "StageResult", "Stages", "code_sha256"]

_RECORD = "stage.json"
_PARTIAL = ".partial-"
_DISTRIBUTIONS = ("numpy", "torch", "pocus-edge-sdk", "pocus-edge-export", "pocus-edge-runtime")


class StageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`stage.json`: the inputs, how long the work took in seconds, which versions did it, what it wrote.

    `outputs` maps file names, relative to the stage's folder, to their sha256. `result` is the JSON value that the
    function returned.
    """

    name: str
    sha256: str
    inputs: dict[str, Any]
    seconds: float
    versions: dict[str, str]
    outputs: dict[str, str]
    result: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """The folder of a finished stage, its record, and whether it was taken from the cache (`cached`)."""

    folder: Path
    record: StageRecord
    cached: bool

    @property
    def sha256(self) -> str:
        """Hash of the outputs and the returned value: what a following stage names among its inputs."""
        return hashlib.sha256(_canonical([self.record.outputs, self.record.result])).hexdigest()


class Stages:
    """Runs named stages under `root`, each into `root/NAME-HASH12/`, where the hash is that of its inputs.

    A stage's folder appears whole or not at all: the function works in a temporary folder beside it, which takes the
    name when the function has returned. A folder whose files differ from its record is thrown away and made again.
    One process at a time per `root`.
    """

    def __init__(self, root: Path, progress: Progress = ignore_progress) -> None:
        self.root = Path(root)
        self.progress = progress
        self.results: dict[str, StageResult] = {}

    def run(
        self,
        name: str,
        inputs: Mapping[str, Any],
        function: Callable[[Path], Any],
        *,
        check: Callable[[StageResult], None] | None = None,
    ) -> StageResult:
        """The outputs of `function(folder)` for `inputs`, from the cache when nothing in `inputs` has changed.

        `inputs` must say everything the outcome depends on, as JSON values or msgspec structs: settings, seeds, the
        `sha256` of earlier stages, a version of the code. `function` writes its files into the folder it is given and
        may return a JSON value. `check(result)`, called each time, may raise to refuse a result. What `function`
        raises passes through and leaves nothing behind, except a folder `NAME-HASH12.work` that it may have asked
        for with `work_folder`.
        """
        if not name or any(not (c.isalnum() or c in "_-") for c in name):
            raise ConfigError(f"stage name {name!r}; letters, digits, '-' and '_' are allowed")
        canonical = _canonical({"stage": name, "inputs": dict(inputs)})
        sha256 = hashlib.sha256(canonical).hexdigest()
        folder = self.root / f"{name}-{sha256[:12]}"
        record = _read_record(folder, sha256)
        cached = record is not None
        if record is None:
            record = self._make(name, sha256, inputs, function, folder)
        result = StageResult(folder=folder, record=record, cached=cached)
        if check is not None:
            check(result)
        self.results[name] = result
        note = "cached" if cached else f"{record.seconds:.1f} s"
        self.progress(ProgressEvent(task=name, step=1, total=1, note=note))
        return result

    def work_folder(self, name: str, inputs: Mapping[str, Any]) -> Path:
        """A folder for checkpoints of the stage with these inputs; it outlives a killed run and goes with success."""
        sha256 = hashlib.sha256(_canonical({"stage": name, "inputs": dict(inputs)})).hexdigest()
        folder = self.root / f"{name}-{sha256[:12]}.work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def timings(self) -> dict[str, float]:
        """Seconds of work of every stage that was asked for, in order, cached ones with the time they once took."""
        return {name: result.record.seconds for name, result in self.results.items()}

    def _make(
        self, name: str, sha256: str, inputs: Mapping[str, Any], function: Callable[[Path], Any], folder: Path
    ) -> StageRecord:
        self.root.mkdir(parents=True, exist_ok=True)
        _remove_partial(self.root, folder.name)
        shutil.rmtree(folder, ignore_errors=True)
        self.progress(ProgressEvent(task=name, step=0, total=1, note="started"))
        partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{folder.name}-", dir=self.root))
        try:
            started = time.perf_counter()
            result = function(partial)
            record = StageRecord(
                name=name,
                sha256=sha256,
                inputs=msgspec.to_builtins(dict(inputs)),
                seconds=round(time.perf_counter() - started, 3),
                versions=_versions(),
                outputs=_hashes(partial),
                result=msgspec.to_builtins(result),
            )
            (partial / _RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
            _sync_tree(partial)
            partial.chmod(0o755)
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(self.root / f"{folder.name}.work", ignore_errors=True)
        # what the cache would give back, so that a first run and a cached one hand on equal values
        return msgspec.json.decode(msgspec.json.encode(record), type=StageRecord)


def _canonical(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, order="sorted")
    except TypeError as error:
        raise ConfigError(f"a stage's inputs must be JSON values or msgspec structs: {error}") from error


def _read_record(folder: Path, sha256: str) -> StageRecord | None:
    """The record of a finished, unchanged stage folder, else None."""
    try:
        record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=StageRecord)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    return record if record.sha256 == sha256 and _hashes(folder) == record.outputs else None


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in names.items() if name != _RECORD}


def _remove_partial(root: Path, folder_name: str) -> None:
    """Remove what a killed run of this stage left."""
    for left in root.glob(f"{_PARTIAL}{folder_name}-*"):
        shutil.rmtree(left, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def _versions() -> dict[str, str]:
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def code_sha256(*modules: str) -> str:
    """Hash of the source files of modules and packages: among a stage's inputs, so that changed code is run again.

    Raises `ConfigError` for a module without a source file.
    """
    digest = hashlib.sha256()
    for name in modules:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ConfigError(f"module {name} has no source file to hash")
        origin = Path(spec.origin)
        for path in sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]:
            digest.update(path.read_bytes())
    return digest.hexdigest()
