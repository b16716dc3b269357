"""Scenes: a data set made by a procedure, for tests, demos and places without a download.

Rooms: `world` draws lots for what is in a scene, `draw` turns that into pixels, `claims` knows what is true
of it, `tongues` and `describe` put it into words, `source` offers it all as samples.
"""

from embedstore.sources.scenes.source import SceneMask, ScenePicture, ScenesSource

__all__ = ["SceneMask", "ScenePicture", "ScenesSource"]
