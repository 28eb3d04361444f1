"""How the program starts and ends, as a real process: imports, missing extra, interrupt, bug, closed pipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

HEAVY = ("numpy", "onnxruntime", "cv2", "pydicom", "numba", "cryptography", "torch", "onnx", "scipy")
START = "from edge_runtime.cli import main; main()"


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom edge_runtime.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
        f"    print('LOADED', [m for m in {HEAVY!r} if m in sys.modules], end.code)"
    )
    found = python(code, "--help")
    assert found.stdout.splitlines()[-1] == "LOADED [] 0", found.stderr


@pytest.mark.parametrize("missing", ["typer", "yaml"])
def test_without_the_extra_it_says_the_install_line(missing):
    code = (
        "import sys\nclass Blocker:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {missing!r}:\n            raise ModuleNotFoundError('No module ' + name)\n"
        f"sys.meta_path.insert(0, Blocker())\n{START}"
    )
    found = python(code, "--help")
    assert (found.returncode, found.stdout) == (2, "")
    assert "pip install 'pocus-edge-runtime[cli]'" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_bug_shows_its_traceback_and_is_exit_70():
    code = f"import edge_runtime.cli.show as show\nshow.bundle_facts = lambda bundle: 1 / 0\n{START}"
    bundle = os.path.join(os.path.dirname(__file__), "..", "..", "data", "v1.edge")
    found = python(code, "inspect", bundle)
    assert (found.returncode, found.stdout) == (70, "")
    assert "Traceback" in found.stderr
    assert "ZeroDivisionError" in found.stderr
    assert "report it" in found.stderr


def test_what_the_system_refuses_is_one_line_and_exit_4():
    refuse = "def refuse(bundle):\n    raise OSError(28, 'No space left on device')\n"
    code = f"import edge_runtime.cli.show as show\n{refuse}show.bundle_facts = refuse\n{START}"
    bundle = os.path.join(os.path.dirname(__file__), "..", "..", "data", "v1.edge")
    found = python(code, "inspect", bundle)
    assert (found.returncode, found.stdout) == (4, "")
    assert "No space left on device" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as on POSIX")
def test_interrupt_is_exit_130_and_leaves_a_readable_record(edge, frames, tmp_path):
    pytest.importorskip("onnxruntime")
    record = tmp_path / "record"
    arguments = ["run", str(edge), str(frames), "--fps", "50", "--loop-s", "60", "--record", str(record)]
    command = [sys.executable, "-c", START, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 30
        while not list(record.glob("results.jsonl*")) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "interrupted" in err
    assert not [item.name for item in record.iterdir() if item.name.startswith(".")]


@pytest.mark.skipif(os.name != "posix", reason="pipes as on POSIX")
def test_a_reader_that_went_away_is_no_bug(edge):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", START, "inspect", str(edge), "--json"]
    process = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writing)
    assert process.returncode == 1
    assert "bug" not in process.stderr


def test_json_is_alone_on_stdout(edge):
    found = python(START, "inspect", str(edge), "--json")
    assert found.returncode == 0
    assert json.loads(found.stdout)["schema"] == "edge-runtime.inspect/1"
    assert found.stderr == ""
