"""What can be seen without decoding a pixel: missing files and wrong sizes."""

from __future__ import annotations

from collections.abc import Iterable

from u2seg.evaluation.files import PanopticSet, Predictions, check_shape
from u2seg.evaluation.truth import Truth
from u2seg.io.png import png_size


def check_maps(truth: Truth, predicted: Predictions, image_ids: Iterable[int]) -> None:
    """Refuse maps that are missing, or whose headers have another size than they should.

    Args:
        truth: Its own PNGs are looked at too, if it has any.
        predicted: An image without prediction is no error.
        image_ids: Images that will be scored.

    Raises:
        UserError: if a PNG is missing, is no PNG, or differs in size from what its JSON declares
            or from the truth.
    """
    found = predicted.panoptic
    for image_id in image_ids:
        path = truth.path(image_id)
        if path.suffix == ".png":
            declared = truth.sizes[image_id]
            check_shape(path, png_size(path), declared, f"{truth.source} declares")
        if image_id not in found.segments:
            continue
        _check_declared(found, image_id)
        size = truth.sizes[image_id]
        check_shape(found.path(image_id), found.sizes[image_id], size, "the true map has")
        if predicted.has_stuff_maps:
            path = predicted.stuff_path(image_id)
            check_shape(path, png_size(path), size, "the true map has")


def _check_declared(panoptic: PanopticSet, image_id: int) -> None:
    path = panoptic.path(image_id)
    check_shape(path, png_size(path), panoptic.sizes[image_id], f"{panoptic.source} declares")
