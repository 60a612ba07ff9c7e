#!/usr/bin/env python
"""Train a model on pseudo-labels, or evaluate one: the command ``u2seg train``."""

import sys
from functools import partial

from u2seg.cli import command

main = partial(command, "train")

if __name__ == "__main__":
    sys.exit(main())
