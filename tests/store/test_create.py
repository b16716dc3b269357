from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedstore.errors import (
    CorruptStoreError,
    FormatVersionError,
    MismatchError,
    StorageValueError,
    StoreError,
)
from embedstore.store import arrow_schemas, create_store, layout, open_store, tables
from embedstore.testing.stores import random_plan, random_tables


def given(images=10, captions=2):
    pictures, words = random_tables(images=images, captions=captions, classes=np.arange(images) % 4)
    return random_plan(images=images, captions=captions), pictures, words


def test_rows_come_back_in_order_from_batches_tables_and_mappings(tmp_path):
    plan, pictures, words = given()
    forms = {
        "table": ([pictures], [words]),
        "batches": (pictures.to_batches(max_chunksize=3), words.to_batches(max_chunksize=7)),
        "mappings": (iter(pictures.to_pylist()), iter(words.to_pylist())),
        "mixed": ([pictures.slice(0, 4), *pictures.slice(4).to_pylist()], [words]),
    }
    bytes_of = set()
    for name, (images, texts) in forms.items():
        assert create_store(tmp_path / name, plan, images=images, texts=texts)
        store = open_store(tmp_path / name)
        assert store.images().equals(pictures)
        assert store.texts(["text", "id"]).equals(words.select(["text", "id"]))
        bytes_of.add(
            (
                layout.part(store.path, "texts", 0).read_bytes(),
                layout.part(store.path, "images", 0).read_bytes(),
            )
        )
    assert len(bytes_of) == 1


def test_large_tables_are_cut_into_parts_of_fixed_groups(tmp_path, monkeypatch):
    monkeypatch.setitem(tables._CUTS, "texts", tables.Cut(4, 3))
    plan, pictures, words = given(images=15)
    create_store(tmp_path / "s", plan, images=[pictures], texts=words.to_batches(max_chunksize=5))
    parts = layout.parts(tmp_path / "s", "texts")
    sizes = [
        [pq.ParquetFile(p).metadata.row_group(i).num_rows for i in range(pq.ParquetFile(p).num_row_groups)]
        for p in parts
    ]
    assert sizes == [[4, 4, 4], [4, 4, 4], [4, 2]]
    assert open_store(tmp_path / "s").texts().equals(words)


def test_the_same_plan_again_reads_nothing_and_changes_nothing(tmp_path, kit):
    plan, pictures, words = given()
    create_store(tmp_path / "s", plan, images=[pictures], texts=[words])
    before = kit.tree(tmp_path / "s")

    def never():
        raise AssertionError("the rows were read")
        yield

    assert not create_store(tmp_path / "s", plan, images=never(), texts=never())
    assert kit.tree(tmp_path / "s") == before


def test_another_plan_is_refused_with_the_fields(tmp_path):
    plan, pictures, words = given()
    create_store(tmp_path / "s", plan, images=[pictures], texts=[words])
    other = plan.model_copy(update={"seed": 3, "source_sha256": "1" * 64})
    with pytest.raises(
        MismatchError, match=r"(?s)plan.*seed: stored 0, now 3.*source_sha256.*new store path"
    ):
        create_store(tmp_path / "s", other)


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path, kit):
    plan, pictures, words = given()
    (tmp_path / "a").mkdir()
    (tmp_path / "a/notes.txt").write_text("mine")
    (tmp_path / "b/tables").mkdir(parents=True)
    (tmp_path / "c").write_text("a file")
    before = kit.tree(tmp_path)
    for name, words_said in (("a", r"(?s)not empty.*notes\.txt"), ("b", "not empty"), ("c", "is a file")):
        with pytest.raises(StoreError, match=words_said):
            create_store(tmp_path / name, plan, images=[pictures], texts=[words])
    assert kit.tree(tmp_path) == before
    (tmp_path / "d").mkdir()
    assert create_store(tmp_path / "d", plan, images=[pictures], texts=[words])


