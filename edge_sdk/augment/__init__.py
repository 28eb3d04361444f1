"""Random changes of a training batch: one geometric change for frame, truth and soft targets alike.

Grey-value changes touch only what the network sees, so a student learns the teacher's answer to the clean frame
from a changed one (noisy student, Xie et al., CVPR 2020).
"""

from edge_sdk.augment.beams import BEAMS, Beams, beam_field
from edge_sdk.augment.pipeline import augment
from edge_sdk.batch import Batch

__all__ = ["BEAMS", "Batch", "Beams", "augment", "beam_field"]
