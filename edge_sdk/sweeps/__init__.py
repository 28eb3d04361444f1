"""Freehand sweeps through a three-dimensional field of scatterers, with their truth. See docs/simulator.md."""

from edge_sdk.sweeps.anatomy import Anatomy, homogeneous, random_anatomy
from edge_sdk.sweeps.echo import EchoField
from edge_sdk.sweeps.imu import ImuModel, ImuTruth, simulate_imu
from edge_sdk.sweeps.settings import Disturbance, Receiver, SweepProbe
from edge_sdk.sweeps.sweep import TrueSweep, sweep_through
from edge_sdk.sweeps.trajectory import hand, path_mm, read_poses, resampled, straight, there_and_back

__all__ = [
    "Anatomy",
    "Disturbance",
    "EchoField",
    "ImuModel",
    "ImuTruth",
    "Receiver",
    "SweepProbe",
    "TrueSweep",
    "hand",
    "homogeneous",
    "path_mm",
    "random_anatomy",
    "read_poses",
    "resampled",
    "simulate_imu",
    "straight",
    "sweep_through",
    "there_and_back",
]
