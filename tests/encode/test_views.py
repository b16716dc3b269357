"""`--views`: augmented views of each picture as features of one pass, the same however they are made."""

from __future__ import annotations

import json
import signal
import sys

import numpy as np
import pytest
from PIL import Image

from embedstore.encode import EncodeOptions, dry_run_source, encode_source, recode_feature
from embedstore.encoders import load_image_encoder
from embedstore.encoders.views import ViewPreparation, parse_views
from embedstore.errors import MismatchError, UsageError
from embedstore.store import open_store, verify_store
from embedstore_cli import app

KIND = "random-resized-crop?scale=0.3,1&flip=0.5"


@pytest.fixture
def encode(picture_folder, tiny_vision, tmp_path):
    def run(
        name="store",
        *,
        source=picture_folder,
        spec=f"v=hf:{tiny_vision}",
        append=None,
        on_progress=None,
        **options,
    ):
        wanted = {"batch_size": 8, "policy": "float32", "limit": 40, "device": "cpu", **options}
        if append is None and wanted.get("views") != 0:
            wanted = {"views": 2, "view": KIND, "view_seed": 7, **wanted}
        return encode_source(
            str(source),
            tmp_path / name,
            image_encoders=[] if append else [spec],
            options=EncodeOptions(**wanted),
            append=append,
            on_progress=on_progress,
        )

    return run


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_views_are_what_they_are_alone(encode, picture_folder, tiny_vision):
    store = open_store(encode().store)
    assert list(store.features()) == ["v-view1", "v-view2"]
    encoder = load_image_encoder(f"hf:{tiny_vision}", device="cpu")
    views = parse_views(KIND, count=2, seed=7)
    prepare = ViewPreparation(encoder.preparation, encoder.card.processor, views)
    images = store.images()
    for row in (0, 13, 39):
        id_, name = images["id"][row].as_py(), images["picture"][row].as_py()
        with Image.open(picture_folder / name) as picture:
            pixels = prepare.of_row(picture.convert("RGB"), id_)
        for k in (0, 1):
            expected = encoder.encode([pixels[k]]).tokens.numpy()
            found = store[f"v-view{k + 1}"].read("tokens", row, row + 1)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(store["v-view1"].read("pooled", 0, 40), store["v-view2"].read("pooled", 0, 40))


def test_batch_units_workers_and_order_decide_nothing(encode):
    one = open_store(encode("one").store)
    two = open_store(encode("two", batch_size=3, shard_rows=16, workers=1, seed=5, limit=None).store)
    places = {id_: row for row, id_ in enumerate(two.images()["id"].to_pylist())}
    rows = [places[id_] for id_ in one.images()["id"].to_pylist()]
    for name in one.features():
        wanted = one[name].read("pooled", 0, 40)
        np.testing.assert_allclose(two[name].read("pooled", 0, 100)[rows], wanted, rtol=1e-4, atol=1e-5)


