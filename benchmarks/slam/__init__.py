"""SLAM: a volume from a freehand sweep, with or without a tracker, on recorded sweeps and on simulated ones."""
