"""clip-retrieval's folders, as that program writes and reads them: NumPy files and pandas-like metadata."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedstore.errors import MismatchError, SourceError, UsageError
from embedstore.interchange import ExportOptions, export_rows
from embedstore.store import open_store, verify_store
from embedstore.testing.stores import write_random_store


def test_both_sides_of_a_folder(tmp_path, clip_folder, bring):
    images, texts = clip_folder(tmp_path / "clip")
    made = bring(f"clip-retrieval:{tmp_path / 'clip'}", name="image")
    more = bring(tmp_path / "clip", name="text", modality="text")
    assert (made.new_store, more.new_store) == (True, False)
    store = open_store(tmp_path / "new.store")
    assert (store.plan.images, store.plan.texts, store.plan.order) == (70, 70, "source")
    np.testing.assert_array_equal(store["image"].read("pooled", 0, 70), images)
    np.testing.assert_array_equal(store["text"].read("pooled", 0, 70), texts)
    assert store.images(["id", "picture"]).slice(31, 1).to_pylist() == [
        {"id": "s000031", "picture": "https://example.org/31.jpg"}
    ]
    assert store.texts(["id", "image", "text"]).slice(31, 1).to_pylist() == [
        {"id": "s000031#0", "image": 31, "text": "a caption for 31"}
    ]
    assert verify_store(store.path).sound


def test_the_text_side_may_come_first(tmp_path, clip_folder, bring):
    _, texts = clip_folder(tmp_path / "clip")
    assert bring(tmp_path / "clip", name="text", modality="text").new_store
    bring(tmp_path / "clip", name="image")
    np.testing.assert_array_equal(open_store(tmp_path / "new.store")["text"].read("pooled", 0, 70), texts)


def test_parts_are_taken_by_number_not_by_name(tmp_path, clip_folder, bring):
    images, _ = clip_folder(tmp_path / "clip", (3,) * 12, digits=1, texts=False)
    bring(tmp_path / "clip")
    np.testing.assert_array_equal(open_store(tmp_path / "new.store")["theirs"].read("pooled", 0, 36), images)


def test_into_a_store_that_was_encoded(tmp_path, clip_folder, bring):
    images, _ = clip_folder(tmp_path / "clip")
    store = write_random_store(tmp_path / "random.store", images=70, captions=1)
    bring(tmp_path / "clip", store=store.path)
    bring(tmp_path / "clip", store=store.path, modality="text", name="words-too")
    np.testing.assert_array_equal(store["theirs"].read("pooled", 0, 70), images)
    two = write_random_store(tmp_path / "two.store", images=70, captions=2)
    with pytest.raises(MismatchError, match="70 ids of the store are missing from the file: 's000000#1'"):
        bring(tmp_path / "clip", store=two.path, modality="text")


def test_the_id_may_be_another_column(tmp_path, clip_folder, bring):
    clip_folder(tmp_path / "clip", key=[f"k{i}" for i in range(70)], hash=[f"h{i}" for i in range(70)])
    bring(tmp_path / "clip")
    bring(tmp_path / "clip", columns={"id": "hash"}, store="hash.store")
    assert open_store(tmp_path / "new.store").images(["id"])["id"][4].as_py() == "k4"
    assert open_store(tmp_path / "hash.store").images(["id"])["id"][4].as_py() == "h4"
    with pytest.raises(SourceError, match=r"(?s)no column 'nope' in the metadata.*image_path, caption"):
        bring(tmp_path / "clip", columns={"id": "nope"}, store="none.store")


def test_rows_without_a_caption_have_no_text(tmp_path, clip_folder, bring):
    captions = [None if i % 7 == 0 else f"words {i}" for i in range(70)]
    _, texts = clip_folder(tmp_path / "clip", caption=captions)
    bring(tmp_path / "clip")
    made = bring(tmp_path / "clip", name="text", modality="text")
    assert made.left_out == {"rows without a caption": 10}
    kept = [i for i in range(70) if i % 7]
    store = open_store(tmp_path / "new.store")
    np.testing.assert_array_equal(store["text"].read("pooled", 0, 60), texts[kept])
    assert verify_store(store.path).sound


def test_columns_may_be_missing_in_some_parts(tmp_path, clip_folder, bring):
    clip_folder(tmp_path / "clip", texts=False, split=["val"] * 70)
    path = tmp_path / "clip" / "metadata" / "metadata_01.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["split", "caption"]), path)
    bring(tmp_path / "clip")
    store = open_store(tmp_path / "new.store")
    assert (store.plan.splits, store.plan.texts) == ({"val": 45}, 45)


def test_folders_that_are_refused(tmp_path, clip_folder, bring, numbers):
    clip_folder(tmp_path / "clip", texts=False)
    folder = tmp_path / "clip"
    with pytest.raises(SourceError, match=r"(?s)no text embeddings.*img_emb/"):
        bring(folder, modality="text")
    with pytest.raises(UsageError, match="stand in its metadata"):
        bring(folder, ids="ids.txt")
    np.save(folder / "img_emb" / "img_emb_01.npy", numbers[:24])
    with pytest.raises(SourceError, match="different numbers of rows"):
        bring(folder)
    np.save(folder / "img_emb" / "img_emb_00.npy", np.concatenate([numbers[:30], numbers[:1]]))
    with pytest.raises(SourceError, match=r"(?s)img_emb_00.npy and metadata_00.parquet.*31 and 30"):
        bring(folder)
    np.save(folder / "img_emb" / "img_emb_01.npy", numbers[:25, :5])
    with pytest.raises(SourceError, match=r"(?s)img_emb_01.npy: the parts differ in width.*\(5,\)"):
        bring(folder)
    np.save(folder / "img_emb" / "img_emb_01.npy", numbers[:25].astype(np.float32))
    with pytest.raises(SourceError, match="the parts differ in dtype"):
        bring(folder)
    np.save(folder / "img_emb" / "img_emb_01.npy", numbers[:25])
    (folder / "metadata" / "metadata_02.parquet").unlink()
    with pytest.raises(SourceError, match=r"(?s)different parts.*\[0, 1, 2\]"):
        bring(folder)
    with pytest.raises(SourceError, match="no such folder"):
        bring(f"clip-retrieval:{tmp_path / 'none'}")
    assert not (tmp_path / "new.store").exists()


def read_as_clip_retrieval(folder):
    """The way its index builder and its server read a folder: files sorted by name, one after the other."""

    def arrays(name):
        return np.concatenate([np.load(p) for p in sorted((folder / name).glob("*.npy"))])

    parts = sorted((folder / "metadata").glob("*.parquet"))
    sides = [arrays(n) if (folder / n).is_dir() else None for n in ("img_emb", "text_emb")]
    return *sides, pa.concat_tables([pq.read_table(p) for p in parts])


@pytest.mark.parametrize("part_rows", [1000, 70, 23, 6])
def test_what_is_exported_is_what_was_imported(part_rows, tmp_path, clip_folder, bring):
    images, texts = clip_folder(tmp_path / "clip")
    bring(tmp_path / "clip", name="image")
    bring(tmp_path / "clip", name="text", modality="text")
    options = ExportOptions(part_rows=part_rows)
    out = tmp_path / "out"
    made = export_rows(
        tmp_path / "new.store", f"clip-retrieval:{out}", features=["image", "text"], options=options
    )
    assert (made.rows, made.columns) == (70, {"image": (12,), "text": (12,)})
    theirs, words, table = read_as_clip_retrieval(out)
    assert (theirs.dtype, words.dtype) == (np.float16, np.float16)
    np.testing.assert_array_equal(theirs, images)
    np.testing.assert_array_equal(words, texts)
    assert table["caption"].to_pylist() == [f"a caption for {i}" for i in range(70)]
    assert table["url"].to_pylist() == [f"https://example.org/{i}.jpg" for i in range(70)]
    assert table["image_path"].to_pylist() == [f"s{i:06d}" for i in range(70)]
    back = bring(out, name="image", store="back.store", weights_sha256="0" * 64)
    assert back.rows == 70
    bring(out, name="text", store="back.store", modality="text")
    store = open_store(tmp_path / "back.store")
    np.testing.assert_array_equal(store["image"].read("pooled", 0, 70), images)
    np.testing.assert_array_equal(store["text"].read("pooled", 0, 70), texts)
    assert store.images(["id", "picture"]).equals(
        open_store(tmp_path / "new.store").images(["id", "picture"])
    )


def test_an_encoded_store_in_this_layout(tmp_path, random_store):
    out = tmp_path / "out"
    options = ExportOptions(split="train", array="mean", dtype="float32")
    made = export_rows(
        random_store.path, f"clip-retrieval:{out}", features=["vision", "words"], options=options
    )
    images, texts, table = read_as_clip_retrieval(out)
    rows = np.flatnonzero(random_store.images(["split"])["split"].to_numpy() == "train")
    assert made.rows == len(rows) == len(table)
    tokens = random_store["vision"].gather("tokens", rows).astype(np.float64)
    np.testing.assert_allclose(images, tokens.mean(axis=1), atol=1e-5)
    packed = random_store["words"].text_tokens(2 * rows)
    wanted = [
        packed.tokens[a:b].astype(np.float64).mean(axis=0) for a, b in itertools.pairwise(packed.offsets)
    ]
    np.testing.assert_allclose(texts, wanted, atol=1e-5)
    assert (
        table["caption"].to_pylist()
        == random_store.texts(["text"])["text"].take(pa.array(2 * rows)).to_pylist()
    )
    assert table["image_path"].to_pylist() == [f"s{i:06d}.png" for i in rows]


def test_the_layout_holds_vectors_only(tmp_path, random_store):
    for features, array in ((["vision"], "tokens"), (["words"], "tokens")):
        with pytest.raises(UsageError, match=r"one vector a picture|arrays of one shape"):
            export_rows(
                random_store.path,
                f"clip-retrieval:{tmp_path / 'out'}",
                features=features,
                options=ExportOptions(array=array),
            )
    assert list(tmp_path.iterdir()) == [random_store.path]
