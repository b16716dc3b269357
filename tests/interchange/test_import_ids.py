"""Which row is which sample: id lists, matching by id, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather

from embedstore.errors import MismatchError, SourceError, UsageError
from embedstore.interchange import ImportOptions, import_feature
from embedstore.interchange.ids import match, row_facts
from embedstore.store import open_store, verify_store


@pytest.fixture
def array(tmp_path, numbers):
    np.save(tmp_path / "a.npy", numbers)
    return tmp_path / "a.npy"


def write_list(path, ids):
    """An id list by the ending of its name, with a caption and a split a row where it has columns."""
    table = pa.table({"id": ids, "caption": [f"about {i}" for i in ids], "split": ["train"] * len(ids)})
    if path.suffix == ".txt":
        path.write_text("\r\n".join(ids) + "\r\n", encoding="utf-8")
    elif path.suffix == ".csv":
        lines = [f"{i},about {i},train" for i in ids]
        path.write_text("\n".join(["id,caption,split", *lines]), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(line) for line in table.to_pylist()), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        feather.write_feather(table, path)
    return path


@pytest.mark.parametrize("ending", ["txt", "csv", "jsonl", "parquet", "arrow"])
def test_every_kind_of_list(ending, tmp_path, array, ids, bring):
    bring(array, ids=str(write_list(tmp_path / f"list.{ending}", ids)))
    store = open_store(tmp_path / "new.store")
    assert store.images(["id"])["id"].to_pylist() == ids
    if ending != "txt":
        assert store.plan.splits == {"train": 70}
        assert store.texts(["id", "text", "image"]).slice(3, 1).to_pylist() == [
            {"id": "s000003#0", "text": "about s000003", "image": 3}
        ]
    assert verify_store(tmp_path / "new.store").sound


def test_columns_may_have_other_names(tmp_path, array, ids, bring):
    table = pa.table(
        {"key": ids, "title": [f"t {i}" for i in ids], "part": ["val"] * 70, "class": ["x"] * 70}
    )
    pq.write_table(table, tmp_path / "list.parquet")
    columns = {"id": "key", "caption": "title", "split": "part", "label": "class"}
    bring(array, ids=str(tmp_path / "list.parquet"), columns=columns)
    store = open_store(tmp_path / "new.store")
    assert store.images(["label", "split"]).slice(9, 1).to_pylist() == [{"label": "x", "split": "val"}]
    with pytest.raises(UsageError, match=r"(?s)unknown column 'title'.*caption"):
        bring(array, ids=str(tmp_path / "list.parquet"), columns={"title": "title"})
    with pytest.raises(SourceError, match="no column 'none'"):
        bring(array, ids=str(tmp_path / "list.parquet"), columns={"id": "none"})


def test_rows_go_to_the_ids_that_the_store_has(tmp_path, array, numbers, ids, random_store, bring):
    order = np.random.default_rng(5).permutation(70)
    shuffled = write_list(tmp_path / "list.txt", [ids[i] for i in order])
    made = bring(array, ids=str(shuffled), store=random_store.path)
    assert not made.new_store
    stored = random_store["theirs"].read("pooled", 0, 70)
    np.testing.assert_array_equal(stored[order], numbers)
    assert random_store.features() == ("theirs", "vision", "words")
    assert verify_store(random_store.path).sound


def test_texts_of_a_store(tmp_path, random_store, bring):
    texts = random_store.texts(["id"])["id"].to_pylist()
    values = np.random.default_rng(3).normal(size=(len(texts), 6)).astype(np.float32)
    np.save(tmp_path / "a.npy", values[::-1])
    listed = write_list(tmp_path / "list.txt", texts[::-1])
    made = bring(
        tmp_path / "a.npy", ids=str(listed), modality="text", policy="float32", store=random_store.path
    )
    assert (made.table, made.rows, made.arrays) == ("texts", 140, ("pooled", "status"))
    np.testing.assert_array_equal(random_store["theirs"].read("pooled", 0, 140), values)
    assert verify_store(random_store.path).sound


def test_a_store_of_texts_alone_needs_the_texts(tmp_path, array, ids, bring):
    with pytest.raises(SourceError, match=r"(?s)needs the texts themselves.*no column 'caption'"):
        bring(array, ids=str(write_list(tmp_path / "list.txt", ids)), modality="text")
    bring(array, ids=str(write_list(tmp_path / "list.csv", ids)), modality="text")
    store = open_store(tmp_path / "new.store")
    assert (store.plan.images, store.plan.texts) == (0, 70)
    assert store.texts(["id", "text"]).slice(1, 1).to_pylist() == [{"id": "s000001", "text": "about s000001"}]


def test_other_ids_are_refused_with_counts_and_examples(tmp_path, array, ids, random_store, bring):
    wrong = ["extra-a", "extra-b", *ids[2:]]
    before = sorted(p.name for p in (random_store.path / "features").iterdir())
    with pytest.raises(MismatchError) as bad:
        bring(array, ids=str(write_list(tmp_path / "list.txt", wrong)), store=random_store.path)
    for words in (
        "2 ids of the store are missing from the file: 's000000', 's000001'",
        "2 ids of the file are unknown to the store: 'extra-a', 'extra-b'",
        "the 70 ids of the store",
    ):
        assert words in str(bad.value)
    assert sorted(p.name for p in (random_store.path / "features").iterdir()) == before


def test_fewer_rows_than_the_store_are_refused(tmp_path, numbers, ids, random_store, bring):
    np.save(tmp_path / "a.npy", numbers[:60])
    with pytest.raises(MismatchError, match="10 ids of the store are missing from the file: 's000060', "):
        bring(
            tmp_path / "a.npy", ids=str(write_list(tmp_path / "list.txt", ids[:60])), store=random_store.path
        )


def test_ids_that_stand_twice_are_refused(tmp_path, array, ids, bring):
    listed = write_list(tmp_path / "list.txt", [ids[0], ids[0], ids[1], ids[1], *ids[4:]])
    with pytest.raises(SourceError, match=r"(?s)several rows.*2 such ids: 's000000', 's000001'"):
        bring(array, ids=str(listed))


def test_rows_without_an_id_are_refused(tmp_path, array, ids, bring):
    listed = write_list(tmp_path / "list.txt", [*ids[:5], "", *ids[6:]])
    with pytest.raises(SourceError, match=r"(?s)without an id.*the first is row 5"):
        bring(array, ids=str(listed))


def test_absolute_paths_are_no_ids(tmp_path, array, ids, bring):
    listed = write_list(tmp_path / "list.txt", [f"/data/set/{i}" for i in ids])
    with pytest.raises(SourceError, match=r"(?s)absolute paths.*'/data/set/s000000'.*--id-prefix"):
        bring(array, ids=str(listed))
    bring(array, ids=str(listed), id_prefix="/data/set/")
    assert open_store(tmp_path / "new.store").images(["id"])["id"].to_pylist() == ids
    with pytest.raises(SourceError, match="do not begin with '/data/other/'"):
        bring(array, ids=str(listed), id_prefix="/data/other/")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "rows are matched by id"),
        ({"ids": "nowhere.txt"}, "no such id list"),
        ({"modality": "sound"}, "unknown modality"),
        ({"policy": "int8"}, "unknown policy"),
        ({"model": "/data/models/clip"}, "never by a path"),
        ({"name": "../theirs"}, "bad feature name"),
    ],
)
def test_what_cannot_be_meant(options, words, array, bring, tmp_path):
    with pytest.raises(Exception, match=words):
        bring(array, **options)
    assert not (tmp_path / "new.store").exists()


def test_a_format_that_is_not_known(tmp_path, bring):
    with pytest.raises(UsageError, match=r"(?s)cannot tell the format.*clip-retrieval, npy, npz"):
        bring(tmp_path / "a.pkl")


def test_an_import_that_was_stopped_goes_on(tmp_path, array, ids, bring, monkeypatch):
    listed = str(write_list(tmp_path / "list.csv", ids))
    from embedstore.store import FeatureWriter

    whole, made = FeatureWriter.write_unit, []

    def once(writer, unit, arrays, **more):
        if made:
            raise KeyboardInterrupt
        made.append(unit)
        return whole(writer, unit, arrays, **more)

    monkeypatch.setattr(FeatureWriter, "write_unit", once)
    with pytest.raises(KeyboardInterrupt):
        bring(array, ids=listed, shard_rows=32)
    assert open_store(tmp_path / "new.store").progress("theirs") == (1, 3)
    again = []
    monkeypatch.setattr(
        FeatureWriter, "write_unit", lambda w, u, a, **m: again.append(u) or whole(w, u, a, **m)
    )
    bring(array, ids=listed, shard_rows=32)
    assert again == [1, 2]
    assert verify_store(tmp_path / "new.store").sound


def test_another_file_under_the_same_name_is_refused(tmp_path, array, numbers, id_list, bring):
    bring(array, ids=str(id_list))
    np.save(tmp_path / "b.npy", numbers + np.float16(1))
    with pytest.raises(MismatchError, match="weights_sha256"):
        bring(tmp_path / "b.npy", ids=str(id_list))
    assert bring(array, ids=str(id_list)).rows == 70


def test_several_stores_are_not_one(tmp_path, array, id_list, bring):
    bring(array, ids=str(id_list), store="one.store")
    bring(array, ids=str(id_list), store="two.store")
    joined = f"{tmp_path / 'one.store'}+{tmp_path / 'two.store'}"
    with pytest.raises(UsageError, match="an import goes into one store"):
        bring(array, ids=str(id_list), store=joined, name="more")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_matching_equals_a_dictionary(data):
    names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=4)
    found = data.draw(st.lists(names.filter(lambda n: not n.startswith("/")), unique=True, min_size=1))
    wanted = data.draw(st.permutations(found))
    rows = match(pa.chunked_array([pa.array(wanted)]), row_facts(found, {}, where="f"), where="f", store="s")
    assert [found[row] for row in rows] == list(wanted)


def test_memory_does_not_grow_with_the_file(tmp_path):
    """4 MiB blocks, units of 2 MiB, two at once: far less than the 128 MiB of the file may be allocated."""
    import tracemalloc

    from embedstore.interchange import values
    from embedstore.store import storing

    rows, width = 32768, 1024
    mapped = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (rows, width))
    mapped[:] = np.arange(width, dtype=np.float32) / width
    del mapped
    (tmp_path / "ids.txt").write_text("\n".join(map(str, range(rows))), encoding="utf-8")
    options = ImportOptions(model="m", ids=str(tmp_path / "ids.txt"), shard_rows=1024)
    patch = pytest.MonkeyPatch()
    patch.setattr(values, "BLOCK_BYTES", 4 << 20)
    patch.setattr(storing, "_SMALL_BYTES", 4 << 20)
    tracemalloc.start()
    try:
        import_feature(str(tmp_path / "a.npy"), tmp_path / "s.store", name="x", options=options)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        patch.undo()
    assert most < 48 << 20
