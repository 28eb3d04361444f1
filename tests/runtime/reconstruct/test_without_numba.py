from __future__ import annotations

import sys

import numpy as np
import pytest

from edge_runtime.errors import MissingDependencyError
from edge_runtime.reconstruct import Volume, fill_holes, isosurface, measure_volume, turntable

CALLS = {"fill": fill_holes, "surface": lambda v: isosurface(v, 100), "measure": measure_volume, "turn": turntable}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_install_line_is_given(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    volume = Volume(data=np.full((3, 3, 3), 200, np.uint8), spacing_mm=(1, 1, 1), T_world_volume=np.eye(4))
    with pytest.raises(MissingDependencyError, match=r"pip install 'pocus-edge-runtime\[recon\]'"):
        CALLS[name](volume)
