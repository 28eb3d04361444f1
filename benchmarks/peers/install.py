"""`python -m benchmarks.peers.install NAME`: a rival in an environment of its own, `build/peers/NAME/venv`.

Versions are pinned. A stopped installation goes on where it stopped; one that stands is left alone. What a rival needs
of the system is looked for and named, never installed from here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["PEERS", "ROOT", "NotInstalledError", "Peer", "environment", "install", "interpreter", "system_python"]

ROOT = Path(__file__).resolve().parents[2]
_HOME = ROOT / "build" / "peers"
_RUN = ("numpy==2.4.6", "opencv-python-headless==5.0.0.93", "onnxruntime==1.31.1")


class NotInstalledError(Exception):
    """A rival is not there, or cannot be; the message is the line to type."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """How one rival is installed.

    `steps` are arguments of `pip install`, in order; `probe` is Python that must run in the environment at the end.
    `debian` are the packages that it needs of the system; `system_python` builds the environment on Debian's own
    Python and its packages. `libraries` are folders in site-packages to put in front of LD_LIBRARY_PATH.
    """

    steps: tuple[tuple[str, ...], ...]
    probe: str
    debian: tuple[str, ...] = ()
    system_python: bool = False
    libraries: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Changes whenever the recipe does."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


PEERS = {
    "streamvision": Peer(
        steps=(("streamvision==0.1.4", "onnxruntime==1.31.1"),),
        probe="from streamvision.stream.pipeline import InferencePipeline; import onnxruntime, cv2",
    ),
    "holoscan": Peer(
        # the first step must be complete before the second starts: its wheel makes links through wheel-axle
        steps=(
            ("cloudpickle<4", "wheel-axle-runtime==0.0.13", *_RUN),
            ("--no-deps", "holoscan-cu12==4.6.0"),
            ("--no-deps", "nvidia-cuda-runtime-cu12==12.9.79"),
        ),
        probe="import holoscan.core, onnxruntime, cv2",
        libraries=("nvidia/cuda_runtime/lib",),
    ),
    "fast": Peer(
        steps=(("pyfast==4.18.0", *_RUN),),
        probe="import fast, onnxruntime, cv2; fast.Reporter.setGlobalReportMethod(fast.Reporter.NONE)",
        debian=(
            "libusb-1.0-0",
            "pocl-opencl-icd",
            "ocl-icd-libopencl1",
            "libgl1",
            "libopengl0",
            "libglu1-mesa",
            "libegl1",
        ),
    ),
    "gstreamer": Peer(
        steps=(_RUN,),
        probe="import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstApp', '1.0'); "
        "from gi.repository import Gst, GstApp; Gst.init(None); Gst.parse_launch('appsrc ! queue ! appsink'); "
        "import onnxruntime, cv2",
        debian=(
            "gstreamer1.0-plugins-base",
            "python3-gi",
            "python3-venv",
            "gir1.2-gstreamer-1.0",
            "gir1.2-gst-plugins-base-1.0",
        ),
        system_python=True,
    ),
}


def interpreter(name: str) -> Path:
    """The Python of an installed rival. Raises `NotInstalledError` with the line that installs it."""
    python = _HOME / name / "venv" / "bin" / "python"
    if _done(name).get("finished") is not True:
        raise NotInstalledError(f"not installed; run: python -m benchmarks.peers.install {name}")
    return python


def environment(name: str) -> dict[str, str]:
    """The environment variables a rival runs under; one thread for every numeric library."""
    found = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    peer = PEERS.get(name)
    if peer is not None and peer.libraries:
        site = next((_HOME / name / "venv" / "lib").glob("python3*")) / "site-packages"
        folders = [str(site / folder) for folder in peer.libraries]
        found["LD_LIBRARY_PATH"] = os.pathsep.join([*folders, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
    return found


def system_python() -> str:
    """Debian's own Python, whose packages bring the bindings of GStreamer."""
    return "/usr/bin/python3"


def install(name: str) -> None:
    """Install one rival, or go on with it. Raises `NotInstalledError` saying what is missing."""
    if name not in PEERS:
        raise NotInstalledError(f"{name!r} is no rival of this table; one of {sorted(PEERS)}")
    peer, folder = PEERS[name], _HOME / name
    done = _done(name)
    if done.get("finished") is True:
        return
    _check_debian(name, peer)
    if not done:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _call([system_python() if peer.system_python else sys.executable, "-m", "venv"], peer, folder / "venv")
        _mark(name, steps=0)
    python = folder / "venv" / "bin" / "python"
    for step, arguments in enumerate(peer.steps):
        if step >= int(str(done.get("steps", 0))):
            _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments], name)
            _mark(name, steps=step + 1)
    _run([str(python), "-c", "pass"], name)  # a first start, in which wheel-axle makes its links
    _run([str(python), "-c", peer.probe], name)
    _mark(name, steps=len(peer.steps), finished=True)


def _call(start: list[str], peer: Peer, venv: Path) -> None:
    own = ["--system-site-packages"] if peer.system_python else []
    _run([*start, *own, str(venv)], venv.parent.name)


def _run(command: list[str], name: str) -> None:
    done = subprocess.run(command, env=_environment(name), capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise NotInstalledError(f"{name}: {' '.join(command)} ended with {done.returncode}:\n{last}")


def _environment(name: str) -> dict[str, str]:
    """As `environment`, before there is a folder to look into."""
    there = (_HOME / name / "venv" / "lib").exists()
    return environment(name) if there else dict(os.environ)


def _check_debian(name: str, peer: Peer) -> None:
    if not peer.debian:
        return
    line = f"{name} needs packages of the system; run as root: apt-get install {' '.join(peer.debian)}"
    if shutil.which("dpkg-query") is None:
        raise NotInstalledError(f"{line} (the names are Debian's; this system has no dpkg to look them up with)")
    missing = [package for package in peer.debian if not _is_installed(package)]
    if missing:
        raise NotInstalledError(f"{name} lacks {', '.join(missing)}; run as root: apt-get install {' '.join(missing)}")


def _is_installed(package: str) -> bool:
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Status}", package], capture_output=True, text=True, check=False
    )
    return asked.returncode == 0 and asked.stdout.endswith("install ok installed")


def _done(name: str) -> dict[str, object]:
    """What stands of the present recipe; empty when nothing does or the recipe has changed."""
    path = _HOME / name / "installed.json"
    if not path.exists():
        return {}
    found: dict[str, object] = json.loads(path.read_text())
    return found if found.get("digest") == PEERS[name].digest else {}


def _mark(name: str, **state: object) -> None:
    path = _HOME / name / "installed.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"digest": PEERS[name].digest, **state}))
    temporary.replace(path)


def _command(names: Annotated[list[str], typer.Argument(help=f"One or more of {', '.join(PEERS)}.")]) -> None:
    """Install rivals, each in an environment of its own."""
    failed = False
    for name in names:
        try:
            install(name)
            typer.echo(f"{name}: installed in {_HOME.relative_to(ROOT) / name}")
        except NotInstalledError as error:
            failed = True
            typer.echo(str(error), err=True)
    raise typer.Exit(int(failed))


if __name__ == "__main__":
    typer.run(_command)
