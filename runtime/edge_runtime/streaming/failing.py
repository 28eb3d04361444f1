"""`ErrorPolicy`: what a branch does when one of its stages raises."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_runtime.errors import ConfigError, EdgeError

__all__ = ["ErrorPolicy", "OnError"]

OnError = Literal["raise", "skip", "substitute", "restart"]


class ErrorPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One answer a stage, and two limits.

    | answer | the frame | the stream |
    |---|---|---|
    | `raise` | failed | ends with the error |
    | `skip` | failed | goes on |
    | `substitute` | the last result, marked stale, else failed; of `refine`: without it, degraded | goes on |
    | `restart` | failed | goes on after the stage was reset (`infer`: the model is loaded anew, in this thread) |

    It holds for `EdgeError`, which is what the shipped stages raise (a NaN output is an `InferenceError`); with
    `any_exception` for every other exception too, which is a bug otherwise and ends the stream. `max_restarts` bounds
    the restarts of a stage in a row; `give_up_after` failed frames in a row the stream ends (None: never), whatever the
    answer. Both raise `PipelineError` with the last error.
    """

    preprocess: OnError = "skip"
    infer: OnError = "skip"
    postprocess: OnError = "skip"
    refine: OnError = "skip"
    any_exception: bool = False
    max_restarts: int = 3
    give_up_after: int | None = None

    def __post_init__(self) -> None:
        if self.max_restarts < 1 or (self.give_up_after is not None and self.give_up_after < 1):
            raise ConfigError(
                f"max_restarts {self.max_restarts}, give_up_after {self.give_up_after}: at least 1, or None for never"
            )

    def covers(self, error: Exception) -> bool:
        """Whether `error` is one that a stage may raise under this policy."""
        return self.any_exception or isinstance(error, EdgeError)

    def answer(self, stage: str) -> OnError:
        """What to do about an error of `stage`."""
        answer: OnError = getattr(self, stage)
        return answer
