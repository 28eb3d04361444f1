"""The `.edge` file: one signed archive from host to device. `docs/bundle.md` is the specification."""

from edge_runtime.bundle._manifest_outputs import check_outputs
from edge_runtime.bundle._npy import npy_bytes
from edge_runtime.bundle._signature import SignatureInfo, TrustedKey, generate_key, load_trusted_key, private_key_id
from edge_runtime.bundle.limits import Limits
from edge_runtime.bundle.manifest import (
    SCHEMA_VERSION,
    Calibration,
    Evidence,
    GoldenSample,
    InputSpec,
    Manifest,
    Member,
    OutputSpec,
    Variant,
    schema_version,
)
from edge_runtime.bundle.onnx_guard import ALLOWED_OPERATORS, ModelFacts, TensorFacts, inspect_model
from edge_runtime.bundle.reader import Bundle, BundleReport, verify_bundle
from edge_runtime.bundle.writer import sign_bundle, write_bundle

__all__ = [
    "ALLOWED_OPERATORS",
    "SCHEMA_VERSION",
    "Bundle",
    "BundleReport",
    "Calibration",
    "Evidence",
    "GoldenSample",
    "InputSpec",
    "Limits",
    "Manifest",
    "Member",
    "ModelFacts",
    "OutputSpec",
    "SignatureInfo",
    "TensorFacts",
    "TrustedKey",
    "Variant",
    "check_outputs",
    "generate_key",
    "inspect_model",
    "load_trusted_key",
    "npy_bytes",
    "private_key_id",
    "schema_version",
    "sign_bundle",
    "verify_bundle",
    "write_bundle",
]
