"""Recorded tracked sweeps: images, transforms, statuses and times of `.igs.mha` and `.seq.nrrd` files."""

from edge_runtime.sources.tracked._files import read_sequence, write_sequence
from edge_runtime.sources.tracked._graph import TransformGraph, split_name
from edge_runtime.sources.tracked._poses import ImagePoses, image_poses, split_scale
from edge_runtime.sources.tracked._sequence import ORIENTATIONS, TrackedSequence
from edge_runtime.sources.tracked._tum import read_tum

__all__ = [
    "ORIENTATIONS",
    "ImagePoses",
    "TrackedSequence",
    "TransformGraph",
    "image_poses",
    "read_sequence",
    "read_tum",
    "split_name",
    "split_scale",
    "write_sequence",
]
