"""What is in the page cache, told by the system, and how files leave it."""

import numpy as np
import pytest

from embedstore.store import open_store
from embedstore.store.reads import resident
from embedstore.testing.stores import write_random_store


def test_a_file_is_known_to_be_in_memory_after_it_was_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    path.read_bytes()
    share = resident.resident_share([path])
    if share is None:
        pytest.skip("this system does not tell what is in memory")
    assert share == 1.0
    if resident.make_cold([path]):
        assert resident.resident_share([path]) <= 0.01
    assert resident.resident_share([]) == 0.0


def test_what_a_reader_has_mapped_is_let_go(tmp_path):
    store = write_random_store(tmp_path / "store", images=64, captions=1)
    feature = open_store(store.path)["vision"]
    files = sorted((feature.path / "tokens" / "c").rglob("0"))
    files = [path for path in files if path.is_file()]
    assert files
    before = feature.read("tokens", 0, 64)
    if not resident.make_cold(files):
        pytest.skip("this system does not drop files from memory")
    np.testing.assert_array_equal(feature.read("tokens", 0, 64), before)
