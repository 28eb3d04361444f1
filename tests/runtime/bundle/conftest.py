"""What the tests of the bundle are built from: ONNX and ZIP files made by hand, byte by byte."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
