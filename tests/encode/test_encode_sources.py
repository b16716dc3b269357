"""`embedstore encode` on tar shards, data sets and pools of captions gives what it gives on a folder."""

from __future__ import annotations

import gzip
import io
import secrets

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedstore.encode import EncodeOptions, encode_source
from embedstore.store import open_store, verify_store

webdataset = pytest.importorskip("webdataset")
datasets = pytest.importorskip("datasets")


@pytest.fixture
def pictures(picture_folder):
    """The first 24 pictures of the folder, by name."""
    return {
        p.relative_to(picture_folder).as_posix(): p.read_bytes()
        for p in sorted(picture_folder.rglob("*.png"))[:24]
    }


@pytest.fixture
def tokens(run, picture_folder, tiny_vision, tmp_path):
    """Tokens of those pictures, encoded out of the folder itself."""
    code, _, err = run(
        "encode", picture_folder, tmp_path / "folder.store", "--image-encoder", f"v=hf:{tiny_vision}"
    )
    assert code == 0, err
    store = open_store(tmp_path / "folder.store")
    return lambda names: store["v"].by_id(list(names))


@pytest.fixture
def shards(pictures, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "s-%02d.tar"), maxcount=10, verbose=0) as out:
        for name, data in pictures.items():
            out.write({"__key__": name.removesuffix(".png"), "png": data, "txt": f"words of {name}"})
    return folder


@pytest.fixture
def saved(pictures, tmp_path):
    features = datasets.Features(
        {"id": datasets.Value("string"), "image": datasets.Image(), "text": datasets.Value("string")}
    )
    columns = {
        "id": list(pictures),
        "image": [{"bytes": data, "path": None} for data in pictures.values()],
        "text": [f"words of {name}" for name in pictures],
    }
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_every_source_gives_the_tokens_of_the_folder(
    run, pictures, tokens, shards, saved, tiny_vision, tiny_words, tmp_path
):
    (tmp_path / "gz").mkdir()
    for path in shards.glob("*.tar"):
        (tmp_path / "gz" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "parquet").mkdir()
    datasets.load_from_disk(saved).to_parquet(tmp_path / "parquet" / "train.parquet")
    wanted = tokens(pictures)
    for k, (source, ending) in enumerate(
        [
            (f"{shards}/s-{{00..02}}.tar", ""),
            (str(tmp_path / "gz"), ""),
            (str(saved), ".png"),
            (f"hf:{tmp_path / 'parquet'}?split=train", ".png"),
        ]
    ):
        store = tmp_path / f"{k}.store"
        encoders = ["--image-encoder", f"v=hf:{tiny_vision}", "--text-encoder", f"w=hf:{tiny_words}"]
        code, out, err = run("encode", source, store, *encoders)
        assert code == 0, err
        assert "v: 24 images" in out
        assert "w: 24 texts" in out
        assert verify_store(store).findings == ()
        opened = open_store(store)
        names = [name.removesuffix("" if ending else ".png") for name in pictures]
        np.testing.assert_array_equal(opened["v"].by_id(names), wanted)
        assert opened.plan.order == ("source" if k == 1 else "shuffled")
        code, out, err = run("encode", source, store, *encoders)
        assert code == 0, err
        assert "nothing was missing" in out


def test_a_pool_of_captions(run, tiny_words, tmp_path):
    table = pa.table(
        {"URL": [f"https://x/{i}" for i in range(9)], "TEXT": [f"a word {i}" for i in range(8)] + [""]}
    )
    pq.write_table(table, tmp_path / "part-0.parquet")
    store = tmp_path / "pool.store"
    code, out, err = run(
        "encode", f"laion:{tmp_path}/part-*.parquet", store, "--text-encoder", f"w=hf:{tiny_words}"
    )
    assert code == 0, err
    assert "w: 8 texts" in out
    assert "left out of the source: 1 empty captions" in err
    assert open_store(store).plan.images == 0
    code, _, err = run(
        "encode", f"laion:{tmp_path}", store, "--text-encoder", f"w=hf:{tiny_words}", "--column", "id=URL"
    )
    assert code == 1
    assert "column id" in err


def test_broken_pictures_in_a_tar_are_quarantined(run, shards, tiny_vision, tmp_path):
    out = io.BytesIO()
    with webdataset.TarWriter(out) as tar:
        tar.write({"__key__": "bad", "png": b"no picture"})
    (shards / "t.tar").write_bytes(out.getvalue())
    code, out, err = run("encode", shards, tmp_path / "s", "--image-encoder", f"v=hf:{tiny_vision}")
    assert code == 0, err
    assert "v: 1 rows quarantined" in err


def test_a_data_set_behind_a_url(pictures, tokens, shards, tiny_vision, tmp_path):
    import fsspec

    system, root = fsspec.filesystem("memory"), secrets.token_hex(6)
    for path in shards.glob("*.tar"):
        system.pipe_file(f"/{root}/{path.name}", path.read_bytes())
    encode_source(
        f"memory://{root}/s-*.tar",
        tmp_path / "remote.store",
        image_encoders=[f"v=hf:{tiny_vision}"],
        options=EncodeOptions(),
    )
    store = open_store(tmp_path / "remote.store")
    names = [name.removesuffix(".png") for name in pictures]
    np.testing.assert_array_equal(store["v"].by_id(names), tokens(pictures))
    assert store.plan.order == "source"


def test_processes_decode_what_only_this_process_can_read(
    run, tokens, pictures, shards, tiny_vision, tmp_path
):
    for path in list(shards.glob("*.tar")):
        path.with_suffix(".tgz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    encoder = ["--image-encoder", f"v=hf:{tiny_vision}"]
    code, _, err = run("encode", shards, tmp_path / "s", *encoder, "--decode", "processes", "--workers", 1)
    assert code == 0, err
    names = [name.removesuffix(".png") for name in pictures]
    np.testing.assert_array_equal(open_store(tmp_path / "s")["v"].by_id(names), tokens(pictures))


def test_an_empty_mapping_is_not_read(run, saved, tiny_words, tmp_path):
    command = ["encode", saved, tmp_path / "s", "--text-encoder", f"w=hf:{tiny_words}", "--column"]
    code, _, err = run(*command, "=text")
    assert code == 2
    assert "OURS= is not read" in err
    code, _, err = run(*command, "image=", "--column", "id=")
    assert code == 0, err
    assert open_store(tmp_path / "s").texts(["id"]).column("id").to_pylist()[:1] != []
    assert open_store(tmp_path / "s").plan.images == 0
