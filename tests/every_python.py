"""Run the runtime's tests on every supported Python found, and resolve its dependencies for aarch64.

Each interpreter gets an environment of its own with the built runtime wheel, its `[cpu]` extra, pytest and
hypothesis: no torch, no onnx. Exit status 1 when any of them fails or no interpreter is found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "every-python"
SUPPORTED = ("3.10", "3.11", "3.12")
AARCH64 = ("3.10", "3.12")  # JetPack 6, JetPack 7
PLATFORMS = (*(f"manylinux_2_{glibc}_aarch64" for glibc in (28, 27, 24, 17)), "manylinux2014_aarch64")


def interpreter(version: str) -> Path | None:
    """A Python that answers with `version`, from PATH or from pyenv."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [Path(p) for p in (shutil.which(f"python{version}"),) if p]
    for candidate in [*found, *sorted(root.glob(f"{version}*/bin/python"), reverse=True)]:
        query = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False)
        if answer.returncode == 0 and answer.stdout.strip() == version:
            return candidate
    return None


def build_wheel() -> Path:
    """The runtime's wheel, built afresh."""
    shutil.rmtree(WORK / "dist", ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", WORK / "dist", ROOT / "runtime"]
    subprocess.run(command, check=True)
    return next((WORK / "dist").glob("*.whl"))


def run_tests(version: str, python: Path, wheel: Path) -> bool:
    """Install the wheel into a fresh environment and run `tests/runtime` there."""
    home = WORK / version
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([python, "-m", "venv", home], check=True)
    pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, f"pocus-edge-runtime[cpu] @ {wheel.as_uri()}", "pytest", "hypothesis"], check=True)
    command = [home / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests" / "runtime"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def resolves_for_aarch64(version: str, wheel: Path) -> bool:
    """Whether pip finds wheels for the `[cpu]` set on aarch64; nothing is installed."""
    command: list[str | Path] = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--dry-run", "--ignore-installed", "--target", WORK / "none", "--only-binary=:all:"]
    command += ["--python-version", version, "--implementation", "cp"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    # markers in a constraints file are read for the running interpreter, so none is given here
    command.append(f"pocus-edge-runtime[cpu] @ {wheel.as_uri()}")
    return subprocess.run(command, check=False).returncode == 0


def main() -> int:
    WORK.mkdir(parents=True, exist_ok=True)
    wheel = build_wheel()
    outcomes: dict[str, str] = {}
    for version in SUPPORTED:
        python = interpreter(version)
        if python is None:
            outcomes[f"python {version}"] = "not found on this machine"
        else:
            outcomes[f"python {version}"] = "passed" if run_tests(version, python, wheel) else "FAILED"
    for version in AARCH64:
        outcomes[f"aarch64 {version}"] = "resolves" if resolves_for_aarch64(version, wheel) else "FAILED"
    for name, outcome in outcomes.items():
        print(f"{name:14} {outcome}")
    tried = any(outcome == "passed" for outcome in outcomes.values())
    return 0 if tried and "FAILED" not in outcomes.values() else 1


if __name__ == "__main__":
    sys.exit(main())
