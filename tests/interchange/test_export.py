"""Every export read back by its own library, and the rules that hold for all of them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import feather
from safetensors import safe_open

from embedstore.documents import EncoderCard, QuarantinedRow
from embedstore.errors import MissingExtraError, StorageValueError, StoreError, UsageError
from embedstore.interchange import ExportOptions, export_rows, vectors
from embedstore.store import FeatureWriter, create_store, create_subset, open_store, plan_feature
from embedstore.testing.stores import random_card, random_plan, random_tables, write_random_store


def export(store, to, *features, **options):
    return export_rows(store.path, to, features=features, options=ExportOptions(**options))


def by_parquet(path):
    return pq.read_table(path)


def by_arrow(path):
    return feather.read_table(path, memory_map=True)


def by_datasets(path):
    datasets = pytest.importorskip("datasets", reason="needs the extra interchange")
    found = datasets.load_from_disk(str(path))
    return found.with_format("arrow")[:]


def by_lance(path):
    lance = pytest.importorskip("lance", reason="needs the extra interchange")
    return lance.dataset(str(path)).to_table()


READERS = {"parquet": by_parquet, "arrow": by_arrow, "datasets": by_datasets, "lance": by_lance}


@pytest.fixture(params=READERS)
def tables(request):
    if request.param in ("datasets", "lance"):
        pytest.importorskip(request.param, reason="needs the extra interchange")
    return request.param, READERS[request.param]


def dense(column, shape):
    """A column of lists as an array `(n, *shape)`."""
    flat = column.combine_chunks()
    for _ in shape:
        flat = flat.flatten()
    return flat.to_numpy(zero_copy_only=False).reshape(-1, *shape)


def is_list_of(kind, inner):
    while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return kind == inner


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("array", ["pooled", "cls", "mean", "tokens"])
def test_pictures(tables, array, dtype, tmp_path, random_store):
    kind, read = tables
    made = export(random_store, f"{kind}:{tmp_path / 'out'}", "vision", array=array, dtype=dtype, split="val")
    table = read(tmp_path / "out")
    rows = np.flatnonzero(random_store.images(["split"])["split"].to_numpy() == "val")
    feature = random_store["vision"]
    wanted = {
        "pooled": lambda: feature.gather("pooled", rows),
        "cls": lambda: feature.gather("prefix", rows)[:, 0],
        "mean": lambda: feature.gather("tokens", rows).astype(np.float32).mean(axis=1),
        "tokens": lambda: feature.gather("tokens", rows),
    }[array]().astype(dtype)
    np.testing.assert_array_equal(dense(table["vision"], wanted.shape[1:]), wanted)
    assert is_list_of(table["vision"].type, {"float16": pa.float16(), "float32": pa.float32()}[dtype])
    assert table["id"].to_pylist() == [f"s{i:06d}" for i in rows]
    assert (
        table["caption"].to_pylist()
        == random_store.texts(["text"])["text"].take(pa.array(2 * rows)).to_pylist()
    )
    assert set(table.column_names) == {"id", "picture", "label", "split", "caption", "vision"}
    assert (made.rows, made.columns) == (len(rows), {"vision": wanted.shape[1:]})


def test_texts_keep_their_own_number_of_tokens(tables, tmp_path, random_store):
    kind, read = tables
    made = export(random_store, f"{kind}:{tmp_path / 'out'}", "words", array="tokens")
    table = read(tmp_path / "out")
    packed = random_store["words"].text_tokens(range(140))
    column = table["words"].combine_chunks()
    np.testing.assert_array_equal(pc.list_value_length(column).to_numpy(zero_copy_only=False), packed.lengths)
    flat = column.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, 12)
    np.testing.assert_array_equal(flat, packed.tokens)
    assert made.columns == {"words": (None, 12)}
    assert table["id"].to_pylist() == random_store.texts(["id"])["id"].to_pylist()
    assert table["caption"].to_pylist() == random_store.texts(["text"])["text"].to_pylist()


def test_a_picture_with_its_first_caption(tables, tmp_path, random_store):
    kind, read = tables
    export(random_store, f"{kind}:{tmp_path / 'out'}", "vision", "words")
    table = read(tmp_path / "out")
    np.testing.assert_array_equal(
        dense(table["words"], (12,)), random_store["words"].read("pooled", 0, 140)[::2]
    )
    assert table["text_id"].to_pylist() == [f"s{i:06d}#0" for i in range(70)]


@pytest.mark.parametrize("array", ["pooled", "tokens"])
@pytest.mark.parametrize(("kind", "read_as"), [("parquet",) * 2, ("arrow",) * 2, ("datasets", "arrow")])
def test_back_again(kind, read_as, array, tmp_path, random_store, bring):
    if kind == "datasets":
        pytest.importorskip("datasets", reason="needs the extra interchange")
    export(random_store, f"{kind}:{tmp_path / 'out'}", "vision", array=array)
    bring(f"{read_as}:{tmp_path / 'out'}", store="back.store")
    back = open_store(tmp_path / "back.store")
    np.testing.assert_array_equal(
        back["theirs"].read(array, 0, 70), random_store["vision"].read(array, 0, 70)
    )
    assert back.images(["id", "label", "split", "picture"]).equals(
        random_store.images(["id", "label", "split", "picture"])
    )


def test_blocks_smaller_than_the_export_give_the_same(tables, tmp_path, random_store, monkeypatch):
    kind, read = tables
    export(random_store, f"{kind}:{tmp_path / 'one'}", "vision", "words", array="tokens")
    monkeypatch.setattr(vectors, "BLOCK_BYTES", 4096)
    export(random_store, f"{kind}:{tmp_path / 'two'}", "vision", "words", array="tokens")
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert one.column_names == two.column_names
    for name in one.column_names:
        assert one[name].to_pylist() == two[name].to_pylist()


def test_npy_with_its_ids(tmp_path, random_store, bring):
    export(random_store, str(tmp_path / "out.npy"), "vision", array="tokens", split="test")
    rows = np.flatnonzero(random_store.images(["split"])["split"].to_numpy() == "test")
    np.testing.assert_array_equal(
        np.load(tmp_path / "out.npy", mmap_mode="r"), random_store["vision"].gather("tokens", rows)
    )
    ids = (tmp_path / "out.npy.ids.txt").read_text(encoding="utf-8").splitlines()
    assert ids == [f"s{i:06d}" for i in rows]
    bring(tmp_path / "out.npy", ids=str(tmp_path / "out.npy.ids.txt"))
    assert open_store(tmp_path / "new.store").images(["id"])["id"].to_pylist() == ids


def test_safetensors_with_several_features(tmp_path, random_store):
    export(random_store, str(tmp_path / "out.safetensors"), "vision", "words", dtype="float32")
    with safe_open(tmp_path / "out.safetensors", framework="np") as file:
        assert list(file.keys()) == ["vision", "words"]
        for name, step in (("vision", 1), ("words", 2)):
            stored = random_store[name].read("pooled", 0, random_store[name].rows)[::step]
            np.testing.assert_array_equal(file.get_tensor(name), stored.astype(np.float32))
        card = json.loads(file.metadata()["embedstore.vision"])["card"]
    assert EncoderCard.model_validate(card) == random_store["vision"].card


def test_the_cards_go_along(tmp_path, random_store):
    for name in ("a.parquet", "a.arrow"):
        export(random_store, str(tmp_path / name), "vision", array="cls")
        schema = READERS[name.partition(".")[2]](tmp_path / name).schema
        told = json.loads(schema.metadata[b"embedstore.vision"])
        assert told["array"] == "cls"
        assert EncoderCard.model_validate(told["card"]) == random_store["vision"].card
    export(random_store, str(tmp_path / "a.npy"), "vision")
    told = json.loads((tmp_path / "a.npy.card.json").read_text(encoding="utf-8"))
    assert told["vision"]["array"] == "pooled"


@pytest.fixture
def holed(tmp_path):
    """10 pictures with two captions; picture 3 and text 10 (the first of picture 5) are quarantined."""
    plan = random_plan(images=10, captions=2)
    images, texts = random_tables(images=10, captions=2, classes=np.zeros(10, np.int64))
    create_store(tmp_path / "s", plan, images=[images], texts=[texts])
    for name, modality, rows, bad, row_id in (
        ("vision", "image", 10, 3, "s000003"),
        ("words", "text", 20, 10, "s000005#0"),
    ):
        card = random_card(modality, width=4, tokens=4, prefix=0)
        header = plan_feature(name=name, plan=plan, card=card)
        values = {"pooled": np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)}
        if modality == "image":
            values["tokens"] = np.ones((rows, 4, 4), np.float32)
        else:
            lengths = np.full(rows, 2)
            lengths[bad] = 0
            values |= {"lengths": lengths, "tokens": np.ones((2 * rows - 2, 4), np.float32)}
        writer = FeatureWriter.open(tmp_path / "s", header)
        writer.write_unit(0, values, quarantined=[QuarantinedRow(row=bad, id=row_id, reason="broken")])
        writer.finish()
    return open_store(tmp_path / "s")


def test_quarantined_rows_are_left_out_and_counted(holed, tmp_path):
    made = export(holed, str(tmp_path / "a.parquet"), "vision", "words")
    assert made.skipped == {"quarantined in vision": 1, "quarantined in words": 1}
    assert by_parquet(tmp_path / "a.parquet")["id"].to_pylist() == [
        f"s{i:06d}" for i in (0, 1, 2, 4, 6, 7, 8, 9)
    ]
    assert export(holed, str(tmp_path / "b.parquet"), "words").skipped == {"quarantined in words": 1}
    assert by_parquet(tmp_path / "b.parquet")["words"][10].as_py() == [44, 45, 46, 47]


def test_texts_without_a_token_have_no_mean(tmp_path):
    plan = random_plan(images=3, captions=2)
    images, texts = random_tables(images=3, captions=2, classes=np.zeros(3, np.int64))
    create_store(tmp_path / "s", plan, images=[images], texts=[texts])
    for name, modality, rows in (("vision", "image", 3), ("words", "text", 6)):
        header = plan_feature(
            name=name, plan=plan, card=random_card(modality, width=4, tokens=4, prefix=0), policy="float32"
        )
        values = {"pooled": np.ones((rows, 4), np.float32)}
        if modality == "image":
            values["tokens"] = np.ones((rows, 4, 4), np.float32)
        else:
            # The first caption of picture 1 and the second of picture 2 are empty.
            tokens = np.arange(28, dtype=np.float32).reshape(7, 4)
            values |= {"lengths": np.array([1, 2, 0, 3, 1, 0]), "tokens": tokens}
        writer = FeatureWriter.open(tmp_path / "s", header)
        writer.write_unit(0, values)
        writer.finish()
    store = open_store(tmp_path / "s")
    made = export(store, str(tmp_path / "a.parquet"), "words", array="mean", dtype="float32")
    assert made.skipped == {"without a token in words": 2}
    table = by_parquet(tmp_path / "a.parquet")
    assert table["id"].to_pylist() == ["s000000#0", "s000000#1", "s000001#1", "s000002#0"]
    wanted = [tokens[0], tokens[1:3].mean(axis=0), tokens[3:6].mean(axis=0), tokens[6]]
    np.testing.assert_array_equal(dense(table["words"], (4,)), wanted)
    made = export(store, str(tmp_path / "b.parquet"), "vision", "words", array="mean")
    assert made.skipped == {"without a token in words": 1}
    assert by_parquet(tmp_path / "b.parquet")["id"].to_pylist() == ["s000000", "s000002"]
    assert export(store, str(tmp_path / "c.parquet"), "words", array="tokens").rows == 6


def test_a_register_is_not_exported_as_cls(tmp_path):
    store = write_random_store(tmp_path / "store", images=10, prefix=2, registers=2)
    assert vectors.arrays_of(store["vision"]) == ("pooled", "tokens", "mean")


def test_pictures_without_a_caption_in_the_language(holed, tmp_path):
    with pytest.raises(UsageError, match="no rows are left to export"):
        export(holed, str(tmp_path / "a.parquet"), "vision", "words", language="fr")
    export(holed, str(tmp_path / "a.parquet"), "vision", language="fr")
    assert "caption" not in by_parquet(tmp_path / "a.parquet").column_names


@pytest.mark.parametrize(
    ("features", "to", "options", "words"),
    [
        (["vision"], "a.parquet", {"array": "sum"}, "unknown array"),
        (["vision"], "a.parquet", {"dtype": "int8"}, "unknown dtype"),
        (["vision"], "a.parquet", {"split": "training"}, r"(?s)no split 'training'.*train 56, val 7, test 7"),
        (["words"], "a.parquet", {"array": "cls"}, r"(?s)has no 'cls'.*pooled, tokens, mean"),
        (["vision", "vision"], "a.parquet", {}, "name each feature once"),
        ([], "a.parquet", {}, "name each feature once"),
        (["visoin"], "a.parquet", {}, "did you mean 'vision'"),
        (["vision", "words"], "a.npy", {}, "npy holds one array"),
        (["words"], "a.npy", {"array": "tokens"}, "texts differ in their number of tokens"),
        (["words"], "a.safetensors", {"array": "tokens"}, "texts differ in their number of tokens"),
        (["vision"], "a.csv", {}, r"(?s)cannot tell the format.*clip-retrieval, parquet"),
        (["vision"], "clip-retrieval:a", {"part_rows": 0}, "--part-rows"),
    ],
)
def test_what_is_refused(features, to, options, words, tmp_path, random_store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UsageError, StoreError), match=words):
        export(random_store, to, *features, **options)
    assert list(tmp_path.iterdir()) == [random_store.path]


@pytest.mark.parametrize(
    "to", ["a.npy", "a.parquet", "a.arrow", "a.safetensors", "clip-retrieval:a", "datasets:a"]
)
def test_nothing_is_overwritten(to, tmp_path, random_store, monkeypatch):
    if to.startswith("datasets"):
        pytest.importorskip("datasets", reason="needs the extra interchange")
    monkeypatch.chdir(tmp_path)
    export(random_store, to, "vision", split="val")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match="the output exists"):
        export(random_store, to, "vision")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "to", ["a.npy", "a.parquet", "a.arrow", "a.safetensors", "clip-retrieval:a", "datasets:a"]
)
def test_a_failure_leaves_nothing(to, tmp_path, random_store, monkeypatch):
    if to.startswith("datasets"):
        pytest.importorskip("datasets", reason="needs the extra interchange")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vectors, "BLOCK_BYTES", 2048)
    read, calls = vectors.Vectors.read, []

    def full(column, start, stop):
        calls.append(start)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return read(column, start, stop)

    monkeypatch.setattr(vectors.Vectors, "read", full)
    with pytest.raises(StoreError, match="the disk is full"):
        export(random_store, to, "vision")
    assert list(tmp_path.iterdir()) == [random_store.path]


def test_values_beyond_float16(tmp_path, numbers, id_list, bring):
    wide = numbers.astype(np.float32)
    wide[5, 0] = 1e6
    np.save(tmp_path / "a.npy", wide)
    bring(tmp_path / "a.npy", ids=str(id_list), policy="float32")
    store = open_store(tmp_path / "new.store")
    with pytest.raises(StorageValueError, match=r"(?s)beyond the range of float16.*--dtype float32"):
        export(store, str(tmp_path / "out.npy"), "theirs")
    assert not list(tmp_path.glob("out*"))
    export(store, str(tmp_path / "out.npy"), "theirs", dtype="float32")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), wide)


@pytest.mark.parametrize("module", ["datasets", "lance"])
def test_without_its_library_the_install_line_is_given(module, tmp_path, random_store, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'embedstore\[interchange\]'"):
        export(random_store, f"{module}:{tmp_path / 'out'}", "vision")
    assert not (tmp_path / "out").exists()


def test_several_stores_read_as_one(tmp_path, numbers, ids, bring):
    for k, (low, high) in enumerate(((0, 40), (40, 70))):
        np.save(tmp_path / "a.npy", numbers[low:high])
        (tmp_path / "ids.txt").write_text("\n".join(ids[low:high]), encoding="utf-8")
        options = {"ids": str(tmp_path / "ids.txt"), "weights_sha256": "ab" * 32}
        bring(tmp_path / "a.npy", store=f"{k}.store", **options)
    joined = f"{tmp_path / '0.store'}+{tmp_path / '1.store'}"
    made = export_rows(joined, str(tmp_path / "out.npy"), features=["theirs"])
    assert made.rows == 70
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), numbers)
    assert (tmp_path / "out.npy.ids.txt").read_text(encoding="utf-8").split() == ids


def test_only_chosen_rows_are_written(tmp_path):
    store = write_random_store(tmp_path / "store", images=20, captions=2)
    create_subset(store, "few", {"row": [2, 5, 18]})
    create_subset(store, "words", {"row": [4, 11, 12]}, table="texts")
    export(store, f"parquet:{tmp_path / 'a.parquet'}", "vision", rows="few")
    assert by_parquet(tmp_path / "a.parquet")["id"].to_pylist() == ["s000002", "s000005", "s000018"]
    export(store, f"parquet:{tmp_path / 'b.parquet'}", "vision", rows="few", split="train")
    assert by_parquet(tmp_path / "b.parquet")["id"].to_pylist() == ["s000002", "s000005"]
    export(store, f"parquet:{tmp_path / 'c.parquet'}", "words", rows="few")
    assert len(by_parquet(tmp_path / "c.parquet")) == 6
    export(store, f"parquet:{tmp_path / 'd.parquet'}", "words", rows="words")
    assert by_parquet(tmp_path / "d.parquet")["id"].to_pylist() == ["s000002#0", "s000005#1", "s000006#0"]
    export(store, f"parquet:{tmp_path / 'e.parquet'}", "vision", "words", rows="words")
    found = by_parquet(tmp_path / "e.parquet")
    assert found["id"].to_pylist() == ["s000002", "s000005", "s000006"]
    assert found["caption"].to_pylist() == store.texts(["text"])["text"].take([4, 11, 12]).to_pylist()
    with pytest.raises(UsageError, match="no subset and no file of ids"):
        export(store, f"parquet:{tmp_path / 'f.parquet'}", "vision", rows="none")
