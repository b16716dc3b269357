"""`encode_source` on real pictures through real model code."""

import shutil

import numpy as np
import pytest

from embedstore.encode import EncodeOptions, dry_run_source, encode_source, recode_feature
from embedstore.encoders import load_image_encoder, load_text_encoder
from embedstore.errors import MismatchError, StorageValueError, TooManyFailedError, UsageError
from embedstore.store import open_store, verify_store


def tree(store):
    """Relative path -> bytes of every file."""
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


@pytest.fixture
def encode(picture_folder, tiny_vision, tiny_words, tmp_path):
    """Encode the picture folder with both tiny encoders; options may replace everything."""

    def run(name="store", *, source=picture_folder, images=None, texts=None, **options):
        on_progress = options.pop("on_progress", None)
        return encode_source(
            str(source),
            tmp_path / name,
            image_encoders=[f"vision=hf:{tiny_vision}"] if images is None else images,
            text_encoders=[f"words=hf:{tiny_words}"] if texts is None else texts,
            options=EncodeOptions(**{"batch_size": 8, "policy": "float32", **options}),
            on_progress=on_progress,
        )

    return run


def test_tokens_equal_a_direct_run_of_the_same_encoder(encode, picture_folder, tiny_vision, tiny_words):
    store = open_store(encode().store)
    vision, words = load_image_encoder(f"hf:{tiny_vision}"), load_text_encoder(f"hf:{tiny_words}")
    from PIL import Image

    rows = [0, 17, 63, 99]
    for row, name in zip(rows, store.images().take(rows)["picture"].to_pylist(), strict=True):
        with Image.open(picture_folder / name) as picture:
            direct = vision.encode([vision.prepare(picture.convert("RGB"))])
        for array, wanted in (
            ("tokens", direct.tokens),
            ("prefix", direct.prefix),
            ("pooled", direct.pooled),
        ):
            found = store["vision"].read(array, row, row + 1)
            np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-5)
    for row in (0, 101, 199):
        text = store.texts().take([row])["text"].to_pylist()
        direct = words.encode(words.prepare(text)[0])
        packed = store["words"].text_tokens([row])
        np.testing.assert_allclose(packed.tokens, direct.tokens[0].numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            store["words"].read("pooled", row, row + 1), direct.pooled.numpy(), rtol=1e-5, atol=1e-5
        )


def test_classes_are_mixed_in_every_unit(encode):
    store = open_store(encode(texts=[]).store)
    labels = np.array(store.images()["label"].to_pylist())
    size = store.header("vision").shard_rows
    for first in range(0, 96, size):
        assert len(set(labels[first : first + size])) == 4


def test_five_broken_pictures_among_a_hundred(encode, picture_folder):
    whole = open_store(encode("whole").store)
    pictures = sorted(picture_folder.rglob("*.png"))
    damage = {
        3: b"",
        20: pictures[20].read_bytes()[:60],
        41: b"not a picture",
        77: None,
        90: b"\x89PNG\r\n\x1a\n",
    }
    for k, data in damage.items():
        pictures[k].unlink()
        if data is not None:
            pictures[k].write_bytes(data)
    # A missing file cannot be listed by a folder, so its row comes from the table beside it.
    summary = encode("broken", source=picture_folder / "captions.csv")
    broken = open_store(summary.store)
    images = summary.features[0].to_dict()
    assert (images["rows"], images["encoded"], images["quarantined"]) == (100, 95, 5)
    status = broken["vision"].status()
    ids = broken.images()["picture"].to_pylist()
    bad = {f"class{k // 25}/{k:03d}.png" for k in damage}
    assert {ids[r] for r in np.flatnonzero(status)} == bad
    tokens = {
        name: whole["vision"].read("tokens", r, r + 1)
        for r, name in enumerate(whole.images()["picture"].to_pylist())
    }
    for row, name in enumerate(ids):
        found = broken["vision"].read("tokens", row, row + 1)
        if name in bad:
            assert np.isnan(found).all()
        else:
            np.testing.assert_allclose(found, tokens[name], rtol=1e-5, atol=1e-5)
    from embedstore.store.info import store_info

    (info,) = [f for f in store_info(summary.store).features if f.header.name == "vision"]
    assert sum(info.quarantined.values()) == 5
    assert len(info.quarantined) >= 3
    assert verify_store(summary.store).sound


