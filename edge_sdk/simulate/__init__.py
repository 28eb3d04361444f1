"""The one simulator: B-mode frames, cines, tracked sweeps, and the truth about them. See docs/simulator.md."""

from edge_sdk.simulate.dataset import training_frame, training_set
from edge_sdk.simulate.frame import BeamData, SimulatedFrame, simulate_envelope, simulate_frame
from edge_sdk.simulate.probe import ImagingSettings, ProbeModel
from edge_sdk.simulate.sampling import random_probe, random_scene
from edge_sdk.simulate.scene import Inclusion, Interface, Layer, Scene
from edge_sdk.simulate.truth import InclusionTruth

__all__ = [
    "BeamData",
    "ImagingSettings",
    "Inclusion",
    "InclusionTruth",
    "Interface",
    "Layer",
    "ProbeModel",
    "Scene",
    "SimulatedFrame",
    "random_probe",
    "random_scene",
    "simulate_envelope",
    "simulate_frame",
    "training_frame",
    "training_set",
]
