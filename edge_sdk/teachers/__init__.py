"""Teachers: anything that maps frames to outputs, behind one callable that checks what it gives.

A teacher is made from a module (`teacher_from_module`), a file (`load_teacher`: ONNX, so TensorFlow and Keras too,
TorchScript, a state dict) or several teachers (`ensemble`, `with_flips`). `TeacherCache` keeps answers on disk.
"""

from __future__ import annotations

from edge_sdk.teachers.cache import CacheEntry, TeacherCache, cached_answers
from edge_sdk.teachers.ensemble import Ensemble, Flip, Weighting, ensemble, with_flips
from edge_sdk.teachers.files import load_teacher
from edge_sdk.teachers.forms import OutputForm, OutputKind, OutputLayout
from edge_sdk.teachers.identity import module_identity, module_sha256
from edge_sdk.teachers.state import load_state_dict, save_state_dict
from edge_sdk.teachers.teacher import Teacher, teacher_from_module

__all__ = [
    "CacheEntry",
    "Ensemble",
    "Flip",
    "OutputForm",
    "OutputKind",
    "OutputLayout",
    "Teacher",
    "TeacherCache",
    "Weighting",
    "cached_answers",
    "ensemble",
    "load_state_dict",
    "load_teacher",
    "module_identity",
    "module_sha256",
    "save_state_dict",
    "teacher_from_module",
    "with_flips",
]
