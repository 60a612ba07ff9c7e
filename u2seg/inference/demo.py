"""Photographs in, pictures and standard files out: the body of ``u2seg predict``."""

from __future__ import annotations

import argparse
import glob
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from u2seg.config.load import load_settings
from u2seg.errors import UserError
from u2seg.inference.segmenter import Prediction, Segmenter
from u2seg.inference.writer import PredictionWriter, check_own
from u2seg.io.atomic import json_bytes, write_bytes
from u2seg.io.images import BadImageError, read_image
from u2seg.io.lock import LOCK, only_run
from u2seg.io.ownership import PHOTOGRAPHS, check_outside
from u2seg.io.paths import ImageFile, distinct_stems, image_file, stem_of
from u2seg.io.progress import Bar
from u2seg.io.sources import open_source, tell_passed_over
from u2seg.structures.panoptic import PanopticLabel
from u2seg.visualization.compose import draw_legend, magnify, side_by_side, write_picture
from u2seg.visualization.draw import draw_panoptic

logger = logging.getLogger(__name__)
Rgb = npt.NDArray[np.uint8]
MIN_PICTURE = 480
"""Smaller photographs are shown enlarged up to this longer side, in pixels."""
MAX_LEGEND = 40
"""Categories a legend names at most, those with the largest area first."""


def run_demo(args: argparse.Namespace) -> int:
    """Segment the inputs; return 0."""
    output = Path(args.output)
    check_apart(args.input, output)
    extensions = load_settings(args.config_file, args.opts).images.extensions
    inputs = name_inputs(args.input, extensions)
    if output.suffix.lower() in extensions and not output.is_dir():
        return draw_image(args, [place for _, place in inputs], output)
    return segment_images(args, inputs)


def draw_image(args: argparse.Namespace, inputs: Sequence[ImageFile], output: Path) -> int:
    """Write the segmentation on top of a single photograph, as Detectron2's demo does; return 0.

    UserError if there are several, it cannot be read, or it is the output itself.
    """
    if len(inputs) != 1:
        raise UserError(
            f"--output {output} is one picture, and there are {len(inputs)} photographs: give a "
            "folder"
        )
    if output.resolve() == inputs[0].path:
        raise UserError(f"--output {output} would overwrite the photograph: give another name")
    segmenter = _segmenter(args)
    try:
        image = read_image(inputs[0], segmenter.cfg.U2SEG.IMAGES.MAX_PIXELS, sound=True)
    except BadImageError as error:
        raise UserError(f"{inputs[0]}: {error}") from error
    segmenter.predict(image).save(output)
    logger.info("1 image in %s", output)
    return 0


def segment_images(args: argparse.Namespace, inputs: Sequence[tuple[str, ImageFile]]) -> int:
    """Segment photographs; return 0."""
    output = Path(args.output)
    check_own(output)
    with only_run(output / LOCK):
        return _segment(args, inputs, output)


def _segment(
    args: argparse.Namespace, inputs: Sequence[tuple[str, ImageFile]], output: Path
) -> int:
    segmenter = _segmenter(args)
    writer = PredictionWriter(output, segmenter.space)
    skipped = []
    for number, (name, path) in enumerate(Bar(inputs, desc="segment", unit="image"), start=1):
        try:
            name.encode("utf-8")
            image = read_image(path, segmenter.cfg.U2SEG.IMAGES.MAX_PIXELS, sound=True)
        except (BadImageError, UnicodeEncodeError) as error:
            told = str(path) if isinstance(error, BadImageError) else ascii(str(path))
            logger.warning("skipped %s: %s", told, error)
            skipped.append({"file_name": told, "reason": str(error), "stage": "demo"})
            continue
        prediction = segmenter.predict(image)
        writer.add(number, name, prediction)
        write_picture(output / "pictures" / f"{stem_of(name)}.png", picture(prediction))
    write_bytes(output / "skipped.jsonl", b"".join(json_bytes(entry) for entry in skipped))
    if len(skipped) == len(inputs):
        raise UserError(
            f"none of the {len(inputs)} inputs could be read; see {output / 'skipped.jsonl'}"
        )
    writer.finish()
    segments = [row for each in writer.parts.annotations for row in each["segments_info"]]
    if segmenter.space.num_things and not any(row["isthing"] for row in segments):
        least = args.confidence_threshold
        logger.warning(
            "no object was found in any image: try --confidence-threshold %g (now %g); if that "
            "finds none either, the model needs a longer training (SOLVER.MAX_ITER)",
            least / 3, least,
        )  # fmt: skip
    logger.info("%d images in %s, %d skipped", len(inputs) - len(skipped), output, len(skipped))
    return 0


