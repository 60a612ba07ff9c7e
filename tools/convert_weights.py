#!/usr/bin/env python
"""Convert a pretrained ResNet for MODEL.WEIGHTS: the command ``u2seg convert``."""

import sys
from functools import partial

from u2seg.cli import command

main = partial(command, "convert")

if __name__ == "__main__":
    sys.exit(main())
