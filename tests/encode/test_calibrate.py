"""Encoding under policies that learn: a sample is encoded first, what it teaches is committed once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedstore.encode import EncodeOptions, dry_run_source, encode_source, recode_feature
from embedstore.errors import MismatchError, StorageValueError, TooManyFailedError
from embedstore.policies import parse_policy
from embedstore.store import open_store, verify_store
from embedstore.store.coding import calibration
from embedstore.store.failpoints import listening

ROWS = 100
POLICIES = ["int8", "pca-8", "pq-8", "merge-4+int8", "pool-2x2+pca-8+int8", "merge-4+pca-8+pq-4+int8"]


@pytest.fixture(autouse=True)
def _quick_flush(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def tree(store):
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


@pytest.fixture
def encode(picture_folder, tiny_vision, tiny_words, tmp_path):
    def run(name="store", *, source=picture_folder, images=True, texts=True, dry=False, **options):
        progress = {} if dry else {"on_progress": options.pop("on_progress", None)}
        return (dry_run_source if dry else encode_source)(
            str(source),
            tmp_path / name,
            image_encoders=[f"vision=hf:{tiny_vision}"] if images else [],
            text_encoders=[f"words=hf:{tiny_words}"] if texts else [],
            options=EncodeOptions(**{"batch_size": 8, "policy": "int8", **options}),
            append=options.pop("append", None),
            **progress,
        )

    return run


@pytest.mark.parametrize("policy", POLICIES)
def test_encoding_is_encoding_every_number_and_recoding(encode, policy):
    exact = open_store(encode("exact", policy="float32").store)
    made = open_store(encode("made", policy=policy).store)
    for name in ("vision", "words"):
        recode_feature(exact.path, name, policy=policy, name="recoded-" + name)
    ours, theirs = made["vision"], exact["recoded-vision"]
    assert ours.header.policy == policy
    assert ours.header.arrays == theirs.header.arrays
    assert ours.coder.learnt.keys() == theirs.coder.learnt.keys()
    # All hundred rows are the sample, and they are batched as in the units: everything is equal to the bit.
    for name, values in ours.coder.learnt.items():
        np.testing.assert_array_equal(values, theirs.coder.learnt[name], err_msg=name)
    for array in ours.arrays:
        found, wanted = (f.read(array, 0, f.rows) for f in (ours, theirs))
        np.testing.assert_array_equal(found, wanted, err_msg=array)
    # Texts are batched by length over the whole sample there and over a unit here.
    ours, theirs = made["words"], exact["recoded-words"]
    assert (ours.header.calibration_sha256 is None) == (not parse_policy(ours.header.policy).learns)
    for name, values in ours.coder.learnt.items():
        np.testing.assert_allclose(values, theirs.coder.learnt[name], rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(
        ours.decoded_text(slice(None)).tokens, theirs.decoded_text(slice(None)).tokens, atol=0.05
    )
    assert verify_store(made.path).sound


def test_it_decodes_as_a_recoded_float16_does(encode):
    plain, made = open_store(encode("plain", policy="float16").store), open_store(encode("made").store)
    exact = open_store(encode("exact", policy="float32").store)
    rows = np.arange(ROWS)
    for name in ("vision", "words"):
        recode_feature(plain.path, name, policy="int8", name="eight-" + name)
        for store, feature in ((plain, "eight-" + name), (made, name)):
            got, true = store[feature], exact[name]
            if name == "words":
                found, wanted = got.decoded_text(rows).tokens, true.decoded_text(rows).tokens
                scales = got.text_tokens(rows, "scales").tokens
            else:
                found, wanted = got.decoded("tokens", rows), true.decoded("tokens", rows)
                scales = got.gather("scales", rows)
            bound = 0.5 * scales[..., None] * got.coder.learnt["tokens.deviation"]
            assert (np.abs(found - wanted) <= bound * 1.001 + np.abs(wanted) / 2**10 + 1e-5).all()


def test_a_second_run_encodes_no_row_again(encode):
    first = encode(policy="merge-4+pca-8+int8")
    assert [f.sampled for f in first.features] == [ROWS, 2 * ROWS]
    assert first.features[0].to_dict()["calibration_rows"] == ROWS
    before = tree(first.store)
    again = encode(policy="merge-4+pca-8+int8")
    assert [(f.sampled, f.fresh) for f in again.features] == [(0, 0), (0, 0)]
    assert tree(first.store) == before
    with pytest.raises(MismatchError, match=r"policy: stored 'merge-4\+pca-8\+int8', now 'int8'"):
        encode(texts=False)
    with pytest.raises(MismatchError, match=r"policy: stored 'merge-4\+pca-8\+int8', now 'float16'"):
        encode(texts=False, policy="float16")
    assert tree(first.store) == before


def test_what_was_learnt_comes_back_when_its_file_is_lost(encode):
    store = encode(texts=False).store
    before = tree(store)
    (store / "features" / "vision" / "calibration.safetensors").unlink()
    assert not verify_store(store).sound
    encode(texts=False)
    assert tree(store) == before


def test_broken_pictures_teach_nothing(encode, picture_folder):
    for k in (3, 20, 41, 77, 90):
        sorted(picture_folder.rglob("*.png"))[k].write_bytes(b"not a picture")
    exact = open_store(encode("exact", texts=False, policy="float32").store)["vision"]
    made = open_store(encode("made", texts=False, policy="merge-2+int8").store)
    assert made["vision"].manifest.quarantined == 5
    good = np.flatnonzero(exact.status() == 0)
    arrays = {name: exact.decoded(name, good) for name in ("tokens", "prefix", "pooled")}
    wanted = calibration.learn_from(parse_policy("merge-2+int8"), [arrays], grid=(4, 4))
    for name, values in made["vision"].coder.learnt.items():
        np.testing.assert_allclose(values, wanted[name], rtol=1e-4, atol=1e-6, err_msg=name)
    lost = np.isnan(made["vision"].decoded("tokens", range(ROWS))).all(axis=(1, 2))
    assert lost.sum() == 5
    assert verify_store(made.path).sound


def test_a_sample_with_too_many_broken_pictures_stops_before_any_unit(encode, picture_folder, tmp_path):
    for path in sorted(picture_folder.rglob("*.png"))[:30]:
        path.write_bytes(b"")
    with pytest.raises(TooManyFailedError, match=r"of 100 rows quarantined\n  allowed: 10 rows"):
        encode(texts=False)
    assert open_store(tmp_path / "store").features() == ()
    assert encode(texts=False, max_failed=0.5).features[0].manifest.quarantined == 30
    for path in sorted(picture_folder.rglob("*.png")):
        path.write_bytes(b"")
    with pytest.raises(StorageValueError, match="no good rows to learn the policy from"):
        encode("none", texts=False, max_failed=1.0)


@pytest.mark.parametrize(
    ("policy", "limit", "words"),
    [
        ("pq-4", 15, r"too few tokens to learn pq-4 from\n  found: 240\n  allowed: 256 or more\n.*int8"),
        ("cls+mean+pca-20", 19, r"learn cls\+mean\+pca-20 from\n  found: 19\n  allowed: 20 or more"),
    ],
)
def test_too_few_tokens_are_named_before_anything_is_encoded(encode, tmp_path, policy, limit, words):
    with pytest.raises(StorageValueError, match=words):
        encode(dry=True, texts=False, policy=policy, limit=limit)
    with pytest.raises(StorageValueError, match=words):
        encode(texts=False, policy=policy, limit=limit)
    # Nothing is left that more rows would not fit.
    assert not (tmp_path / "store").exists()
    assert encode(texts=False, policy=policy, limit=limit + 1).features[0].sampled == limit + 1


def test_the_dry_run_says_what_calibration_costs(encode):
    plan = encode(dry=True, policy="merge-4+int8")
    assert [f.calibration_rows for f in plan.features] == [ROWS, 2 * ROWS]
    for f in plan.features:
        # Every row twice, after what the first batch takes longer than others.
        assert f.seconds >= 2 * f.rows / f.rate * (1 - 1e-9)
    assert [f.calibration_rows for f in encode(dry=True, policy="fp8").features] == [0, 0]
    made = encode(policy="merge-4+int8", thumbnails=0)
    again = encode(dry=True, policy="merge-4+int8", thumbnails=0)
    for predicted, feature in zip(again.features, made.features, strict=True):
        assert (predicted.missing, predicted.calibration_rows) == (0, 0)
        assert predicted.nbytes == pytest.approx(feature.manifest.nbytes, rel=0.05)


def test_progress_tells_the_sample_apart(encode):
    seen = []
    encode(on_progress=seen.append)
    for name, total in (("vision", ROWS), ("words", 2 * ROWS)):
        for step in ("calibrate", "encode"):
            done = [p.done for p in seen if (p.feature, p.step) == (name, step)]
            assert done == sorted(done)
            assert (done[0], done[-1]) == (0, total)
    steps = [p.step for p in seen]
    assert steps == sorted(steps)


def test_stopped_anywhere_about_the_calibration_it_comes_out_byte_identical(encode, tmp_path):
    wanted = tree(encode("whole", policy="pca-8+int8", thumbnails=0, limit=40).store)
    stops = [
        f"{when} {step} {where}"
        for when in ("before", "after")
        for step in ("write", "link", "unlink")
        for where in ("features/vision/calibration", "features/words/calibration", "features/vision/header")
    ]
    for k, stop in enumerate(stops):

        def hook(name, stop=stop):
            if name.startswith(stop):
                raise KeyboardInterrupt

        with listening(hook), pytest.raises(KeyboardInterrupt):
            encode(f"stopped-{k}", policy="pca-8+int8", thumbnails=0, limit=40)
        encode(f"stopped-{k}", policy="pca-8+int8", thumbnails=0, limit=40)
        assert tree(tmp_path / f"stopped-{k}") == wanted, stop


ENCODE = """
import os, signal, sys
from pathlib import Path
from embedstore.encode import EncodeOptions, encode_source
from embedstore.store.failpoints import listening

