"""Inertial CSV files: kept to the bit, read in the units that their columns name, refused by line."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.buffers import ImuSamples
from edge_runtime.errors import ConfigError, SourceFormatError
from edge_runtime.slam.imu_files import read_imu, write_imu

HEAD = "time_ns,gyro_x_rad_s,gyro_y_rad_s,gyro_z_rad_s,accel_x_m_s2,accel_y_m_s2,accel_z_m_s2\n"


def test_there_and_back_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.integers(1, 10**7, 50)) + 2**61
    made = ImuSamples(times_ns=times, gyro_rad_s=rng.normal(size=(50, 3)), accel_m_s2=rng.normal(size=(50, 3)) * 1e-7)
    write_imu(tmp_path / "imu.csv", made)
    got = read_imu(tmp_path / "imu.csv")
    for name in ("times_ns", "gyro_rad_s", "accel_m_s2"):
        np.testing.assert_array_equal(getattr(got, name), getattr(made, name))
        assert getattr(got, name).dtype == getattr(made, name).dtype
    assert (tmp_path / "imu.csv").read_text().startswith(HEAD)


def test_other_units_in_any_order(tmp_path):
    (tmp_path / "a.csv").write_text(
        "accel_x_g, accel_y_g,accel_z_g,gyro_z_deg_s,gyro_y_deg_s,gyro_x_deg_s,time_ms\n1,0,0.5,180,90,-45,1.5\n\n"
        "1,0,0.5,180,90,-45,2\n"
    )
    got = read_imu(tmp_path / "a.csv")
    np.testing.assert_array_equal(got.times_ns, [1_500_000, 2_000_000])
    np.testing.assert_allclose(got.gyro_rad_s[0], np.pi * np.array([-0.25, 0.5, 1]))
    np.testing.assert_allclose(got.accel_m_s2[1], [9.80665, 0, 9.80665 / 2])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "has 0 of the columns time_ns"),
        (HEAD, "no samples"),
        (HEAD.replace("gyro_y_rad_s", "gyro_y"), "gyro_y_rad_s, gyro_y_deg_s"),
        (HEAD.replace("time_ns", "time_ns,time_s"), "has 2 of"),
        (HEAD.replace("\n", ",heat\n"), "heat"),
        (HEAD + "1,0,0,0,0,0\n", "line 2: 6 values"),
        (HEAD + "1,0,0,0,0,0,9\n1,0,0,0,0,0,9\n", "line 3: time 1 ns does not follow"),
        (HEAD + "1,0,0,nan,0,0,9\n", "line 2: a value is not finite"),
        (HEAD + "1,0,0,x,0,0,9\n", "line 2: could not convert"),
        (HEAD + "inf,0,0,0,0,0,9\n", "line 2"),
        (HEAD + f"{2**63},0,0,0,0,0,9\n", "beyond"),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path, text, word):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(SourceFormatError, match=word):
        read_imu(tmp_path / "bad.csv")


def test_missing_binary_and_unwritable(tmp_path):
    with pytest.raises(SourceFormatError, match="cannot be read"):
        read_imu(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(SourceFormatError, match="cannot be read"):
        read_imu(tmp_path / "b.csv")
    bad = ImuSamples(times_ns=np.zeros(2, np.int64), gyro_rad_s=np.zeros((2, 3)), accel_m_s2=np.zeros((2, 3)))
    with pytest.raises(ConfigError):
        write_imu(tmp_path / "c.csv", bad)
    assert not (tmp_path / "c.csv").exists()
