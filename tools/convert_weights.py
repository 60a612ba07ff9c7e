#!/usr/bin/env python
"""Convert a pretrained ResNet of torchvision, timm, DINO or MoCo for MODEL.WEIGHTS."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

EXAMPLES = """\
examples:
  tools/convert_weights.py dino_resnet50_pretrain.pth weights/dino_RN50_pretrain_d2_format.pkl
  tools/convert_weights.py moco_v2_800ep_pretrain.pth.tar weights/moco_v2_R50.pkl --kind moco

Nothing in the input is executed. Exit codes: 0 done, 2 the file is not such a ResNet.
"""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    formatter = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=formatter)
    p.add_argument("input", metavar="INPUT", help="weight file: .pth, .pth.tar, .safetensors, .pkl")
    p.add_argument("output", metavar="OUTPUT", help="file to write: .pkl or .pth")
    p.add_argument(
        "--kind",
        choices=("auto", "torchvision", "dino", "moco", "timm"),
        default="auto",
        help="where the file is from (auto)",
    )
    p.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Convert the file; return the exit code."""
    args = parser().parse_args(argv)
    from u2seg.cli import run_tool, setup_logging

    setup_logging(args.debug)

    def body() -> int:
        from u2seg.modeling.convert import convert_file

        print(convert_file(args.input, args.output, args.kind))
        return 0

    return run_tool(body, args.debug)


if __name__ == "__main__":
    sys.exit(main())