def test_more_failures_than_allowed_stop_the_run_and_keep_its_units(encode, picture_folder):
    for path in sorted(picture_folder.rglob("*.png"))[:20]:
        path.write_bytes(b"")
    with pytest.raises(
        TooManyFailedError, match=r"rows quarantined\n  allowed: 10 rows \(--max-failed 0.1\)"
    ):
        encode(texts=[])
    summary = encode(texts=[], max_failed=0.5)
    assert summary.features[0].fresh < 100
    assert summary.features[0].manifest.quarantined == 20


def test_a_second_run_makes_nothing(encode):
    first = encode()
    before = tree(first.store)
    again = encode()
    assert [f.fresh for f in again.features] == [0, 0]
    assert not again.planned
    assert tree(first.store) == before


def test_a_second_encoder_adds_only_its_feature(encode, tiny_vision):
    before = tree(encode(texts=[]).store)
    summary = encode(images=[f"again=hf:{tiny_vision}"], texts=[])
    after = tree(summary.store)
    assert {k: after[k] for k in before} == before
    assert {k.split("/")[1] for k in after.keys() - before.keys()} == {"again"}
    # The first image feature keeps the thumbnails for all.
    assert open_store(summary.store).header("vision").thumbnails == 128
    assert open_store(summary.store).header("again").thumbnails == 0


def test_an_interrupted_run_goes_on_where_it_was(encode):
    whole = tree(encode("whole").store)

    class StopError(Exception):
        pass

    def stop(at):
        if at.feature == "vision" and at.done >= 70:
            raise StopError

    with pytest.raises(StopError):
        encode("cut", on_progress=stop)
    summary = encode("cut")
    assert 0 < summary.features[0].fresh < 100
    assert tree(summary.store) == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, r"the plan differs .*\n.*seed: stored 0, now 1"),
        ({"limit": 50}, r"limit: stored None, now 50"),
        ({"policy": "float16"}, r"the feature differs .*\n.*policy: stored 'float32', now 'float16'"),
        ({"image_size": 35}, r"card\.processor\.size"),
        ({"shard_rows": 64}, r"shard_rows: stored 32, now 64"),
    ],
)
def test_another_command_for_the_same_store_is_refused(encode, change, words):
    before = tree(encode().store)
    with pytest.raises(MismatchError, match=words):
        encode(**change)
    assert tree(encode().store) == before


def test_a_changed_source_is_refused(encode, picture_folder):
    encode()
    captions = picture_folder / "captions.csv"
    captions.write_text(captions.read_text().replace("picture number 7,", "picture number seven,"))
    with pytest.raises(MismatchError, match=r"source_sha256: stored .*\n.*what to do: "):
        encode()


def test_another_encoder_under_the_same_name_is_refused(encode, tiny_vision, tmp_path):
    encode(texts=[])
    import torch
    import transformers

    other = tmp_path / "other"
    shutil.copytree(tiny_vision, other)
    model = transformers.Dinov2Model.from_pretrained(other)
    with torch.no_grad():
        model.layernorm.bias += 1
    model.save_pretrained(other)
    with pytest.raises(MismatchError, match=r"card\.weights_sha256: .*\n.*NAME=SPEC"):
        encode(images=[f"vision=hf:{other}"], texts=[])
    encode(images=[f"another=hf:{other}"], texts=[])


