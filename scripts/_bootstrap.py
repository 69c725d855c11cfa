"""Put src/ on the path, so that every script runs from a plain clone, in any environment that has the packages."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
