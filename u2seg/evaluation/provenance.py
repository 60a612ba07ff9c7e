"""What an evaluation was made of: versions and the hashes of the files it read.

No date, host or path of this machine: the same inputs give the same bytes.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from u2seg.version import __version__

LIBRARIES = ("numpy", "scipy", "pycocotools", "pillow")


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the libraries that compute figures."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "u2seg": __version__, **found}


def provenance(
    settings: Mapping[str, Any], protocols: Mapping[str, Any], hashes: Mapping[str, str]
) -> dict[str, Any]:
    """Return the block ``provenance`` of ``metrics.json``.

    Args:
        settings: ``U2SEG.EVAL`` but for the rules of protocols, keys as in YAML.
        protocols: Name -> rules that were used, wherever they come from.
        hashes: From ``hashes.input_hashes``.
    """
    return {
        "versions": versions(),
        "settings": dict(settings),
        "protocols": dict(protocols),
        "sha256": dict(hashes),
    }
