"""One encoder, several features: layers in one forward pass, limits that share the weights."""

import numpy as np
import pytest

from embedstore.encode import EncodeOptions, dry_run_source, encode_source, recode_feature
from embedstore.encoders import hf_image, load_image_encoder, load_text_encoder, table
from embedstore.errors import MismatchError, UsageError
from embedstore.store import open_store, verify_store


def tree(store):
    """Relative path -> bytes of every file."""
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


@pytest.fixture
def encode(picture_folder, tiny_vision, tiny_words, tmp_path):
    """Encode the picture folder; encoders are written with {vision} and {words} for the folders."""

    def run(name="store", images=(), texts=(), **options):
        arguments = {k: options.pop(k) for k in ("append", "on_progress") if k in options}
        folders = {"vision": tiny_vision, "words": tiny_words}
        return encode_source(
            str(options.pop("source", picture_folder)),
            tmp_path / name,
            image_encoders=[spec.format(**folders) for spec in images],
            text_encoders=[spec.format(**folders) for spec in texts],
            options=EncodeOptions(**({} if "append" in arguments else {"policy": "float32"}) | options),
            **arguments,
        )

    return run


@pytest.fixture
def passes(monkeypatch):
    """Counts the pictures that run through the model."""
    seen = []
    real = hf_image.HFImageEncoder.encode_all

    def counted(self, pixels):
        seen.append(len(pixels))
        return real(self, pixels)

    monkeypatch.setattr(hf_image.HFImageEncoder, "encode_all", counted)
    return seen


def test_several_layers_come_from_one_pass_and_are_those_of_each_alone(encode, passes, tiny_vision):
    summary = encode(images=["v=hf:{vision}?layers=1,-1"])
    assert sum(passes) == 100
    assert [f.name for f in summary.features] == ["v-L1", "v-L-1"]
    assert [f.fresh for f in summary.features] == [100, 100]
    alone = encode("alone", images=["v-L1=hf:{vision}?layer=1", "v-L-1=hf:{vision}"])
    assert tree(summary.store) == tree(alone.store)
    store = open_store(summary.store)
    assert [store.header(n).card.layer for n in ("v-L1", "v-L-1")] == [1, -1]
    assert [store.header(n).card.final_norm for n in ("v-L1", "v-L-1")] == [False, True]
    assert store.header("v-L-1").card == load_image_encoder(f"hf:{tiny_vision}").card
    assert [store.header(n).thumbnails for n in ("v-L1", "v-L-1")] == [128, 0]
    assert verify_store(store.path).sound


def test_the_names_may_be_given_one_by_one(encode):
    summary = encode(images=["low,high=hf:{vision}?layers=1,2"])
    assert [f.name for f in summary.features] == ["low", "high"]
    assert open_store(summary.store).header("high").card.layer == -1


def test_a_limit_each_is_a_feature_each(encode, tiny_words):
    summary = encode(texts=["w=hf:{words}?max_length=8,16&layers=1,2"])
    names = ["w-max8-L1", "w-max8-L2", "w-max16-L1", "w-max16-L2"]
    assert [f.name for f in summary.features] == names
    store = open_store(summary.store)
    assert [store.header(n).card.tokenizer.max_length for n in names] == [8, 8, 16, 16]
    assert [store.header(n).card.layer for n in names] == [1, -1, 1, -1]
    assert summary.features[0].truncated == summary.features[1].truncated > summary.features[2].truncated
    direct = load_text_encoder(f"hf:{tiny_words}?max_length=16&layer=1")
    assert store.header("w-max16-L1").card == direct.card
    text = store.texts().take([7])["text"].to_pylist()
    expected = direct.encode(direct.prepare(text)[0])
    packed = store["w-max16-L1"].text_tokens([7])
    np.testing.assert_allclose(packed.tokens, expected.tokens[0].numpy(), rtol=1e-5, atol=1e-5)


def test_an_interrupted_pass_goes_on_and_makes_only_what_is_missing(encode, passes):
    whole = tree(encode("whole", images=["v=hf:{vision}?layers=0,1,2"]).store)

    class StopError(Exception):
        pass

    def stop(at):
        if at.done >= 70:
            raise StopError

    with pytest.raises(StopError):
        encode("cut", images=["v=hf:{vision}?layers=0,1,2"], on_progress=stop, batch_size=8)
    # Another feature of the same pass lacks a unit that the others have.
    assert (
        tree(encode("cut", images=["v=hf:{vision}?layers=0,1,2"], batch_size=8).store).keys() == whole.keys()
    )


def test_what_one_feature_lacks_is_made_and_the_others_are_left(encode, passes):
    encode(images=["v-L1=hf:{vision}?layer=1"])
    before = sum(passes)
    summary = encode(images=["v=hf:{vision}?layers=1,2"])
    assert [f.fresh for f in summary.features] == [0, 100]
    assert sum(passes) - before == 100
    again = encode(images=["v=hf:{vision}?layers=2,1"])
    assert [f.fresh for f in again.features] == [0, 0]
    assert sum(passes) - before == 100


def test_features_that_are_begun_keep_their_units_and_a_pass_is_of_equal_units(encode):
    encode(images=["v-L0=hf:{vision}?layer=0"], shard_rows=64)
    summary = encode(images=["v=hf:{vision}?layers=0,1"])
    assert [(f.fresh, f.manifest.header.shard_rows) for f in summary.features] == [(0, 64), (100, 64)]
    encode(images=["v-L2=hf:{vision}?layer=2"], shard_rows=16)
    summary = encode(images=["v=hf:{vision}?layers=0,1,2"])
    assert [f.fresh for f in summary.features] == [0, 0, 0]


