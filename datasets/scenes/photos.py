"""A dozen real photographs that ship with packages this project depends on anyway."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from u2seg.io.atomic import atomic_file

MAX_SIDE = 800
SKIMAGE = {
    "astronaut": "astronaut", "camera": "camera", "cat": "cat", "coffee": "coffee",
    "coins": "coins", "hubble": "hubble_deep_field", "retina": "retina", "rocket": "rocket",
}  # fmt: skip


def load_photos() -> dict[str, npt.NDArray[np.uint8]]:
    """Return name -> (H, W, 3) or (H, W) uint8 photographs.

    scikit-image's and scikit-learn's bundled samples and matplotlib's portrait of Grace Hopper;
    no function used here touches the network.
    """
    import matplotlib.cbook
    from skimage import data
    from sklearn.datasets import load_sample_image

    photos = {name: np.asarray(getattr(data, source)()) for name, source in SKIMAGE.items()}
    photos["motorcycle"] = np.asarray(data.stereo_motorcycle()[0])
    for name in ("china", "flower"):
        photos[name] = np.asarray(load_sample_image(f"{name}.jpg"))
    portrait = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    with Image.open(str(portrait)) as image:
        photos["grace_hopper"] = np.asarray(image)
    return photos


def write_photos(folder: Path) -> list[str]:
    """Write the photographs as JPEG files of at most 800 pixels a side.

    Args:
        folder: Made if missing; files of the same names are replaced.

    Returns:
        File names, sorted.

    Raises:
        UserError: if the folder cannot be written.
    """
    names = []
    for name, pixels in sorted(load_photos().items()):
        image = Image.fromarray(pixels)
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        with atomic_file(folder / f"{name}.jpg") as file:
            image.save(file, format="JPEG", quality=92)
        names.append(f"{name}.jpg")
    return names
