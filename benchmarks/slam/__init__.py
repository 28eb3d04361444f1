"""SLAM: a volume from a freehand sweep with or without a tracker; real sweeps with a tracker's truth, simulated ones."""
