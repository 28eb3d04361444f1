"""Results of long trainings: per-image scores of every seed, and the weights of one.

A record is named by the hash of its settings, of its data, and its seed; a figure taken from a record whose hashes do
not match the tree any more is printed as stale, never as a value.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.atomic import write_bytes
from edge_runtime.errors import ConfigError
from edge_runtime.optional import require

__all__ = [
    "STORED",
    "SeedRecord",
    "check_fresh",
    "data_root",
    "data_sha256",
    "load_records",
    "load_weights",
    "paired_bootstrap",
    "recipe_sha256",
    "save_record",
    "save_weights",
    "write_weights",
]

STORED = Path(__file__).resolve().parents[1] / "stored" / "distill"


class SeedRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one seed of one row gave.

    `scores` holds one number per entry of `names` (images, clips, patients), under names such as "student.dice";
    `settings` are the training's, `log` its losses and seconds, `weights` file names with their sha256.
    """

    row: str
    seed: int
    recipe_sha256: str
    data_sha256: str
    names: list[str]
    scores: dict[str, list[float]]
    settings: dict[str, Any] = {}
    log: dict[str, Any] = {}
    weights: dict[str, str] = {}

    def __post_init__(self) -> None:
        for name, values in self.scores.items():
            if len(values) != len(self.names):
                raise ConfigError(f"{self.row}, seed {self.seed}: {name} has {len(values)} of {len(self.names)} scores")

    def array(self, name: str) -> npt.NDArray[np.float64]:
        """The scores called `name`, (N,)."""
        if name not in self.scores:
            raise ConfigError(f"{self.row}, seed {self.seed}: no scores {name!r}; there are {sorted(self.scores)}")
        return np.asarray(self.scores[name], np.float64)


def data_root() -> Path:
    """The folder that POCUS_DATA names; `ConfigError` when it is unset or missing."""
    name = os.environ.get("POCUS_DATA", "")
    if not name or not Path(name).is_dir():
        raise ConfigError(f"POCUS_DATA is {name!r}; set it to the folder of the real data")
    return Path(name)


def _explicit(value: Any) -> Any:
    """`value` as JSON values; of a struct only the fields that differ from their defaults, so that a new setting that
    is off by default leaves old trainings valid."""
    if isinstance(value, msgspec.Struct):
        fields = {}
        for field in msgspec.structs.fields(value):
            item = getattr(value, field.name)
            if item != field.default:
                fields[field.name] = _explicit(item)
        return {"struct": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(key): _explicit(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_explicit(item) for item in value]
    return msgspec.to_builtins(value)


def recipe_sha256(*settings: Any) -> str:
    """Hash of settings: msgspec structs or JSON values."""
    return hashlib.sha256(msgspec.json.encode(_explicit(settings), order="sorted")).hexdigest()


def data_sha256(paths: Iterable[Path]) -> str:
    """Hash of names and contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        digest.update(path.name.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def save_record(record: SeedRecord) -> Path:
    """Write `record` as STORED/row/seed_N.json, scores rounded to seven digits."""
    folder = STORED / record.row
    folder.mkdir(parents=True, exist_ok=True)
    scores = {name: [float(f"{value:.7g}") for value in values] for name, values in record.scores.items()}
    text = msgspec.json.encode(msgspec.structs.replace(record, scores=scores))
    path = folder / f"seed_{record.seed}.json"
    write_bytes(path, text + b"\n")
    return path


def load_records(row: str) -> list[SeedRecord]:
    """The stored seeds of `row`, in their order; `ConfigError` when there are none."""
    paths = sorted((STORED / row).glob("seed_*.json"))
    if not paths:
        raise ConfigError(f"{row}: nothing is stored; run `python -m benchmarks.distill --fresh --only {row}`")
    records = [msgspec.json.decode(path.read_bytes(), type=SeedRecord) for path in paths]
    return sorted(records, key=lambda record: record.seed)


def check_fresh(record: SeedRecord, recipe: str, data: str) -> str:
    """Why `record` is not what the tree's settings and data would give; "" when it is."""
    if record.recipe_sha256 != recipe:
        return f"stale: {record.row}, seed {record.seed}, was trained with other settings; run it with --fresh"
    if record.data_sha256 != data:
        return f"stale: {record.row}, seed {record.seed}, was trained on other data"
    return ""


def save_weights(row: str, name: str, module: Any) -> str:
    """Write the module's tensors as STORED/row/name.safetensors; returns the file's sha256 (`write_weights`)."""
    return write_weights(STORED / row / f"{name}.safetensors", module.state_dict())


def write_weights(path: Path, state: Mapping[str, Any]) -> str:
    """Write tensors to `path`, numbers as float16; returns the file's sha256."""
    torch: Any = require("torch", "to store weights")
    safetensors: Any = require("safetensors.torch", "to store weights")
    half = {k: (v.to(torch.float16) if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    data: bytes = safetensors.save(half)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def load_weights(row: str, name: str, module: Any) -> Any:
    """`module` with the stored weights, in evaluation mode; `ConfigError` when they are missing or do not fit."""
    safetensors: Any = require("safetensors.torch", "to read stored weights")
    path = STORED / row / f"{name}.safetensors"
    if not path.is_file():
        raise ConfigError(f"{path.name} of {row} is not stored; run `python -m benchmarks.distill --fresh`")
    state = safetensors.load(path.read_bytes())
    own = module.state_dict()
    try:
        module.load_state_dict({key: value.to(own[key].dtype) if key in own else value for key, value in state.items()})
    except RuntimeError as error:
        raise ConfigError(f"{path.name} of {row} does not fit the network: {error}") from error
    return module.eval()


def paired_bootstrap(
    differences: npt.NDArray[np.float64] | Sequence[Sequence[float]], n: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean of (S seeds, N items) differences, seeds and items both drawn again."""
    values = np.asarray(differences, np.float64)
    if values.ndim != 2 or not values.size:
        raise ConfigError(f"differences have shape {values.shape}; (seeds, items) is needed")
    rng = np.random.default_rng(seed)
    means = np.empty(n)
    for k in range(n):
        rows = rng.integers(0, values.shape[0], values.shape[0])
        columns = rng.integers(0, values.shape[1], values.shape[1])
        means[k] = values[np.ix_(rows, columns)].mean()
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
