from __future__ import annotations

import shutil

import pytest

from embedstore.store import open_store
from embedstore.testing.stores import write_random_store


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return write_random_store(
        tmp_path_factory.mktemp("curate") / "store", images=40, captions=2, image_width=12, ids="a"
    )


@pytest.fixture
def store(whole, tmp_path):
    """40 images with two captions each, free to be changed."""
    return open_store(shutil.copytree(whole.path, tmp_path / "store"))
