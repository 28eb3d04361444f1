"""SLAM: a volume from a freehand sweep with or without a tracker, on real sweeps with a tracker's truth and simulated ones."""
