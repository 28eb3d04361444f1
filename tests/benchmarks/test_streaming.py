"""The form of the streaming table: the feed, the figures from blocks, rivals that are not there, the networks."""

from __future__ import annotations

import json
import time

import numpy as np
import onnxruntime
import pytest

from benchmarks.figures import Figure
from benchmarks.peers import install
from benchmarks.peers.feed import Delivered, Feed, Job, frame_id
from benchmarks.peers.work import Work
from benchmarks.streaming import overload
from benchmarks.streaming.blocks import OURS, SYSTEMS, Blocks, interleaved
from benchmarks.streaming.material import ensemble
from benchmarks.streaming.rows import ROWS

KEYS = ["overhead", "light_load", "overload", "ladder", "stall", "endurance"]
KEYS += ["preprocess_ratio", "lossless", "ledger_property"]


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.npy"
    np.save(path, np.arange(2 * 6 * 8, dtype=np.uint8).reshape(2, 6, 8))
    return str(path)


def blocks(ages_ms, *, due, state="fresh", label="ours"):
    delivered = [
        Delivered(id=k, arrival_ns=k * 1000, delivered_ns=k * 1000 + round(age * 1e6), state=state)
        for k, age in enumerate(ages_ms)
    ]
    job = Job(clip="", fps=30.0, seconds=1.0, work="none")
    facts = {"due": due, "read": due, "service_ns": [100_000_000], "balances": True, "ledger": "", "decisions": {}}
    return Blocks(system=SYSTEMS[label], job=job, rounds=[delivered], facts=[facts])


def test_rows_are_those_of_the_table():
    assert [row.key for row in ROWS] == KEYS


def test_feed_counts_from_when_a_frame_was_due_not_from_when_it_was_read(clip, tmp_path):
    feed = Feed(Job(clip=clip, fps=50.0, seconds=0.1, work="none"))
    seen = []
    while (image := feed.next()) is not None:
        seen.append(frame_id(image))
        if len(seen) == 1:
            time.sleep(0.05)  # a slow reader; what it is owed comes at once
        feed.record(seen[-1])
    assert seen == [0, 1, 2, 3, 4]
    steps = np.diff([one.arrival_ns for one in feed.delivered])
    assert set(steps.tolist()) == {20_000_000}
    assert feed.delivered[1].delivered_ns - feed.delivered[1].arrival_ns >= 29_000_000
    feed.write(tmp_path / "out.jsonl", service_ns=[])
    *lines, last = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [Delivered(**line) for line in lines] == feed.delivered
    assert last == {"due": 5, "read": 5, "service_ns": []}


def test_feed_ends_in_time_for_a_reader_that_never_keeps_up(clip):
    feed = Feed(Job(clip=clip, fps=100.0, seconds=0.1, work="none"))
    read = 0
    while feed.next() is not None:
        read += 1
        time.sleep(0.05)
    assert read < 10
    assert feed.read == read


@pytest.mark.parametrize("index", [0, 255, 256, 1_000_000])
def test_frame_numbers_are_read_back(clip, index):
    feed = Feed(Job(clip=clip, fps=1e9, seconds=0.01, work="none"))
    feed.read = index
    image = feed.next()
    assert image is not None
    assert frame_id(image) == index


def test_misses_count_late_stale_and_never_delivered_frames():
    found = blocks([10, 20, 60], due=10)
    assert found.miss_ratio(50) == pytest.approx(0.8)
    assert blocks([10, 20], due=2, state="stale").miss_ratio(50) == 1
    assert blocks([10, 20], due=2, state="degraded").miss_ratio(50) == 0


def test_ages_of_all_frames_due_hold_those_never_delivered():
    found = blocks([1, 2, 3, 4], due=8)
    assert (found.age_ms(50), found.due_age_ms(50)) == (2, 4)
    assert found.due_age_ms(99) == float("inf")


def test_a_rival_that_is_not_installed_has_no_value_and_the_line_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setattr(install, "_HOME", tmp_path)
    job = Job(clip="", fps=30.0, seconds=1.0, work="none")
    found = interleaved({"FAST all": (SYSTEMS["FAST all"], job)}, 0)["FAST all"]
    figure = overload._rival(found, "FAST all", 99)
    assert figure.value is None
    assert "python -m benchmarks.peers.install fast" in figure.reason


