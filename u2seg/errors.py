"""The two errors a person using u2seg meets.

``UserError`` is for anything a user can cause and can mend; tools print its message without a
traceback and exit with code 2. ``StageError`` is for work that failed half-way; exit code 1.
"""

from __future__ import annotations


class UserError(ValueError):
    """A setting, file or option that cannot be used; the message says what to do."""


class StageError(RuntimeError):
    """A stage that started properly and could not finish."""
