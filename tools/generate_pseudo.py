#!/usr/bin/env python
"""Label a folder of photographs: the command ``u2seg label``."""

import sys
from functools import partial

from u2seg.cli import command

main = partial(command, "label")

if __name__ == "__main__":
    sys.exit(main())