def test_numbers_that_float16_cannot_hold_name_row_and_policy(encode, tiny_vision, tmp_path):
    import torch
    import transformers

    loud = tmp_path / "loud"
    shutil.copytree(tiny_vision, loud)
    model = transformers.Dinov2Model.from_pretrained(loud)
    with torch.no_grad():
        model.layernorm.weight *= 1e6
    model.save_pretrained(loud)
    with pytest.raises(StorageValueError, match=r"row 0 of .*float16 cannot hold(.|\n)*float32"):
        encode(images=[f"loud=hf:{loud}"], texts=[], policy="float16")
    assert encode("wide", images=[f"loud=hf:{loud}"], texts=[]).features[0].fresh == 100


def test_two_encoders_of_one_name_are_refused(encode, tiny_vision, tiny_words):
    with pytest.raises(UsageError, match=r"two features share a name\n  found: x"):
        encode(images=[f"x=hf:{tiny_vision}"], texts=[f"x=hf:{tiny_words}"])


def test_cut_texts_are_counted(encode):
    assert encode(images=[], max_length=8).features[0].truncated > 100


def test_progress_counts_every_row_once(encode):
    seen = []
    encode(on_progress=seen.append)
    for name, total in (("vision", 100), ("words", 200)):
        done = [p.done for p in seen if p.feature == name]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, total)


def test_no_file_of_the_store_names_the_machine(encode, tmp_path):
    summary = encode()
    for name, data in tree(summary.store).items():
        assert str(tmp_path).encode() not in data, name


@pytest.mark.parametrize(
    ("option", "value"), [("max_failed", 2.0), ("batch_size", 0), ("limit", -1), ("policy", "int3")]
)
def test_options_out_of_range(option, value):
    with pytest.raises(UsageError, match=rf"--{option.replace('_', '-')}: .*\n  found: "):
        EncodeOptions(**{option: value})


def test_dry_run_predicts_bytes_and_writes_nothing(encode, picture_folder, tiny_vision, tiny_words, tmp_path):
    plan = dry_run_source(
        str(picture_folder),
        tmp_path / "store",
        image_encoders=[f"vision=hf:{tiny_vision}"],
        text_encoders=[f"words=hf:{tiny_words}"],
        options=EncodeOptions(batch_size=8, policy="float32", thumbnails=0),
    )
    assert not (tmp_path / "store").exists()
    made = encode(thumbnails=0)
    for predicted, feature in zip(plan.features, made.features, strict=True):
        assert predicted.missing == predicted.rows == feature.manifest.header.rows
        assert predicted.nbytes == pytest.approx(feature.manifest.nbytes, rel=0.05)
        assert predicted.rate > 0
    assert plan.features[0].nbytes == made.features[0].manifest.nbytes
    again = dry_run_source(
        str(picture_folder),
        tmp_path / "store",
        image_encoders=[f"vision=hf:{tiny_vision}"],
        options=EncodeOptions(batch_size=8, policy="float32", thumbnails=0),
    )
    assert (again.features[0].missing, again.missing_bytes) == (0, 0)


@pytest.mark.parametrize("policy", ["bfloat16", "fp8", "pool-2x2+merge-2", "merge-3+fp8", "cls+mean"])
def test_encoding_under_a_policy_is_encoding_and_recoding(encode, policy):
    plain, made = open_store(encode("plain").store), open_store(encode("made", policy=policy).store)
    for name in ("vision", "words"):
        recode_feature(plain.path, name, policy=policy, name="recoded-" + name)
    ours, theirs = made["vision"], plain["recoded-vision"]
    assert ours.header.arrays == theirs.header.arrays
    for array in ours.arrays:
        found, wanted = (f.read(array, 0, f.rows) for f in (ours, theirs))
        np.testing.assert_array_equal(found, wanted, err_msg=array)
    np.testing.assert_array_equal(
        made["words"].decoded_text(slice(None)).tokens,
        plain["recoded-words"].decoded_text(slice(None)).tokens,
    )
    assert verify_store(made.path).sound
