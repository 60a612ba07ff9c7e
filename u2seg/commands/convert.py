"""``u2seg convert``: weights of other projects, for the host or for the semantics stage."""

from __future__ import annotations

import argparse

from u2seg.config.arguments import filled, new_parser

ABOUT = """\
Convert a pretrained ResNet of torchvision, timm, DINO or MoCo for MODEL.WEIGHTS, or a checkpoint
of STEGO for U2SEG.SEMANTICS.MODEL."""
EXAMPLES = """\
examples:
  u2seg convert dino_resnet50_pretrain.pth weights/dino_RN50_pretrain_d2_format.pkl
  u2seg convert moco_v2_800ep_pretrain.pth.tar weights/moco_v2_R50.pkl --kind moco
  u2seg convert cocostuff27_vit_base_5.ckpt weights/stego_cocostuff27.safetensors --kind stego

Nothing in the input is executed. Exit codes: 0 done, 2 the file is not such a model.
"""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    p = new_parser(ABOUT, EXAMPLES)
    p.add_argument(
        "input", type=filled, metavar="INPUT",
        help="weight file: .pth, .pth.tar, .safetensors, .pkl",
    )  # fmt: skip
    p.add_argument(
        "output", type=filled, metavar="OUTPUT", help="file to write: .pkl or .pth; .safetensors"
    )
    p.add_argument(
        "--kind",
        choices=("auto", "torchvision", "dino", "moco", "timm", "stego"),
        default="auto",
        help="where the file is from (auto)",
    )
    return p


def run(args: argparse.Namespace) -> int:
    """Convert the file; return the exit code."""
    if args.kind == "stego":
        from u2seg.semantics.convert import convert_stego

        print(convert_stego(args.input, args.output))
        return 0
    from u2seg.modeling.convert import convert_file

    print(convert_file(args.input, args.output, args.kind))
    return 0
