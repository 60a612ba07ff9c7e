"""The bridge to the host: which Detectron2 is installed, and what it needs mended.

``u2seg.data``, ``u2seg.modeling`` and ``u2seg.engine`` call ``prepare_host()`` when they are
imported, so no module of theirs meets an unprepared host. The label half never comes here.
"""

from __future__ import annotations

from u2seg.compat.host import (
    INSTALL_COMMAND,
    has_compiled_ops,
    host_keys,
    host_origin,
    host_version,
    name_machines,
    prepare_host,
)

__all__ = [
    "INSTALL_COMMAND",
    "has_compiled_ops",
    "host_keys",
    "host_origin",
    "host_version",
    "name_machines",
    "prepare_host",
]
