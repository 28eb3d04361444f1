"""What a pipeline asks of the parts that users plug in. Any object of the right shape will do."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.frame import Frame
from edge_runtime.result import Area

__all__ = ["FrameSource", "Postprocess", "PreparedInput", "Preprocess", "Segmented"]


class FrameSource(Protocol):
    """Frames in order (`edge_runtime.sources` has the shipped ones). `live` decides what an overloaded pipeline does.

    A live source (camera, or a file played at its own pace) keeps its rhythm: the newest frame wins and older ones are
    dropped and counted. A source that is not live waits, and loses nothing.
    """

    @property
    def name(self) -> str:
        """Short label for reports; no patient strings."""

    @property
    def live(self) -> bool:
        """Whether frames keep coming when nobody takes them."""

    @property
    def fps(self) -> float | None:
        """Nominal frames per second, or None when unknown."""

    def read(self) -> Frame | None:
        """The next frame, which nobody changes afterwards, or None at the end; called from the capture thread alone.

        `CorruptFrameError` fails one frame, and the next call goes on after it. Any other error ends the stream and is
        raised to the caller.
        """


class PreparedInput(Protocol):
    """What a preprocessor returns: a network input (1, C, H, W) float32, valid until its next call."""

    @property
    def tensor(self) -> npt.NDArray[np.float32]:
        """(1, C, H, W) float32."""


class Preprocess(Protocol):
    """Frame to network input; `edge_runtime.preprocess.Preprocessor` is the shipped one."""

    def __call__(self, frame: Frame) -> PreparedInput:
        """The network input of `frame`; may raise any `EdgeError`, which fails the frame alone."""

    def reset(self) -> None:
        """Forget earlier frames; called at the start of a stream."""


class Segmented(Protocol):
    """What a postprocessor returns; any part may be None. An `edge_runtime.result.Outcome` may say more."""

    @property
    def mask(self) -> npt.NDArray[np.uint8] | None:
        """(H, W) uint8 in source pixels."""

    @property
    def probability(self) -> npt.NDArray[np.float32] | None:
        """(h, w) float32 at network size."""

    @property
    def areas(self) -> tuple[Area, ...]:
        """One entry per class."""

    @property
    def uncertainty(self) -> float | None:
        """0 (sure) to 1."""


class Postprocess(Protocol):
    """Network outputs back to the source; `edge_runtime.postprocess` has the shipped ones."""

    def __call__(
        self,
        outputs: dict[str, npt.NDArray[np.float32]],
        prepared: Any,  # what the branch's own preprocessor returned
        frame: Frame,
        *,
        mask_out: npt.NDArray[np.uint8] | None,
        probability_out: npt.NDArray[np.float32] | None,
    ) -> Segmented:
        """Write into `mask_out` (H, W) and `probability_out` (h, w) where given, and return them among the rest."""
