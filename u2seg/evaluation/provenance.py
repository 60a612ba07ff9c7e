"""What an evaluation was made of: versions and the hashes of the files it read.

No date, host or path of this machine: the same inputs give the same bytes.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from u2seg.io.atomic import sha256_file
from u2seg.version import __version__

LIBRARIES = ("numpy", "scipy", "pycocotools", "pillow")
PREDICTED = ("panoptic.json", "instances.json", "labelspace.json")


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the libraries that compute figures."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "u2seg": __version__, **found}


def file_hashes(predictions: Path, truth: Path, mapping: Path | None = None) -> dict[str, str]:
    """Return the SHA-256 of the files an evaluation read, those that exist.

    Args:
        predictions: Result folder; its JSON files.
        truth: File the truth was read from; a folder has no hash.
        mapping: ``mapping.json`` of an earlier evaluation, if one was used.

    Returns:
        ``truth``, ``mapping`` and ``predictions/<file>`` -> hexadecimal digest.
    """
    files = {f"predictions/{name}": predictions / name for name in PREDICTED}
    files["truth"] = truth
    if mapping is not None:
        files["mapping"] = mapping
    return {name: sha256_file(path) for name, path in sorted(files.items()) if path.is_file()}


def provenance(
    settings: Mapping[str, Any], protocols: Mapping[str, Any], hashes: Mapping[str, str]
) -> dict[str, Any]:
    """Return the block ``provenance`` of ``metrics.json``.

    Args:
        settings: ``U2SEG.EVAL`` but for the rules of protocols, keys as in YAML.
        protocols: Name -> rules that were used, wherever they come from.
        hashes: From ``file_hashes``.
    """
    return {
        "versions": versions(),
        "settings": dict(settings),
        "protocols": dict(protocols),
        "sha256": dict(hashes),
    }
