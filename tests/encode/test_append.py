"""`--append`: a second store that reads as one with the first, made by the same encoders."""

import shutil

import numpy as np
import pytest
from PIL import Image

from embedstore.encode import EncodeOptions, dry_run_source, encode_source
from embedstore.encode.recode import recode_feature
from embedstore.errors import EncoderError, MismatchError, UsageError
from embedstore.store import open_store, verify_store


def source(root, names, captions=True):
    """A folder of pictures with a table of captions."""
    root.mkdir()
    rng = np.random.default_rng(len(names))
    lines = ["image,caption,split" if captions else "image,split"]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (36, 40, 3), np.uint8)).save(root / name)
        lines.append(f"{name},words of {name},train" if captions else f"{name},test")
    (root / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(root / "captions.csv")


@pytest.fixture
def first(tmp_path, tiny_vision, tiny_words):
    """A store of twenty pictures and its source."""
    rows = source(tmp_path / "one", [f"a{i}.png" for i in range(20)])
    encode_source(
        rows,
        tmp_path / "A",
        image_encoders=[f"vision=hf:{tiny_vision}"],
        text_encoders=[f"words=hf:{tiny_words}"],
        options=EncodeOptions(policy="float32", max_length=20, image_size=28, thumbnails=16),
    )
    return tmp_path / "A"


@pytest.fixture
def more(tmp_path):
    """The source of new rows."""
    return source(tmp_path / "two", [f"b{i}.png" for i in range(9)])


def test_new_rows_are_made_as_the_old_ones_and_read_with_them(first, more, tmp_path):
    before = {p: p.read_bytes() for p in first.rglob("*") if p.is_file()}
    summary = encode_source(more, tmp_path / "B", append=first)
    assert [f.name for f in summary.features] == ["vision", "words"]
    assert before == {p: p.read_bytes() for p in first.rglob("*") if p.is_file()}
    both = open_store(f"{first}+{tmp_path / 'B'}")
    assert (both.plan.images, both.plan.texts) == (29, 29)
    assert both.header("vision").policy == "float32"
    assert both.header("words").card.tokenizer.max_length == 20
    assert all(small is not None for small in both.thumbnails(range(29)))
    row = int(both.rows_of([both.images(["id"])["id"][25].as_py()])[0])
    assert row == 25
    np.testing.assert_array_equal(
        both["vision"].read("tokens", 20, 29), open_store(tmp_path / "B")["vision"].read("tokens", 0, 9)
    )
    assert verify_store(both.path).findings == ()


def test_running_it_again_makes_nothing(first, more, tmp_path):
    encode_source(more, tmp_path / "B", append=first)
    again = encode_source(more, tmp_path / "B", append=first)
    assert [f.fresh for f in again.features] == [0, 0]
    dry = dry_run_source(more, tmp_path / "B", append=first)
    assert dry.missing_bytes == 0


def test_ids_that_are_there_already_are_refused_before_anything_is_written(first, tmp_path):
    rows = source(tmp_path / "two", ["new.png", "a3.png", "a7.png"])
    with pytest.raises(
        MismatchError, match=r"(?s)2 of 3 ids of the table 'images' are in the store already.*a"
    ):
        encode_source(rows, tmp_path / "B", append=first)
    assert not (tmp_path / "B").exists()
    with pytest.raises(MismatchError, match="are in the store already"):
        dry_run_source(rows, tmp_path / "B", append=first)


def test_a_third_part_knows_both(first, more, tmp_path):
    encode_source(more, tmp_path / "B", append=first)
    rows = source(tmp_path / "three", ["b1.png", "c1.png"])
    joined = f"{first}+{tmp_path / 'B'}"
    with pytest.raises(MismatchError, match=r"(?s)1 of 2 ids of the table 'images'"):
        encode_source(rows, tmp_path / "C", append=joined)
    encode_source(source(tmp_path / "four", ["c1.png"]), tmp_path / "C", append=joined)
    assert open_store(f"{joined}+{tmp_path / 'C'}").plan.images == 30
    with pytest.raises(UsageError, match=r"(?s)cannot be appended to itself.*--append"):
        encode_source(more, tmp_path / "B", append=joined)


def test_another_encoder_option_or_name_is_refused(first, more, tmp_path, tiny_vision, tiny_words):
    other = tmp_path / "other"
    shutil.copytree(tiny_vision, other)
    processor = (other / "preprocessor_config.json").read_text().replace('"resample": 3', '"resample": 2')
    (other / "preprocessor_config.json").write_text(processor)

    def append(**arguments):
        encode_source(more, tmp_path / "B", append=first, **arguments)

    with pytest.raises(EncoderError, match=r"(?s)not the encoder that made the feature.*interpolation"):
        append(image_encoders=[f"vision=hf:{other}"])
    with pytest.raises(UsageError, match=r"(?s)no feature 'tiny-dino' to continue.*vision, words.*NAME=SPEC"):
        append(image_encoders=[f"tiny-dino=hf:{tiny_vision}"])
    with pytest.raises(UsageError, match=r"(?s)--max-length cannot be chosen.*follows"):
        append(options=EncodeOptions(max_length=10))
    with pytest.raises(UsageError, match=r"(?s)feature .vision.: --policy cannot be chosen.*float32"):
        append(options=EncodeOptions(policy="bfloat16"))
    assert not any((tmp_path / "B" / "features").glob("*/header.json"))
    append(image_encoders=[f"vision=hf:{tiny_vision}"])
    assert open_store(tmp_path / "B").features() == ("vision",)
    with pytest.raises(Exception, match="no feature 'words'"):
        open_store(f"{first}+{tmp_path / 'B'}")["words"]


def test_rows_without_captions_continue_the_image_feature_alone(first, tmp_path):
    rows = source(tmp_path / "two", ["b1.png", "b2.png"], captions=False)
    summary = encode_source(rows, tmp_path / "B", append=first)
    assert [f.name for f in summary.features] == ["vision"]
    both = open_store(f"{first}+{tmp_path / 'B'}")
    assert both["words"].rows == 20
    assert both["vision"].rows == 22


def test_what_a_policy_has_learnt_is_shared(first, more, tmp_path):
    recode_feature(first, "vision", policy="int8", name="small")
    encode_source(more, tmp_path / "B", append=first)
    both = open_store(f"{first}+{tmp_path / 'B'}")
    assert both.features() == ("small", "vision", "words")
    rows = np.arange(29)
    exact, small = both["vision"].decoded("tokens", rows), both["small"].decoded("tokens", rows)
    assert np.abs(exact - small).max() < 0.1 * np.abs(exact).max()
    cosine = (exact * small).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(small, axis=-1)
    assert cosine.min() > 0.999
    assert verify_store(both.path).findings == ()
