"""The one simulator: B-mode frames, cines, tracked sweeps, and the truth about them. See docs/simulator.md."""

from edge_sdk.simulate.cine import simulate_cine
from edge_sdk.simulate.dataset import training_frame, training_set
from edge_sdk.simulate.exam import vessel_exam
from edge_sdk.simulate.frame import BeamData, SimulatedFrame, simulate_envelope, simulate_frame
from edge_sdk.simulate.motion import Motion
from edge_sdk.simulate.probe import ImagingSettings, ProbeModel
from edge_sdk.simulate.sampling import random_probe, random_scene
from edge_sdk.simulate.scene import Inclusion, Interface, Layer, Scene
from edge_sdk.simulate.sweep import GreyField, SimulatedSweep, simulate_sweep
from edge_sdk.simulate.truth import InclusionTruth

__all__ = [
    "BeamData",
    "GreyField",
    "ImagingSettings",
    "Inclusion",
    "InclusionTruth",
    "Interface",
    "Layer",
    "Motion",
    "ProbeModel",
    "Scene",
    "SimulatedFrame",
    "SimulatedSweep",
    "random_probe",
    "random_scene",
    "simulate_cine",
    "simulate_envelope",
    "simulate_frame",
    "simulate_sweep",
    "training_frame",
    "training_set",
    "vessel_exam",
]
