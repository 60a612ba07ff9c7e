"""``python -m u2seg``: the command ``u2seg`` of this Python."""

from __future__ import annotations

import sys

from u2seg.cli import main

if __name__ == "__main__":  # worker processes import this module
    sys.exit(main())