def test_ours_is_judged_alone_when_a_rival_is_missing():
    missing = Blocks(system=SYSTEMS["FAST all"], job=Job(clip="", fps=1.0, seconds=1.0, work="none"), missing="no")
    ours = blocks([110, 120, 130], due=9)
    age, against, ledger, *rivals = overload._overload("sleep", {OURS.label: ours, "FAST all": missing})
    assert (age.value, age.met) == (130, True)
    assert (against.met, ledger.value, ledger.met) == (None, True, True)
    assert [figure.value for figure in rivals] == [None]


def test_age_above_the_bound_or_the_best_rival_is_not_met():
    found = {"ours": blocks([161], due=1), "streamvision": blocks([150], due=1, label="streamvision")}
    age, against, *_ = overload._overload("sleep", found)
    assert (age.met, against.met) == (False, False)
    assert "150.0 of streamvision" in against.goal


def test_ladder_states_every_share_and_adds_up():
    figures = overload._ladder(blocks([10] * 99, due=100, state="degraded"), 3.0, 50.0, dice=False)
    shares = {figure.name.rsplit(": ")[1]: figure.value for figure in figures if figure.goal == "share, stated"}
    assert shares == {"degraded": 99, "dropped": 1}
    assert figures[0].met is True
    assert isinstance(figures[-1], Figure)
    assert "POCUS_DATA" in figures[-1].reason


def test_an_ensemble_of_one_is_the_student_and_more_passes_nearly_so(monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.streaming.material._WORK", tmp_path)
    frame = np.random.default_rng(0).normal(size=(1, 1, 160, 240)).astype(np.float32)
    one, three = (onnxruntime.InferenceSession(str(ensemble(n))).run(None, {"image": frame})[0] for n in (1, 3))
    rolled = [np.roll(frame, shift, axis=3) for shift in (0, 2, -2)]
    session = onnxruntime.InferenceSession(str(ensemble(1)))
    by_hand = [np.roll(session.run(None, {"image": x})[0], -s, axis=3) for x, s in zip(rolled, (0, 2, -2), strict=True)]
    np.testing.assert_allclose(one, by_hand[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(three, np.mean(by_hand, axis=0), rtol=0, atol=1e-3)


def test_work_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="none, sleep or onnx"):
        Work("gpu")


def test_our_driver_runs_a_block_and_its_ledger_balances(clip):
    job = Job(clip=clip, fps=100.0, seconds=0.8, work="none")
    found = interleaved({"ours": (OURS, job)}, 1)["ours"]
    assert found.facts[0]["balances"] is True
    assert found.facts[0]["due"] == 30
    assert 0 < found.delivered <= 30


def test_installer_refuses_a_name_it_does_not_know_and_names_missing_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(install, "_HOME", tmp_path)
    with pytest.raises(install.NotInstalledError, match="one of"):
        install.install("mediapipe")
    monkeypatch.setattr(install, "_is_installed", lambda package: package != "libusb-1.0-0")
    monkeypatch.setattr(install.shutil, "which", lambda name: "/usr/bin/" + name)
    with pytest.raises(install.NotInstalledError, match=r"apt-get install libusb-1\.0-0$"):
        install.install("fast")
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_installation_goes_on_and_a_changed_recipe_starts_anew(monkeypatch, tmp_path):
    monkeypatch.setattr(install, "_HOME", tmp_path)
    peer = install.Peer(steps=(("a",), ("b",)), probe="pass")
    monkeypatch.setattr(install, "PEERS", {"toy": peer})
    ran = []

    def run(command, name):
        ran.append(command[-1])
        if command[-1] == "b" and ran.count("b") == 1:
            raise install.NotInstalledError("the network is down")

    monkeypatch.setattr(install, "_run", run)
    with pytest.raises(install.NotInstalledError, match="network"):
        install.install("toy")
    with pytest.raises(install.NotInstalledError, match=r"benchmarks\.peers\.install toy"):
        install.interpreter("toy")
    install.install("toy")
    assert [step for step in ran if step in "ab"] == ["a", "b", "b"]
    assert install.interpreter("toy").name == "python"
    install.install("toy")
    assert ran.count("a") == 1
    monkeypatch.setattr(install, "PEERS", {"toy": install.Peer(steps=(("c",),), probe="pass")})
    with pytest.raises(install.NotInstalledError):
        install.interpreter("toy")
