"""Explanations of teacher and student, and the check that they agree for the right reason."""

from __future__ import annotations

from edge_sdk.explain.agreement import CamAgreement, cam_agreement, chance_iou
from edge_sdk.explain.check import ExplanationCheck, explanation_check, randomised
from edge_sdk.explain.gradcam import CamVariant, grad_cam, predicted_region
from edge_sdk.explain.layers import LayerInfo, automatic_layer, layers_of
from edge_sdk.explain.picture import explanation_picture

__all__ = [
    "CamAgreement",
    "CamVariant",
    "ExplanationCheck",
    "LayerInfo",
    "automatic_layer",
    "cam_agreement",
    "chance_iou",
    "explanation_check",
    "explanation_picture",
    "grad_cam",
    "layers_of",
    "predicted_region",
    "randomised",
]
