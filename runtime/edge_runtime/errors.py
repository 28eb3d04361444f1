"""The one tree of exceptions.

Every error that a user can cause or meet derives from `EdgeError`. A message says the value, what was
allowed, and the next step. The command line catches `EdgeError` alone and exits with `exit_code`; any other
exception is a bug and shows its traceback (exit 70).

    EdgeError                              exit
    ├── ConfigError                        2     unknown key, value out of range, bad argument
    ├── MissingDependencyError             2     an extra is not installed; says the install line
    ├── BundleError                        3
    │   ├── BundleFormatError              3     not a zip, bad member, bad manifest
    │   ├── BundleVersionError             3     schema version this reader does not know
    │   ├── BundleIntegrityError           3     hash or size differs from the manifest
    │   ├── BundleSignatureError           3     no signature, bad signature, untrusted key
    │   ├── ModelRefusedError              3     ONNX with external data, operator not allowed, over a cap
    │   └── SelfTestError                  3     golden samples not reproduced on this machine
    ├── SourceError                        4
    │   ├── SourceFormatError              4     not a file we read, or unsupported coding
    │   └── CorruptFrameError              4     one frame cannot be decoded; carries `index`
    ├── GeometryError                      4     millimetres asked for, calibration absent or not trusted
    ├── RunnerError                        4
    │   ├── ProviderUnavailableError       4     asked for a provider or device and did not get it
    │   ├── InputContractError             4     shape or dtype differs from the manifest
    │   └── InferenceError                 4     the backend failed, timed out or gave NaN
    ├── PipelineError                      4     misuse of the pipeline, or a thread that would not stop
    ├── ReconstructionError                4     nothing to build a volume from, volume over the cap
    ├── LoweringError                      1     export, quantization or gate failed
    └── ThresholdError                     1     a result below a stated threshold
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "BundleFormatError",
    "BundleIntegrityError",
    "BundleSignatureError",
    "BundleVersionError",
    "ConfigError",
    "CorruptFrameError",
    "EdgeError",
    "GeometryError",
    "InferenceError",
    "InputContractError",
    "LoweringError",
    "MissingDependencyError",
    "ModelRefusedError",
    "PipelineError",
    "ProviderUnavailableError",
    "ReconstructionError",
    "RunnerError",
    "SelfTestError",
    "SourceError",
    "SourceFormatError",
    "ThresholdError",
]


class EdgeError(Exception):
    """Base of every error of the SDK; `exit_code` is what the command line ends with."""

    exit_code = 1


class ConfigError(EdgeError):
    """A setting is unknown, out of range or contradictory."""

    exit_code = 2


class MissingDependencyError(EdgeError):
    """An optional package is needed; the message carries the exact install line."""

    exit_code = 2


class BundleError(EdgeError):
    """A `.edge` file cannot be used."""

    exit_code = 3


class BundleFormatError(BundleError):
    """The file is not a well-formed `.edge` archive."""


class BundleVersionError(BundleError):
    """The manifest's schema version is not one this reader knows."""


class BundleIntegrityError(BundleError):
    """A member's size or sha256 differs from the manifest."""


class BundleSignatureError(BundleError):
    """The signature is missing, wrong, or made by a key that is not trusted."""


class ModelRefusedError(BundleError):
    """The ONNX model asks for something the device runtime does not allow."""


class SelfTestError(BundleError):
    """The golden samples are not reproduced on this machine."""


class SourceError(EdgeError):
    """Frames cannot be had from a source."""

    exit_code = 4


class SourceFormatError(SourceError):
    """The file is of a kind, or coded in a way, that is not read."""


class CorruptFrameError(SourceError):
    """One frame cannot be decoded; the others may be fine."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class GeometryError(EdgeError):
    """A length or area was asked for where the calibration is absent or not trusted."""

    exit_code = 4


class RunnerError(EdgeError):
    """A model cannot be loaded or run."""

    exit_code = 4


class ProviderUnavailableError(RunnerError):
    """The execution provider or device that was asked for was not obtained."""


class InputContractError(RunnerError):
    """An input's name, shape or dtype differs from the manifest."""


class InferenceError(RunnerError):
    """The backend failed, ran past its time limit, or returned values that are not finite."""


class PipelineError(EdgeError):
    """The pipeline was used against its contract, or could not stop."""

    exit_code = 4


class ReconstructionError(EdgeError):
    """There is nothing to build a volume from, or it would be larger than allowed."""

    exit_code = 4


class LoweringError(EdgeError):
    """Export, quantization or an acceptance gate failed."""


class ThresholdError(EdgeError):
    """A measured result is below the threshold that was asked for."""
