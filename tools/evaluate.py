#!/usr/bin/env python
"""Score a folder of predictions against truth: the command ``u2seg evaluate``."""

import sys
from functools import partial

from u2seg.cli import command

main = partial(command, "evaluate")

if __name__ == "__main__":
    sys.exit(main())
