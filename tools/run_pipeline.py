#!/usr/bin/env python
"""Label, train, evaluate, predict, report: the command ``u2seg run``."""

import sys
from functools import partial

from u2seg.cli import command

main = partial(command, "run")

if __name__ == "__main__":
    sys.exit(main())
