"""What a finished stage says about itself.

Nothing in it depends on the clock, so the same command gives the same bytes; seconds go into
``timings.json`` beside it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class StageManifest:
    """The content of ``manifest.json``, written last in a stage's folder.

    Args:
        stage: Name of the stage.
        settings_hash: SHA-256 of the settings the stage reads.
        inputs: Name of each input -> SHA-256 of its manifest or file.
        files: Relative name of each output file -> SHA-256.
        counts: What was made, e.g. ``{"images": 12, "masks": 30}``.
        version: Version of this package.
        seed: Seed used, 0 if none.
        libraries: Library -> version, those that can change a result.
        settings: The settings themselves, for people.
    """

    stage: str
    settings_hash: str
    inputs: dict[str, str]
    files: dict[str, str]
    counts: dict[str, int]
    version: str
    seed: int = 0
    libraries: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON content."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> StageManifest:
        """Build from JSON content; ``KeyError`` or ``TypeError`` if it is not a manifest."""
        return cls(**content)