source, store, vision, words, stop = sys.argv[1:]
def hook(name):
    if name.startswith(stop):
        os.kill(os.getpid(), signal.SIGKILL)
with listening(hook):
    encode_source(source, Path(store), image_encoders=["vision=hf:" + vision],
                  text_encoders=["words=hf:" + words],
                  options=EncodeOptions(batch_size=8, policy="merge-4+pq-4+int8"))
"""


@pytest.mark.slow
def test_processes_that_are_killed_beside_others_agree(
    encode, picture_folder, tiny_vision, tiny_words, tmp_path
):
    wanted = tree(encode("alone", policy="merge-4+pq-4+int8").store)
    store = tmp_path / "shared"
    places = [str(p) for p in (picture_folder, store, tiny_vision, tiny_words)]
    stops = ["after link features/vision/calibration", "before link features/vision/header", "never"]
    processes = [subprocess.Popen([sys.executable, "-c", ENCODE, *places, stop]) for stop in stops]
    codes = [p.wait() for p in processes]
    assert codes[2] == 0
    assert set(codes) <= {0, -9}
    assert tree(store) == wanted


def test_new_rows_follow_what_the_first_learnt(encode, picture_folder, tmp_path):
    from PIL import Image

    first = encode(texts=False, policy="merge-4+int8").store
    more = tmp_path / "more"
    more.mkdir()
    noise = np.random.default_rng(9).integers(0, 256, (5, 30, 40, 3), np.uint8)
    for k, pixels in enumerate(noise):
        Image.fromarray(pixels).save(more / f"new{k}.png")
    options = EncodeOptions(batch_size=8, policy="merge-4+int8")
    summary = encode_source(str(more), tmp_path / "B", append=first, options=options)
    assert [f.sampled for f in summary.features] == [0]
    both = open_store(f"{first}+{tmp_path / 'B'}")
    assert both["vision"].rows == ROWS + 5
    learnt = [Path(s) / "features/vision/calibration.safetensors" for s in (first, tmp_path / "B")]
    assert learnt[0].read_bytes() == learnt[1].read_bytes()
    assert verify_store(both.path).findings == ()
    # The second store goes on by itself too: its header says what it has learnt.
    again = encode("B", source=more, texts=False, policy="merge-4+int8")
    assert [(f.sampled, f.fresh) for f in again.features] == [(0, 0)]
