"""`A+B`: what is read through a joined store equals the parts read one by one."""

from __future__ import annotations

import io
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from embedstore.errors import (
    IncompleteError,
    MismatchError,
    StoreError,
    StoreNotFoundError,
    UsageError,
)
from embedstore.store import JoinedStore, create_store, open_store, store_info, tables
from embedstore.store.joined import refuse_joined, split_joined
from embedstore.testing.stores import random_plan, random_tables, write_random_store


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Three stores of one pair of encoders, with other rows, ids, seeds and units."""
    root = tmp_path_factory.mktemp("joined")
    return [
        write_random_store(root / "a", images=70, captions=2, seed=1, ids="a", card_seed=7),
        write_random_store(root / "b", images=9, captions=3, seed=2, ids="b", card_seed=7, shard_rows=4),
        write_random_store(root / "c", images=21, captions=1, seed=3, ids="c", card_seed=7, shard_rows=8),
    ]


@pytest.fixture(scope="module")
def joined(parts):
    return open_store("+".join(str(p.path) for p in parts))


def test_counts_and_tables_are_those_of_the_parts_one_after_the_other(parts, joined):
    assert isinstance(joined, JoinedStore)
    assert joined.parts[1].path == parts[1].path
    plan = joined.plan
    assert (plan.images, plan.texts) == (100, 140 + 27 + 21)
    assert plan.splits == {
        name: sum(p.plan.splits.get(name, 0) for p in parts) for name in ("test", "train", "val")
    }
    assert plan.languages == {"en": 188}
    ids = joined.images(["id"])["id"].to_pylist()
    assert ids == [i for p in parts for i in p.images(["id"])["id"].to_pylist()]
    texts = joined.texts()
    assert texts.schema == tables.TEXTS
    for text, image in zip(texts["id"].to_pylist(), texts["image"].to_pylist(), strict=True):
        assert text.startswith(f"{ids[image]}#")
    assert joined.texts(["text"]).column_names == ["text"]
    assert joined.nbytes == sum(p.nbytes for p in parts)
    assert "100 images" in repr(joined)
    assert joined.fingerprint not in {p.fingerprint for p in parts}
    assert joined.features() == ("vision", "words")
    assert joined.progress("vision") == tuple(np.sum([p.progress("vision") for p in parts], axis=0))
    assert joined.complete("words")


@pytest.mark.parametrize("name", ["tokens", "prefix", "pooled", "status"])
def test_reads_and_gathers_equal_the_concatenation(parts, joined, name):
    vision = joined["vision"]
    whole = np.concatenate([p["vision"].read(name, 0, p.plan.images) for p in parts])
    for start, stop in ((0, 100), (69, 71), (70, 79), (65, 95), (80, 80), (99, 100)):
        np.testing.assert_array_equal(vision.read(name, start, stop), whole[start:stop])
    random = np.random.default_rng(0)
    for rows in (random.integers(0, 100, 60), [69, 70, 78, 79], [5, 3], [99, 99, 0], []):
        np.testing.assert_array_equal(vision.gather(name, rows), whole[np.array(rows, np.int64)])
    out = np.empty_like(whole[:4])
    assert vision.gather(name, [78, 2, 99, 70], out) is out
    np.testing.assert_array_equal(out, whole[[78, 2, 99, 70]])


def test_text_tokens_lengths_and_status_equal_the_concatenation(parts, joined):
    words = joined["words"]
    features = [p["words"] for p in parts]
    np.testing.assert_array_equal(words.lengths(), np.concatenate([f.lengths() for f in features]))
    np.testing.assert_array_equal(words.status(), np.zeros(188, np.uint8))
    everything = words.text_tokens(slice(None))
    np.testing.assert_array_equal(
        everything.tokens, np.concatenate([f.text_tokens(slice(None)).tokens for f in features])
    )
    texts = np.split(everything.tokens, everything.offsets[1:-1])
    random = np.random.default_rng(1)
    for rows in (random.integers(0, 188, 40), range(135, 175), [187, 139, 140, 0]):
        found = words.text_tokens(rows)
        np.testing.assert_array_equal(found.tokens, np.concatenate([texts[i] for i in rows]))
    np.testing.assert_array_equal(
        words.gather("pooled", [0, 139, 140, 166, 187])[3], features[1].read("pooled", 26, 27)[0]
    )


def test_what_cannot_be_read_is_refused(joined):
    vision = joined["vision"]
    for call, said in (
        (lambda: vision.read("tokens", 0, 101), r"(?s)outside tokens.*\[0, 100\)"),
        (lambda: vision.gather("tokens", [100]), "0 to 99"),
        (lambda: vision.gather("tokens", [-1]), "outside"),
        (lambda: vision.gather("tokens", [0.5]), "must be integers"),
        (lambda: vision.gather("tokens", [1], np.empty((2, 9, 16), np.float16)), "buffer does not fit"),
        (lambda: joined["words"].text_tokens([188]), "outside the feature"),
        (lambda: joined.thumbnails([100]), "outside the store"),
    ):
        with pytest.raises(UsageError, match=said):
            call()
    with pytest.raises(StoreError, match=r"(?s)no feature 'vison'.*did you mean 'vision'"):
        joined["vison"]


def test_joined_features_travel_to_other_processes(joined):
    for name in joined.features():
        again = pickle.loads(pickle.dumps(joined[name]))  # noqa: S301 - our own bytes
        np.testing.assert_array_equal(again.read("pooled", 60, 90), joined[name].read("pooled", 60, 90))
        assert again.header == joined.header(name)


def test_rows_and_values_by_id(parts, joined):
    wanted = ["c000020", "a000003", "b000008", "a000003"]
    np.testing.assert_array_equal(joined.rows_of(wanted), [99, 3, 78, 3])
    np.testing.assert_array_equal(joined.rows_of(["b000001#2"], "texts"), [140 + 5])
    np.testing.assert_array_equal(
        joined["vision"].by_id(wanted), joined["vision"].gather("tokens", [99, 3, 78, 3])
    )
    assert joined["vision"].by_id(wanted, "pooled").shape == (4, 16)
    packed = joined["words"].by_id(["c000000#0", "a000000#1"])
    np.testing.assert_array_equal(packed.tokens, joined["words"].text_tokens([167, 1]).tokens)
    one = parts[0]
    np.testing.assert_array_equal(one["vision"].by_id(["a000069"]), one["vision"].read("tokens", 69, 70))
    assert len(one.rows_of([])) == 0
    with pytest.raises(UsageError, match=r"(?s)2 of 3 ids are not there.*'x', 'b000000'.*such as 'a000000'"):
        one.rows_of(["x", "a000001", "b000000"])
    with pytest.raises(UsageError, match=r"(?s)vision, table images: no such id.*'a000000#0'"):
        one["vision"].by_id(["a000000#0"])


def test_info_sums_the_parts(parts, joined):
    info = store_info(joined.path)
    assert info.parts == tuple(str(p.path) for p in parts)
    assert info.nbytes == joined.nbytes
    assert [f.header.rows for f in info.features] == [100, 188]
    assert info.features[0].units_done == joined.header("vision").units
    assert store_info(parts[0].path).parts == ()


def test_ids_in_both_are_refused(parts, tmp_path):
    write_random_store(tmp_path / "d", images=3, seed=9, ids="b", card_seed=7)
    with pytest.raises(MismatchError, match=r"(?s)3 ids of the table 'images' stand in both.*'b000000'"):
        open_store(f"{parts[0].path}+{parts[1].path}+{tmp_path / 'd'}")
    with pytest.raises(UsageError, match="the same store twice"):
        open_store(f"{parts[0].path}+{parts[0].path}/../a")


def test_another_encoder_or_policy_is_refused_with_the_differing_fields(parts, tmp_path):
    write_random_store(tmp_path / "d", images=3, seed=9, ids="d", card_seed=8)
    other = open_store(f"{parts[0].path}+{tmp_path / 'd'}")
    assert other.features() == ()
    with pytest.raises(MismatchError, match=r"(?s)'vision' is not the same.*card\.weights_sha256.*--append"):
        other["vision"]
    write_random_store(tmp_path / "e", images=3, seed=9, ids="e", card_seed=7, policy="float32")
    with pytest.raises(
        MismatchError, match=r"(?s)arrays\.tokens\.dtype: 'float16' and 'float32'.*policy: 'float16'"
    ):
        open_store(f"{parts[0].path}+{tmp_path / 'e'}").header("vision")


def test_a_feature_that_one_part_lacks_or_has_only_begun(parts, tmp_path):
    write_random_store(tmp_path / "d", images=40, seed=9, ids="d", card_seed=7)
    shutil.rmtree(tmp_path / "d" / "features" / "words")
    (tmp_path / "d" / "features" / "vision" / "manifest.json").unlink()
    both = open_store(f"{parts[0].path}+{tmp_path / 'd'}")
    assert both.features() == ("vision",)
    assert not both.complete("vision")
    with pytest.raises(StoreError, match=r"(?s)/d: no feature 'words'.*make it there"):
        both["words"]
    with pytest.raises(IncompleteError, match="'vision' is not complete"):
        both["vision"]


def test_a_part_without_rows_of_a_table_needs_no_feature_of_it(parts, tmp_path):
    """Pictures without captions continue a store of both."""
    write_random_store(tmp_path / "d", images=5, captions=0, seed=9, ids="d", card_seed=7)
    shutil.rmtree(tmp_path / "d" / "features" / "words", ignore_errors=True)
    both = open_store(f"{parts[1].path}+{tmp_path / 'd'}+{parts[2].path}")
    words = both["words"]
    assert both.features() == ("vision", "words")
    np.testing.assert_array_equal(
        words.text_tokens([26, 27]).tokens,
        np.concatenate([p["words"].text_tokens([r]).tokens for p, r in ((parts[1], 26), (parts[2], 0))]),
    )
    np.testing.assert_array_equal(words.by_id(["c000003#0"], "pooled"), words.gather("pooled", [30]))


def test_a_path_that_holds_a_plus_opens_as_it_is(parts, tmp_path):
    place = tmp_path / "x+y" / "one+two"
    write_random_store(place, images=3, seed=5, ids="p", card_seed=7)
    assert open_store(place).path == place
    both = open_store(f"{place}+{parts[1].path}")
    assert [p.path for p in both.parts] == [place, parts[1].path]
    assert split_joined(str(tmp_path / "x+y")) is None
    with pytest.raises(StoreNotFoundError, match=r"(?s)gone: there is no store here"):
        open_store(f"{place}+{tmp_path}/gone")
    with pytest.raises(StoreNotFoundError, match=r"^gone: there is no store here"):
        open_store(f"gone+{parts[1].path}")
    refuse_joined(place, what="encode")
    with pytest.raises(UsageError, match=r"(?s)encode works on one store.*A\+B is only read"):
        refuse_joined(tmp_path / f"x+y/one+two+{parts[1].path}", what="encode")


def _masked_store(path, ids, classes):
    plan = random_plan(images=4, captions=0).model_copy(update={"masks": True, "classes": classes})
    pictures, words = random_tables(images=4, captions=0, classes=np.arange(4), ids=ids)
    rows = [{"image": i, "png": _png(ord(ids) + i)} for i in (0, 3)]
    create_store(
        path, plan, images=[pictures], texts=[words], masks=[pa.Table.from_pylist(rows, schema=tables.MASKS)]
    )


def _png(value):
    data = io.BytesIO()
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(data, format="PNG")
    return data.getvalue()


def test_masks_and_thumbnails_come_from_their_own_store(tmp_path, kit):
    for name in ("q", "r"):
        _masked_store(tmp_path / name, name, ("a", "b"))
    both = open_store(f"{tmp_path}/q+{tmp_path}/r")
    found = both.masks([7, 0, 5, 4])
    assert [None if m is None else int(m[0, 0]) for m in found] == [ord("r") + 3, ord("q"), None, ord("r")]
    assert both.thumbnails([1, 6]) == [None, None]
    _masked_store(tmp_path / "t", "t", ("b", "a"))
    with pytest.raises(MismatchError, match="class ids of the masks do not mean the same"):
        open_store(f"{tmp_path}/q+{tmp_path}/t")
    kit.run_whole(tmp_path / "small")
    both = open_store(f"{tmp_path}/q+{tmp_path}/small")
    assert both.thumbnails([4, 0]) == [bytes([0, 0]), None]
