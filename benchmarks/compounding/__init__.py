"""Tracked reconstruction: parity with the reference reconstructor, exactness, speed and calibration, on real sweeps."""