def test_more_views_are_added_and_the_first_ones_stay(encode, monkeypatch):
    first = encode().store
    before = tree(first / "features" / "v-view1")
    counted = []
    whole = ViewPreparation.of_row
    monkeypatch.setattr(
        ViewPreparation, "of_row", lambda self, *a: (counted.append(self.count), whole(self, *a))[1]
    )
    summary = encode(views=3)
    counted = sorted(set(counted))
    assert {f.name: f.fresh for f in summary.features} == {"v-view1": 0, "v-view2": 0, "v-view3": 40}
    assert tree(first / "features" / "v-view1") == before
    assert counted == [1]
    fresh = open_store(encode("fresh", views=3, shard_rows=32).store)
    found = open_store(first)["v-view3"].read("pooled", 0, 40)
    np.testing.assert_allclose(found, fresh["v-view3"].read("pooled", 0, 40), rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_is_finished_byte_for_byte(encode):
    whole = tree(encode("whole", shard_rows=8).store)

    def stop(at):
        if at.done >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode("begun", shard_rows=8, on_progress=stop)
    summary = encode("begun", shard_rows=8)
    assert all(0 < f.fresh < 40 for f in summary.features)
    assert tree(summary.store) == whole
    assert verify_store(summary.store).findings == ()


def test_another_seed_is_another_feature(encode):
    encode()
    with pytest.raises(MismatchError, match=r"card\.view\.seed"):
        encode(view_seed=8)


def test_one_view_of_every_layer(encode, tiny_vision):
    store = open_store(encode(spec=f"v=hf:{tiny_vision}?layers=1,2", views=1).store)
    cards = {name: store.header(name).card for name in store.features()}
    assert {name: (c.layer, c.view.number) for name, c in cards.items()} == {
        "v-L1-view1": (1, 1),
        "v-L2-view1": (-1, 1),
    }


def test_plain_and_views_are_continued_together(encode, picture_folder, tmp_path):
    encode(views=0, limit=None)
    encode(limit=None)
    more = tmp_path / "more"
    (more / "new").mkdir(parents=True)
    for k in range(5):
        pixels = np.random.default_rng(k).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(more / "new" / f"n{k}.png")
    encode("next", source=more, append=tmp_path / "store", limit=None)
    assert set(open_store(tmp_path / "next").features()) == {"v", "v-view1", "v-view2"}
    joined = open_store(f"{tmp_path / 'store'}+{tmp_path / 'next'}")
    assert joined["v-view2"].read("pooled", 100, 105).shape == (5, 32)
    with pytest.raises(UsageError, match="--views cannot be chosen here"):
        encode("third", source=more, append=tmp_path / "store", views=2)


def test_a_view_is_recoded_and_predicted_like_any_feature(encode, picture_folder, tiny_vision, tmp_path):
    options = EncodeOptions(policy="float32", limit=40, views=2, view=KIND, device="cpu", batch_size=8)
    spec = [f"v=hf:{tiny_vision}"]
    plan = dry_run_source(str(picture_folder), tmp_path / "dry", image_encoders=spec, options=options)
    assert not (tmp_path / "dry").exists()
    summary = encode_source(str(picture_folder), tmp_path / "dry", image_encoders=spec, options=options)
    for predicted, made in zip(plan.features, summary.features, strict=True):
        assert predicted.name == made.name
        assert predicted.nbytes == pytest.approx(made.manifest.nbytes, rel=0.01)
    recoded = recode_feature(tmp_path / "dry", "v-view1", policy="int8", name="small")
    assert recoded.manifest.header.card.view.number == 1


def test_a_policy_that_learns_learns_from_the_view(encode, tmp_path):
    encode(policy="int8", limit=None)
    encode("twin", policy="float32", limit=None)
    found, exact = (open_store(tmp_path / name)["v-view2"] for name in ("store", "twin"))
    decoded = found.decoded("tokens", np.arange(100))
    assert np.abs(decoded - exact.decoded("tokens", np.arange(100))).max() < 0.1


@pytest.mark.slow
def test_processes_make_the_same_views_as_threads(encode):
    one, two = encode("threads").store, encode("processes", decode="processes", workers=1).store
    assert tree(one) == tree(two)


def test_the_command_line(picture_folder, tiny_vision, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["embedstore", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as end:
            app.main()
        signal.signal(signal.SIGTERM, handler)
        out = capsys.readouterr()
        assert end.value.code == 0, out.err
        return " ".join(out.out.split())

    views = ("--views", 4, "--view", "random-resized-crop", "--view-seed", 7)
    options = ("--image-encoder", f"v=hf:{tiny_vision}", "--limit", 8, "--device", "cpu", *views)
    made = json.loads(run("encode", picture_folder, tmp_path / "store", "--json", *options))
    assert [f["feature"] for f in made["features"]] == [f"v-view{k}" for k in (1, 2, 3, 4)]
    assert "view 4 of random-resized-crop?scale=0.08,1" in run("info", tmp_path / "store")


def test_views_of_texts_are_refused(picture_folder, tiny_words, tmp_path):
    with pytest.raises(UsageError, match=r"nothing to make views for(.|\n)*--image-encoder"):
        encode_source(
            str(picture_folder),
            tmp_path / "store",
            text_encoders=[f"words=hf:{tiny_words}"],
            options=EncodeOptions(views=2, limit=4),
        )
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("options", [{"view": KIND}, {"view_seed": 3}])
def test_a_view_without_a_number_of_them_is_refused(options):
    with pytest.raises(UsageError, match="add --views N"):
        EncodeOptions(**options)


@pytest.mark.parametrize("options", [{"views": 257}, {"views": -1}, {"view_seed": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match="option out of range"):
        EncodeOptions(**options)
