"""Optional packages: import one, or say the exact install line."""

from __future__ import annotations

import importlib
from types import ModuleType

from edge_runtime.errors import MissingDependencyError

__all__ = ["is_available", "require"]

# import name -> extra of pocus-edge-runtime that brings it
EXTRAS = {
    "cryptography": "sign",
    "cv2": "cv",
    "cuda": "trt",
    "h5py": "tusrec",
    "numba": "recon",
    "onnxruntime": "ort",
    "openvino": "openvino",
    "pydicom": "dicom",
    "rich": "cli",
    "scipy": "slam",
    "simplejpeg": "dicom",
    "typer": "cli",
    "yaml": "cli",
}


def require(name: str, purpose: str) -> ModuleType:
    """Import `name`, or raise `MissingDependencyError` with the install line; `purpose` ends the sentence."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = EXTRAS.get(name.split(".")[0])
        line = f"pip install 'pocus-edge-runtime[{extra}]'" if extra else f"pip install {name}"
        raise MissingDependencyError(f"{name} is needed {purpose} ({error}). Install it: {line}") from error


def is_available(name: str) -> bool:
    """Whether `name` can be imported (it is imported to find out)."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
