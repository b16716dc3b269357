from __future__ import annotations

import io
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from embedstore.errors import CorruptStoreError, IncompleteError, StoreError, StoreNotFoundError, UsageError
from embedstore.store import FeatureWriter, create_store, open_store, store_info, tables
from embedstore.testing.stores import random_plan, random_tables, write_random_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("reader") / "store", images=130, captions=3)


def test_a_place_without_a_store(tmp_path):
    with pytest.raises(StoreNotFoundError, match=r"(?s)no plan\.json.*embedstore encode"):
        open_store(tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(StoreNotFoundError, match="planning that was interrupted"):
        open_store(tmp_path)


def test_names_progress_and_repr(store):
    assert store.features() == ("vision", "words")
    assert store.progress("vision") == (5, 5)
    assert store["vision"].arrays == ("tokens", "prefix", "pooled", "status")
    assert "130 images, 390 texts" in repr(store)
    assert "130 rows" in repr(store["vision"])
    assert store["words"].card == store.header("words").card
    assert store.fingerprint == store.plan.fingerprint
    assert store.nbytes > store["vision"].manifest.nbytes + store["words"].manifest.nbytes


def test_an_unknown_feature_says_the_nearest(store):
    with pytest.raises(StoreError, match=r"(?s)no feature 'visoin'.*vision, words.*did you mean 'vision'"):
        store["visoin"]
    with pytest.raises(StoreError, match="no feature"):
        store["../vision"]


def test_an_unfinished_feature_says_how_far_it_is(tmp_path, kit):
    kit.run_whole(tmp_path / "a")
    plan = open_store(tmp_path / "a").plan
    pictures, words = random_tables(images=kit.images, captions=2, classes=np.zeros(kit.images, np.int64))
    create_store(tmp_path / "s", plan, images=[pictures], texts=[words])
    header = kit.headers(plan)[0]
    writer = FeatureWriter.open(tmp_path / "s", header)
    arrays, quarantined, thumbnails = kit.unit_values(header, 1)
    writer.write_unit(1, arrays, quarantined=quarantined, thumbnails=thumbnails)
    begun = open_store(tmp_path / "s")
    assert begun.progress("vision") == (1, 2)
    assert begun.thumbnails([0, 1]) == [None, None]
    with pytest.raises(
        IncompleteError, match=r"(?s)'vision' is not complete.*1 of 2 units.*embedstore encode"
    ):
        begun["vision"]
    info = store_info(tmp_path / "s")
    assert (info.features[0].complete, info.features[0].units_done) == (False, 1)
    assert info.features[0].quarantined == {"truncated": 1}
    assert info.nbytes == begun.nbytes


def test_info_tells_everything_as_json(whole):
    info = store_info(whole)
    assert [f.header.name for f in info.features] == ["vision", "words"]
    assert all(f.complete and f.units_done == f.header.units for f in info.features)
    found = info.to_dict()
    assert found["features"][0]["quarantined"] == {"truncated": 1}
    assert found["nbytes"] == open_store(whole).nbytes
    assert found["plan"]["images"] == 7


@pytest.mark.parametrize("rows", [[5], [129, 0, 64, 64], list(range(40, 20, -1)), []])
def test_gather_is_the_naive_selection(store, rows):
    vision = store["vision"]
    for name in vision.arrays:
        everything = vision.read(name, 0, vision.rows)
        np.testing.assert_array_equal(vision.gather(name, rows), everything[np.array(rows, dtype=np.int64)])


@pytest.mark.parametrize("seed", range(5))
def test_text_tokens_are_the_naive_concatenation(store, seed):
    words = store["words"]
    everything = words.text_tokens(slice(None))
    assert everything.offsets[-1] == words.lengths().sum() == len(everything.tokens)
    texts = np.split(everything.tokens, everything.offsets[1:-1])
    random = np.random.default_rng(seed)
    for rows in (
        random.integers(0, words.rows, 50),
        range(30, 75),
        np.arange(words.rows)[::-1],
        [],
        slice(10, 13),
    ):
        found = words.text_tokens(rows)
        wanted = [texts[i] for i in (range(words.rows)[rows] if isinstance(rows, slice) else rows)]
        np.testing.assert_array_equal(found.tokens, np.concatenate([np.empty((0, 12), np.float16), *wanted]))
        np.testing.assert_array_equal(found.lengths, [len(w) for w in wanted])
        assert found.offsets.dtype == np.int64


def test_texts_without_tokens_are_skipped_over(whole):
    words = open_store(whole)["words"]
    assert words.lengths()[10] == 0
    found = words.text_tokens([9, 10, 11])
    np.testing.assert_array_equal(
        found.tokens, np.concatenate([words.text_tokens([i]).tokens for i in (9, 11)])
    )
    assert words.text_tokens([10]).tokens.shape == (0, 2)


def test_reading_into_a_buffer(store):
    vision = store["vision"]
    out = np.empty((10, 9, 16), np.float16)
    assert vision.read("tokens", 60, 70, out) is out
    np.testing.assert_array_equal(out, vision.read("tokens", 0, 130)[60:70])
    for bad in (out[:9], out.astype(np.float32), np.empty((9, 16, 10), np.float16).T, out[:, ::-1]):
        with pytest.raises(UsageError, match="buffer does not fit"):
            vision.read("tokens", 60, 70, bad)


def test_what_cannot_be_read_is_refused(store):
    vision, words = store["vision"], store["words"]
    cases = [
        (lambda: vision.read("tokens", 0, 131), r"(?s)outside tokens.*\[0, 130\)"),
        (lambda: vision.read("tokens", 5, 4), "outside"),
        (lambda: vision.gather("tokens", [130]), "0 to 129"),
        (lambda: vision.gather("tokens", [-1]), "outside"),
        (lambda: vision.gather("tokens", [0.5]), "must be integers"),
        (lambda: vision.gather("tokens", [[1]]), "one axis"),
        (lambda: vision.read("lengths", 0, 1), r"(?s)no array 'lengths'.*tokens, prefix, pooled, status"),
        (lambda: vision.text_tokens([0]), "only text features"),
        (lambda: words.read("tokens", 0, 1), r"(?s)ragged.*text_tokens"),
        (lambda: words.text_tokens([390]), "outside the feature"),
        (lambda: words.text_tokens(np.ones(words.rows, bool)), "rows must be integers"),
        (lambda: words.padded_text([1.0]), "rows must be integers"),
        (lambda: store.feature("vision", verify="sometimes"), "first, always, never"),
    ]
    for call, said in cases:
        with pytest.raises(UsageError, match=said):
            call()


def test_many_threads_read_the_same(store):
    vision, words = store.feature("vision", verify="always"), store["words"]
    tokens, texts = vision.read("tokens", 0, 130), words.text_tokens(slice(None))

    def look(seed):
        rows = np.random.default_rng(seed).integers(0, 130, 20)
        row = int(rows[0])
        return np.array_equal(vision.gather("tokens", rows), tokens[rows]) and np.array_equal(
            words.text_tokens([row]).tokens, texts.tokens[texts.offsets[row] : texts.offsets[row + 1]]
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(look, range(200)))


def test_features_travel_to_other_processes(store):
    for name in store.features():
        again = pickle.loads(pickle.dumps(store.feature(name, verify="always")))  # noqa: S301 - our own bytes
        np.testing.assert_array_equal(again.read("pooled", 3, 9), store[name].read("pooled", 3, 9))
        assert again.array("pooled").spec == store[name].array("pooled").spec
        assert pickle.loads(pickle.dumps(again.array("pooled"))).spec == again.array("pooled").spec  # noqa: S301 - ours


def test_masks_come_by_image_row(tmp_path, monkeypatch):
    monkeypatch.setitem(tables._CUTS, "masks", tables.Cut(2, 2))
    plan = random_plan(images=12, captions=0).model_copy(update={"masks": True})
    pictures, _ = random_tables(images=12, captions=0, classes=np.zeros(12, np.int64))
    masks = {
        i: np.random.default_rng(i).integers(0, 255, (i + 1, 5), dtype=np.uint8) for i in range(1, 12, 2)
    }

    def png(mask):
        out = io.BytesIO()
        Image.fromarray(mask).save(out, format="PNG")
        return out.getvalue()

    create_store(
        tmp_path / "s", plan, images=[pictures], masks=({"image": i, "png": png(m)} for i, m in masks.items())
    )
    store = open_store(tmp_path / "s")
    rows = [11, 0, 3, 3, 2, 1]
    for row, found in zip(rows, store.masks(rows), strict=True):
        if row in masks:
            np.testing.assert_array_equal(found, masks[row])
        else:
            assert found is None


def test_manifest_and_header_must_agree(whole):
    path = whole / "features/vision/header.json"
    path.write_text(path.read_text().replace('"thumbnails": 16', '"thumbnails": 17'))
    with pytest.raises(CorruptStoreError, match="manifest and header do not agree"):
        open_store(whole)["vision"]


def test_the_store_never_loads_torch():
    code = "import sys, embedstore.store; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
