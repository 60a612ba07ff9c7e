"""Imported by the server that processes are forked from: compiled code is then loaded at once."""

from __future__ import annotations

from numba.core.registry import cpu_target

cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()
