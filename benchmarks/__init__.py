"""Speed and memory beside peers, measured in one run; ``python -m benchmarks`` is its command."""

import sys
from pathlib import Path

# Scenes are made by the tools in datasets/, which are no part of the installed package either.
sys.path.append(str(Path(__file__).resolve().parents[1] / "datasets"))