def test_what_a_killed_planning_of_another_source_left_is_replaced(tmp_path, monkeypatch, kit):
    plan, pictures, words = given(images=15)
    monkeypatch.setitem(tables._CUTS, "texts", tables.Cut(4, 1))
    create_store(tmp_path / "s", plan, images=[pictures], texts=[words])
    layout.plan(tmp_path / "s").unlink()
    small, pictures, words = given(images=2)
    create_store(tmp_path / "s", small, images=[pictures], texts=[words])
    create_store(tmp_path / "fresh", small, images=[pictures], texts=[words])
    assert kit.tree(tmp_path / "s") == kit.tree(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("images", "texts", "words"),
    [
        (lambda p: [p.slice(1)], lambda w: [w], "rows that the plan says"),
        (lambda p: [p], lambda w: [], "rows that the plan says"),
        (lambda p: [p.drop_columns("label")], lambda w: [w], "do not fit the table 'images'"),
        (lambda p: [{"id": 5}], lambda w: [w], "does not fit the table 'images'"),
        (
            lambda p: [p],
            lambda w: [{**w.to_pylist()[0], "text": None}],
            r"(?s)do not fit the table 'texts'.*'text' with null values",
        ),
    ],
)
def test_rows_that_do_not_fit_make_no_store(tmp_path, images, texts, words):
    plan, pictures, texts_table = given()
    with pytest.raises(StorageValueError, match=words):
        create_store(tmp_path / "s", plan, images=images(pictures), texts=texts(texts_table))
    assert not layout.plan(tmp_path / "s").exists()
    assert create_store(tmp_path / "s", plan, images=[pictures], texts=[texts_table])


def test_text_only_and_image_only_stores(tmp_path):
    plan, pictures, words = given()
    alone = pa.Table.from_pylist([{**w, "image": None} for w in words.to_pylist()], schema=tables.TEXTS)
    create_store(tmp_path / "t", plan.model_copy(update={"images": 0, "splits": {}}), texts=[alone])
    create_store(
        tmp_path / "i", plan.model_copy(update={"texts": 0, "languages": {}, "roles": {}}), images=[pictures]
    )
    assert open_store(tmp_path / "t").images().num_rows == 0
    assert open_store(tmp_path / "t").texts(["image"])["image"].null_count == 20
    assert open_store(tmp_path / "i").texts().schema.equals(tables.TEXTS)


def test_a_newer_format_is_refused_before_its_fields_are_looked_at(tmp_path):
    plan, pictures, words = given()
    create_store(tmp_path / "s", plan, images=[pictures], texts=[words])
    path = layout.plan(tmp_path / "s")
    document = json.loads(path.read_text()) | {"format_version": 2, "something_new": 1}
    path.write_text(json.dumps(document))
    with pytest.raises(FormatVersionError, match=r"(?s)newer version.*format version 2.*1 to 1.*install an"):
        open_store(tmp_path / "s")
    path.write_text("[]")
    with pytest.raises(CorruptStoreError, match="Plan is not valid"):
        open_store(tmp_path / "s")


def test_a_flipped_bit_in_a_table_is_found(tmp_path):
    plan, pictures, words = given(images=400)
    create_store(tmp_path / "s", plan, images=[pictures], texts=[words])
    path = layout.part(tmp_path / "s", "texts", 0)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 8
    path.write_bytes(raw)
    with pytest.raises(CorruptStoreError, match=r"table cannot be read"):
        open_store(tmp_path / "s").texts()


def test_the_published_schemas_name_every_column():
    found = arrow_schemas()
    assert set(found) == {"images", "texts", "masks", "thumbnails", "quarantine", "subset", "units"}
    assert found["texts"]["fields"][1] == {
        "name": "image",
        "type": "int64",
        "nullable": True,
        "description": "row of the images table; null: a text without an image",
    }
    assert all(f["description"] for t in found.values() for f in t["fields"])


def test_a_store_folder_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    plan, pictures, words = given()

    def refuse(*_args):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StoreError, match="cannot be written: Permission denied"):
            create_store(tmp_path / "s", plan, images=[pictures], texts=[words])
    assert [n for _, _, names in os.walk(tmp_path / "s") for n in names] == []
