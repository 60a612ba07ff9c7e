#!/usr/bin/env python
"""Segment photographs with a trained model: the command ``u2seg predict``."""

import sys
from functools import partial

from u2seg.cli import command

main = partial(command, "predict")

if __name__ == "__main__":
    sys.exit(main())