def test_progress_is_of_the_pass(encode):
    seen = []
    encode(images=["v=hf:{vision}?layers=0,1,2"], on_progress=seen.append)
    assert {p.feature for p in seen} == {"v-L0, …, v-L2 (3 features)"}
    assert (seen[-1].done, seen[-1].fresh) == (100, 100)


def test_a_dry_run_counts_a_pass_once(encode, picture_folder, tiny_vision, tmp_path):
    plan = dry_run_source(
        str(picture_folder),
        tmp_path / "store",
        image_encoders=[f"v=hf:{tiny_vision}?layers=1,2"],
        options=EncodeOptions(policy="float32", batch_size=16),
    )
    first, second = plan.features
    assert (first.made_with, second.made_with) == (None, "v-L1")
    assert second.seconds == 0.0 < first.seconds
    assert plan.seconds == first.seconds + plan.setup_seconds
    made = encode(images=["v=hf:{vision}?layers=1,2"])
    assert second.nbytes == made.features[1].manifest.nbytes
    assert first.nbytes == pytest.approx(made.features[0].manifest.nbytes, rel=0.1)


def test_each_feature_learns_for_itself(encode):
    summary = encode("learnt", images=["v=hf:{vision}?layers=1,2"], policy="int8")
    store = open_store(summary.store)
    plain = open_store(encode("plain", images=["v=hf:{vision}?layers=1,2"]).store)
    for name in ("v-L1", "v-L2"):
        exact = plain[name].decoded("tokens", np.arange(100))
        found = store[name].decoded("tokens", np.arange(100))
        assert np.abs(exact - found).max() < 0.05 * np.abs(exact).max()
    first, second = (store.header(n).calibration_sha256 for n in ("v-L1", "v-L2"))
    assert first != second
    recode_feature(plain.path, "v-L1", policy="int8", name="small")
    assert open_store(plain.path).header("small").card == plain.header("v-L1").card


def test_appending_runs_one_pass_too(encode, passes, picture_folder, tmp_path):
    first = encode("A", images=["v=hf:{vision}?layers=1,2"], limit=50).store
    recode_feature(first, "v-L1", policy="float16", name="half")
    more = tmp_path / "more"
    more.mkdir()
    for number, path in enumerate(sorted(picture_folder.rglob("*.png"))[:7]):
        (more / f"new{number}.png").write_bytes(path.read_bytes())
    before = sum(passes)
    summary = encode("B", source=more, append=first)
    assert sum(passes) - before == 7
    assert [f.name for f in summary.features] == ["half", "v-L1", "v-L2"]
    both = open_store(f"{first}+{tmp_path / 'B'}")
    assert both["v-L1"].rows == 57
    named = encode("C", source=more, append=first, images=["v=hf:{vision}?layers=1,2"])
    assert tree(named.store).keys() < tree(summary.store).keys()
    assert verify_store(both.path).findings == ()


def test_appending_to_layers_that_are_read_differently(encode, passes, picture_folder, tmp_path):
    """Features of one model with and without its final norm and a pooling of their own: a pass each."""
    specs = [
        "a=hf:{vision}?layers=1,-1",
        "b=hf:{vision}?layers=0,1,-1&norm=true",
        "c=hf:{vision}?layers=0,1&pooling=mean",
        "d=hf:{vision}?layer=0",
    ]
    more = tmp_path / "more"
    more.mkdir()
    for number, path in enumerate(sorted(picture_folder.rglob("*.png"))[:7]):
        (more / f"new{number}.png").write_bytes(path.read_bytes())
    first = encode("A", images=specs, limit=20).store
    before = sum(passes)
    made = encode("B", source=more, append=first)
    assert sum(passes) - before == 3 * 7
    alone = encode("alone", source=more, images=specs)
    assert open_store(made.store).features() == open_store(alone.store).features()
    for name in open_store(first).features():
        ours, direct = open_store(made.store)[name], open_store(alone.store)[name]
        for part in ("tokens", "pooled"):
            assert np.array_equal(ours.read(part, 0, 7), direct.read(part, 0, 7))


def test_appending_to_a_feature_a_limit_loads_the_weights_once(encode, picture_folder, tmp_path, monkeypatch):
    first = encode("A", texts=["w=hf:{words}?max_length=8,16"], limit=50).store
    more = tmp_path / "more"
    more.mkdir()
    (more / "new.png").write_bytes(next(picture_folder.rglob("*.png")).read_bytes())
    (more / "captions.csv").write_text("image,caption\nnew.png,words that are new\n")
    loaded = []
    real = table._load
    monkeypatch.setattr(table, "_load", lambda *a, **k: loaded.append(1) or real(*a, **k))
    summary = encode("B", source=more, append=first)
    assert [f.name for f in summary.features] == ["w-max16", "w-max8"]
    assert len(loaded) == 1
    both = open_store(f"{first}+{tmp_path / 'B'}")
    assert [both.header(n).card.tokenizer.max_length for n in ("w-max8", "w-max16")] == [8, 16]


def test_layers_that_are_not_there_or_the_same_are_refused(encode):
    with pytest.raises(UsageError, match=r"no such layer(.|\n)*found: 3\n  allowed: 0 to 2, or -3 to -1"):
        encode(images=["hf:{vision}?layer=3"])
    with pytest.raises(UsageError, match=r"a layer is listed twice: the model has 2 layers"):
        encode(images=["hf:{vision}?layers=2,-1"])
    with pytest.raises(UsageError, match="two features share a name"):
        encode(images=["v=hf:{vision}?layers=1,2", "v-L1=hf:{vision}"])


def test_another_layer_under_the_same_name_is_refused(encode):
    encode(images=["v=hf:{vision}"])
    with pytest.raises(MismatchError, match=r"card\.layer: stored -1, now 1"):
        encode(images=["v=hf:{vision}?layer=1"])
