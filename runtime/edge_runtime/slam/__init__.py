"""From a freehand sweep to poses: motion between frames, loops, a pose graph."""

from edge_runtime.slam.motion import Motion

__all__ = ["Motion"]
