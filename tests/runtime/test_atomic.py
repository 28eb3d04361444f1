"""A file appears whole or not at all, whatever happens in the middle."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime import atomic
from edge_runtime.atomic import replacing, write_bytes
from edge_runtime.errors import ConfigError


def test_a_new_file_and_a_replaced_one(tmp_path: Path) -> None:
    path = tmp_path / "name.png"
    for content in (b"first", b"second and longer", b""):
        write_bytes(path, content)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_temporary_name_is_beside_it_with_its_suffix(tmp_path: Path) -> None:
    with replacing(tmp_path / "name.webm") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".webm"
        assert temporary.name != "name.webm"
        assert not (tmp_path / "name.webm").exists()
        temporary.write_bytes(b"x")
    assert (tmp_path / "name.webm").read_bytes() == b"x"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_middle_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "name.bin"
    path.write_bytes(b"old")

    def half() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"ne")
            raise error

    with pytest.raises(error):
        half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "name.bin"
    path.write_bytes(b"old")

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, step, refuse)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_takes_the_file_away_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "name.bin") as temporary:
        temporary.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "name.bin"
    path.write_bytes(b"old")
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom edge_runtime.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half')\n    os._exit(9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=False)
    assert done.returncode == 9
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name a folder that exists"):
        write_bytes(tmp_path / "none" / "name.bin", b"x")
