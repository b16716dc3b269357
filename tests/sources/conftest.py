"""Pictures for sources that are written by hand."""

from __future__ import annotations

import pytest
from PIL import Image


@pytest.fixture
def draw():
    """Write small pictures of different colours into a folder, in the format that each name says."""

    def _draw(folder, *names, size=(6, 4)):
        for k, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, (40 * k % 256, 90, 200)).save(folder / name)
        return folder

    return _draw
