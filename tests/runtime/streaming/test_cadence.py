from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.streaming.cadence import Cadence
from edge_runtime.streaming.ledger import Ledger


@given(st.integers(1, 5), st.lists(st.sampled_from(["through", "dropped", "corrupt"]), max_size=40), st.integers(0, 6))
def test_a_turn_is_served_by_the_first_frame_through_and_lost_when_all_are(
    every: int, fates: list[str], lag: int
) -> None:
    ledger = Ledger()
    cadence = Cadence(every, ledger)
    served = []

    def decide(number: int) -> None:
        if fates[number] == "through":
            ticket = cadence.serve(number)
            if ticket is not None:
                ledger.settle(ticket, "fresh")
                served.append(number)
        else:
            outcome = "failed" if fates[number] == "corrupt" else "dropped"
            cadence.lose(number, outcome, fates[number])  # type: ignore[arg-type]

    for number in range(len(fates) + lag):  # a frame's fate is known `lag` frames after it has come
        if number < len(fates):
            cadence.arrive(number)
        if 0 <= number - lag < len(fates):
            decide(number - lag)
        assert ledger.snapshot().balances
    cadence.finish()
    turns = [fates[start : start + every] for start in range(0, len(fates), every)]
    through = [every * i + turn.index("through") for i, turn in enumerate(turns) if "through" in turn]
    snapshot = ledger.snapshot()
    assert served == through
    assert (snapshot.arrived, snapshot.fresh, snapshot.in_flight) == (len(turns), len(through), 0)
    assert cadence.lost <= snapshot.misses == len(turns) - len(through)


def test_cadence_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="cadence is 0"):
        Cadence(0, Ledger())
