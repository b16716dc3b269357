"""What a dry run foretells, and that it leaves nothing behind."""

import pytest

from embedstore.encode import EncodeOptions, dry_run_source, encode_source, probe


@pytest.fixture
def call(picture_folder, tiny_vision, tiny_words, tmp_path):
    """Arguments of both calls, and the folder that the store would stand in."""
    (tmp_path / "stores").mkdir()
    encoders = {"image_encoders": [f"v=hf:{tiny_vision}"], "text_encoders": [f"w=hf:{tiny_words}"]}
    options = EncodeOptions(batch_size=8, device="cpu", shard_rows=16)
    return (str(picture_folder), tmp_path / "stores" / "s"), {**encoders, "options": options}


def test_bytes_of_texts_are_exact_where_all_of_them_are_counted(call, monkeypatch):
    monkeypatch.setattr(probe, "COUNTED_TEXTS", 30)
    where, how = call
    sampled, counted = (dry_run_source(*where, tokenize_all=every, **how) for every in (False, True))
    assert not list(where[1].parent.iterdir())
    made = encode_source(*where, **how)
    images, texts = (f.manifest.nbytes for f in made.features)
    assert [f.exact for f in sampled.features] == [False, False]  # thumbnails are from a sample always
    assert [f.exact for f in counted.features] == [False, True]
    assert counted.features[1].nbytes == counted.features[1].missing_nbytes == texts
    assert sampled.features[1].nbytes == pytest.approx(texts, rel=0.1)
    assert counted.features[0].nbytes == pytest.approx(images, rel=0.1)
    assert counted.missing_bytes == sum(f.missing_nbytes for f in counted.features)


def test_what_is_stored_already_is_not_foretold(call):
    where, how = call
    made = encode_source(*where, **how)
    plan = dry_run_source(*where, **how)
    assert (plan.missing_bytes, plan.seconds) == (0, plan.setup_seconds)
    assert [f.nbytes for f in plan.features] == [f.manifest.nbytes for f in made.features]
    assert all(f.exact and f.rate == 0 for f in plan.features)


def test_the_missing_units_alone_are_counted(call):
    where, how = call

    class StopError(Exception):
        pass

    def stop(at):
        if at.feature == "v" and at.fresh >= 64:
            raise StopError

    with pytest.raises(StopError):
        encode_source(*where, on_progress=stop, **how)
    plan = dry_run_source(*where, **how)
    image = plan.features[0]
    assert 0 < image.missing < image.rows == 100
    assert image.missing_nbytes == pytest.approx(image.nbytes * image.missing / image.rows, rel=0.05)


def test_a_single_batch_is_timed_once_it_is_warm(call):
    where, how = call
    plan = dry_run_source(*where, **how | {"options": EncodeOptions(limit=3, device="cpu")})
    assert all(f.rate > 0 and f.rows <= 6 for f in plan.features)
    assert plan.seconds > plan.setup_seconds > 0


def test_a_folder_that_cannot_be_written_to_is_probed_without_the_disk(call, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(probe.tempfile, "TemporaryDirectory", refuse)
    where, how = call
    assert all(f.rate > 0 for f in dry_run_source(*where, **how).features)
