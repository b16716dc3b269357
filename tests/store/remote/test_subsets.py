"""Subsets of a store behind a URL: made and read there, refused where nothing can be written."""

import pytest

from embedstore.errors import CorruptStoreError, StoreError, UsageError
from embedstore.store import create_subset, open_store, remove_subset, store_info, verify_store


def _make(url):
    return create_subset(
        url, "rare", {"row": [5, 1], "score": [0.5, 0.1]}, dropped={"row": [2], "twin": ["s000001"]}
    )


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_made_and_read_at_a_url(kind, request, whole, cache):
    place = request.getfixturevalue(kind)
    url = place.copy(whole)
    assert open_store(url).subsets() == ()
    made = _make(url)
    assert made.rows.tolist() == [1, 5]
    assert {n for n in place.objects() if n.startswith("subsets/")} == {
        f"subsets/rare/{n}" for n in ("rows.parquet", "dropped.parquet", "subset.json")
    }
    found = open_store(url).subset("rare")
    assert found.read(["id", "score"]).to_pydict() == {"id": ["s000001", "s000005"], "score": [0.1, 0.5]}
    assert found.read_dropped()["twin"].to_pylist() == ["s000001"]
    assert [c.name for c in store_info(url).subsets] == ["rare"]
    report = verify_store(url)
    assert report.sound
    assert report.subsets == 1
    with pytest.raises(UsageError, match="there is a subset 'rare' already"):
        _make(url)
    create_subset(url, "rare", {"row": [3]}, overwrite=True)
    assert open_store(url).subset("rare").rows.tolist() == [3]
    assert "subsets/rare/dropped.parquet" not in place.objects()
    remove_subset(url, "rare")
    assert open_store(url).subsets() == ()
    # Nothing of what was written stays here.
    assert not list((cache / "stores" / "own").iterdir())


def test_the_bytes_are_those_of_a_local_store(memory, whole, tmp_path, tools):
    import shutil

    local = shutil.copytree(whole, tmp_path / "local")
    _make(local)
    _make(memory.copy(whole))
    assert memory.objects() == tools.local_files(local)


def test_one_that_is_replaced_while_it_is_read_is_refused(memory, whole):
    url = memory.copy(whole)
    _make(url)
    old = open_store(url).subset("rare")
    create_subset(url, "rare", {"row": [3, 4]}, overwrite=True)
    with pytest.raises(CorruptStoreError, match="not the one that the subset's card tells of"):
        _ = old.rows


def test_a_stopped_upload_leaves_no_subset(memory, whole):
    url = memory.copy(whole)
    _make(url)
    memory.remove("subsets/rare/subset.json")
    assert open_store(url).subsets() == ()
    with pytest.raises(StoreError, match="no subset 'rare'"):
        open_store(url).subset("rare")
    assert _make(url).rows.tolist() == [1, 5]


def test_read_over_http_and_not_written(web, whole):
    import shutil

    shutil.copytree(whole, web.folder / "store", dirs_exist_ok=True)
    _make(web.folder / "store")
    store = open_store(f"{web.url}/store")
    assert store.subset("rare").rows.tolist() == [1, 5]
    with pytest.raises(UsageError):
        create_subset(store, "other", {"row": [1]})
    with pytest.raises(UsageError):
        remove_subset(store, "rare")
