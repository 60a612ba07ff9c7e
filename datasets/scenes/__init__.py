"""A data set with exact truth that needs no download: seeded, textured, composed scenes.

``shapes`` and ``textures`` draw, ``compose`` makes one scene, ``export`` writes a data set.
"""

from scenes.compose import Scene, compose_scene
from scenes.export import SceneSettings, write_scenes
from scenes.kinds import SCENE_LABELS

__all__ = ["SCENE_LABELS", "Scene", "SceneSettings", "compose_scene", "write_scenes"]
