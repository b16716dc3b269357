"""Arrow and Parquet files with a column of embeddings, one file or several."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from embedstore.errors import SourceError, UsageError
from embedstore.interchange import values
from embedstore.interchange.opening import Reading, open_import
from embedstore.store import open_store, verify_store


def lists(array, kind):
    """Rows as Arrow lists of the type `kind` around the numbers."""
    flat = pa.array(array.reshape(-1))
    for size in reversed(array.shape[1:]):
        if kind == "fixed":
            flat = pa.FixedSizeListArray.from_arrays(flat, size)
        else:
            ends = pa.array(np.arange(0, len(flat) + 1, size), pa.int64() if kind == "large" else pa.int32())
            made = pa.LargeListArray if kind == "large" else pa.ListArray
            flat = made.from_arrays(ends, flat)
    return flat


def save(path, table):
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=16)
    else:
        feather.write_feather(table, path, chunksize=16, compression="uncompressed")


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
@pytest.mark.parametrize("kind", ["fixed", "variable", "large"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_list_type(ending, kind, dtype, tmp_path, numbers, ids, bring):
    table = pa.table({"id": ids, "embedding": lists(numbers.astype(dtype), kind), "split": ["train"] * 70})
    save(tmp_path / f"a.{ending}", table)
    bring(tmp_path / f"a.{ending}", policy="float32")
    store = open_store(tmp_path / "new.store")
    np.testing.assert_array_equal(store["theirs"].read("pooled", 0, 70), numbers.astype(np.float32))
    assert store.plan.splits == {"train": 70}


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_folder_of_parts(ending, tmp_path, numbers, ids, bring, monkeypatch):
    monkeypatch.setattr(values, "BLOCK_BYTES", 11 * 4 * 12)
    (tmp_path / "parts").mkdir()
    for k, (low, high) in enumerate(((0, 30), (30, 31), (31, 70))):
        part = pa.table({"id": ids[low:high], "vector": lists(numbers[low:high], "fixed")})
        save(tmp_path / "parts" / f"part-{k}.{ending}", part)
    bring(f"{ending}:{tmp_path / 'parts'}")
    np.testing.assert_array_equal(open_store(tmp_path / "new.store")["theirs"].read("pooled", 0, 70), numbers)
    save(tmp_path / "parts" / f"part-3.{ending}", pa.table({"id": ["x"], "other": [1.0]}))
    with pytest.raises(SourceError, match="parts have different columns"):
        bring(f"{ending}:{tmp_path / 'parts'}", store="more.store")


def test_an_arrow_stream_is_read_too(tmp_path, numbers, ids, bring):
    table = pa.table({"id": ids, "embedding": lists(numbers, "variable")})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table, max_chunksize=9)
    bring(tmp_path / "a.arrow")
    np.testing.assert_array_equal(open_store(tmp_path / "new.store")["theirs"].read("pooled", 0, 70), numbers)


@pytest.mark.parametrize("kind", ["fixed", "variable"])
def test_tokens_of_pictures(kind, tmp_path, ids, bring):
    tokens = np.random.default_rng(1).normal(size=(70, 4, 6)).astype(np.float16)
    save(tmp_path / "a.parquet", pa.table({"id": ids, "patches": lists(tokens, kind)}))
    bring(tmp_path / "a.parquet")
    feature = open_store(tmp_path / "new.store")["theirs"]
    np.testing.assert_array_equal(feature.read("tokens", 0, 70), tokens)


def test_tokens_of_texts_are_as_many_as_the_lists_hold(tmp_path, random_store, bring):
    random = np.random.default_rng(7)
    texts = random_store.texts(["id"])["id"].to_pylist()
    rows = [random.normal(size=(random.integers(1, 6), 4)).astype(np.float32) for _ in texts]
    column = pa.array([row.tolist() for row in rows], pa.list_(pa.list_(pa.float32())))
    save(tmp_path / "a.parquet", pa.table({"id": texts, "tokens": column}))
    bring(tmp_path / "a.parquet", modality="text", policy="float32", store=random_store.path)
    packed = random_store["theirs"].text_tokens(range(140))
    np.testing.assert_array_equal(packed.lengths, [len(row) for row in rows])
    np.testing.assert_array_equal(packed.tokens, np.concatenate(rows))
    assert random_store["theirs"].header.max_tokens == max(map(len, rows))
    assert verify_store(random_store.path).sound


def test_padded_tokens_of_texts_need_their_lengths(tmp_path, random_store, bring):
    texts = random_store.texts(["id"])["id"].to_pylist()
    tokens = np.random.default_rng(1).normal(size=(140, 5, 3)).astype(np.float16)
    lengths = np.arange(140) % 5 + 1
    table = pa.table({"id": texts, "tokens": lists(tokens, "fixed"), "real": lengths})
    save(tmp_path / "a.parquet", table)
    options = {"modality": "text", "store": random_store.path}
    with pytest.raises(UsageError, match="which of the tokens of a text are padding"):
        bring(tmp_path / "a.parquet", **options)
    bring(tmp_path / "a.parquet", lengths="real", **options)
    assert random_store["theirs"].lengths().tolist() == lengths.tolist()
    bring(tmp_path / "a.parquet", lengths="full", name="whole", **options)
    assert set(random_store["whole"].lengths().tolist()) == {5}


def test_which_column_is_meant(tmp_path, numbers, ids, bring):
    table = pa.table({"id": ids, "one": lists(numbers, "fixed"), "two": lists(numbers, "fixed")})
    save(tmp_path / "a.parquet", table)
    with pytest.raises(SourceError, match=r"(?s)which column.*one, two.*--column embedding=one"):
        bring(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="no column 'id' of embeddings"):
        bring(tmp_path / "a.parquet", columns={"embedding": "id"})
    assert bring(tmp_path / "a.parquet", columns={"embedding": "two"}).rows == 70


def test_ids_beside_an_arrow_file(tmp_path, numbers, ids, id_list, bring):
    save(tmp_path / "a.arrow", pa.table({"embedding": lists(numbers, "fixed"), "key": ids}))
    with pytest.raises(SourceError, match=r"(?s)no column 'id'.*--column id=NAME"):
        bring(tmp_path / "a.arrow")
    bring(tmp_path / "a.arrow", ids=str(id_list), store="one.store")
    bring(tmp_path / "a.arrow", ids="key", store="two.store")
    one, two = (open_store(tmp_path / f"{n}.store").images(["id"]) for n in ("one", "two"))
    assert one.equals(two)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1.0, 2.0], None, [1.0, 2.0]], r"row 1: a row has no embedding"),
        ([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0]], r"(?s)row 2: rows differ in width.*\[2, 3\]"),
        ([[1.0, 2.0], [1.0, None], [1.0, 2.0]], "holds a null"),
        ([[], [], []], "which column holds the embeddings"),
    ],
)
def test_lists_that_are_refused(rows, words, tmp_path, bring):
    save(tmp_path / "a.parquet", pa.table({"id": list("abc"), "embedding": rows}))
    with pytest.raises(SourceError, match=words):
        bring(tmp_path / "a.parquet")


def test_a_table_that_is_something_else(tmp_path, bring):
    for ending in ("parquet", "arrow"):
        (tmp_path / f"a.{ending}").write_bytes(b"words" * 100)
        with pytest.raises(SourceError, match=f"not a file of kind {ending}"):
            bring(tmp_path / f"a.{ending}")


def test_rows_can_be_read_again_from_the_start(tmp_path, numbers, ids):
    save(tmp_path / "a.parquet", pa.table({"id": ids, "embedding": lists(numbers, "variable")}))
    found = open_import(str(tmp_path / "a.parquet"), Reading(modality="image")).values
    for start, stop in ((0, 70), (10, 12), (60, 70), (5, 61), (0, 1)):
        np.testing.assert_array_equal(found.read(start, stop), numbers[start:stop])


def test_a_parquet_file_is_not_held(tmp_path):
    """32 MiB of embeddings in row groups of 1 MiB: Arrow holds a few of them at once, never the file."""
    rows, width = 16384, 512
    numbers = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    table = pa.table({"id": [str(i) for i in range(rows)], "embedding": lists(numbers, "fixed")})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=512, use_dictionary=False)
    del table, numbers
    found = open_import(str(tmp_path / "a.parquet"), Reading(modality="image")).values
    before, most = pa.total_allocated_bytes(), 0
    for start in range(0, rows, 256):
        found.read(start, start + 256)
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 8 << 20
