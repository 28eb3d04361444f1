"""`Finding`: one line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was looked at, how it stands, and what to do.

    `state`: "ok"; "missing" for what is not there and may not be needed; "warn" for what works badly or could not be
    examined. `fix` is a command or an advice, empty when there is nothing to do.
    """

    name: str
    state: Literal["ok", "missing", "warn"]
    detail: str
    fix: str = ""

    def to_dict(self) -> dict[str, str]:
        """The four fields, for JSON."""
        return {"name": self.name, "state": self.state, "detail": self.detail, "fix": self.fix}