def _segmenter(args: argparse.Namespace) -> Segmenter:
    return Segmenter.from_config(
        args.config_file,
        args.weights,
        args.opts,
        args.confidence_threshold,
        getattr(args, "mapping", ""),
    )


def check_apart(inputs: Sequence[str], output: Path) -> None:
    """Raise UserError if results would lie in a searched folder, or right beside a photograph.

    The next run would take the pictures and label maps there for photographs.
    """
    for text in inputs:
        matches = [text] if Path(text).exists() else glob.glob(text, recursive=True)
        for path in map(Path, matches):
            if path.is_dir() or output.resolve() == path.parent.resolve():
                check_outside(output, path if path.is_dir() else path.parent, PHOTOGRAPHS)


def name_inputs(inputs: Sequence[str], extensions: Sequence[str]) -> list[tuple[str, ImageFile]]:
    """Return (relative name, place) of every image the inputs stand for.

    Returns:
        Sorted within each input, each file once; names keep sub-folders, those from the folder
        that all inputs have in common where two would be the same, and no two share a stem: the
        second of ``a.jpg`` and ``a.png`` is called ``a_png.png``.
    """
    found: dict[ImageFile, tuple[Path, str]] = {}
    for text in inputs:
        for root, name, place in _expand(text, extensions):
            found.setdefault(replace(place, path=place.path.resolve()), (root.resolve(), name))
    if not found:
        raise UserError(
            f"no images in {' '.join(inputs)[:200]}: looked for {', '.join(extensions)}"
        )
    named = [(name, place) for place, (_, name) in found.items()]
    if len({stem_of(name).casefold() for name, _ in named}) < len(named):
        common = os.path.commonpath([root for root, _ in found.values()])
        named = [
            ((root / name).relative_to(common).as_posix(), place)
            for place, (root, name) in found.items()
        ]
    stems = distinct_stems(name for name, _ in named)
    return [
        (stem + PurePath(name).suffix, place)
        for stem, (name, place) in zip(stems, named, strict=True)
    ]


def _expand(text: str, extensions: Sequence[str]) -> Iterator[tuple[Path, str, ImageFile]]:
    """Yield folder, name relative to it and place of every image that an input stands for."""
    path = Path(text)
    shard = path.suffix.lower() == ".tar" and path.is_file()
    if path.is_dir() or shard:
        source = open_source(path, extensions)
        tell_passed_over(source)
        for entry in source.entries():
            try:
                if "reason" in entry:
                    raise UserError(entry["reason"])
                yield source.root, entry["file_name"], image_file(source.root, entry)
            except UserError as error:
                logger.warning("skipped %s/%s: %s", path, entry["file_name"], error)
    elif path.exists():
        yield path.parent, path.name, ImageFile(path)
    elif glob.has_magic(text):
        for match in sorted(glob.glob(text, recursive=True)):
            yield from _expand(match, extensions)
    else:
        raise UserError(
            f"input {text} does not exist; if it is a setting, put --opts in front of the settings"
        )


def picture(prediction: Prediction) -> Rgb:
    """Return a photograph beside its segmentation, a legend below: (H', W', 3) uint8 RGB."""
    label = prediction.panoptic
    large = PanopticLabel(magnify(label.ids, MIN_PICTURE), label.segments)
    image = magnify(prediction.image, MIN_PICTURE)
    drawn = draw_panoptic(image, large, prediction.space)
    pair = side_by_side([image, drawn], ["photograph", "segmentation"])
    areas: dict[int, int] = {}
    for segment in prediction.panoptic.segments:
        areas[segment.category_id] = areas.get(segment.category_id, 0) + segment.area
    if not areas:
        return pair
    largest = sorted(areas, key=lambda category: (-areas[category], category))[:MAX_LEGEND]
    colors = prediction.space.colors()
    entries: dict[tuple[str, tuple[int, int, int]], None] = {}
    for category in sorted(largest):
        red, green, blue = (int(v) for v in colors[category - 1])
        entries[prediction.space.name(category), (red, green, blue)] = None
    legend = draw_legend(list(entries), width=pair.shape[1])
    return np.concatenate([pair, legend], axis=0)
