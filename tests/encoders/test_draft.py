"""JPEG pictures decoded at a part of their size: off by default, in the card where it is on."""

import io

import numpy as np
import pytest
from PIL import Image

from embedstore.encode import EncodeOptions, encode_source
from embedstore.encoders import encoder_for_card, load_image_encoder
from embedstore.encoders.draft import draft_edge
from embedstore.errors import UsageError
from embedstore.sources.reading.pictures import BytesPicture, SmallPicture, decoded_small, open_picture
from embedstore.store import open_store


def photograph(size=(1040, 780), **options):
    """A JPEG of soft colours with some grain."""
    drawn = np.random.default_rng(0)
    soft = Image.fromarray(drawn.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size)
    grain = drawn.integers(-12, 13, (size[1], size[0], 1))
    out = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8)).save(out, "JPEG", **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("least", "size"),
    [(0, (1040, 780)), (781, (1040, 780)), (390, (520, 390)), (300, (520, 390)), (28, (130, 98))],
)
def test_no_side_is_smaller_than_asked_for(least, size):
    with decoded_small(least):
        assert open_picture(photograph()).size == size
    assert open_picture(photograph()).size == (1040, 780)


def test_an_orientation_is_applied_and_other_formats_are_whole():
    turned = Image.Exif()
    turned[0x0112] = 6
    assert SmallPicture(BytesPicture(photograph(exif=turned), "p"), 300).open().size == (390, 520)
    png = io.BytesIO()
    Image.new("RGB", (800, 800)).save(png, "PNG")
    small = SmallPicture(BytesPicture(png.getvalue(), "p.png"), 100)
    assert small.open().size == (800, 800)
    assert (small.ref, small.nbytes) == ("p.png", len(png.getvalue()))


def test_the_card_says_it_and_the_features_are_of_the_smaller_picture(tiny_vision, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(photograph())
    plain = load_image_encoder(f"hf:{tiny_vision}", device="cpu")
    drafted = load_image_encoder(f"hf:{tiny_vision}?draft=120", device="cpu")
    assert (draft_edge(plain.card), draft_edge(drafted.card)) == (0, 120)
    assert drafted.card.processor.resize == f"jpeg-draft=120,{plain.card.processor.resize}"
    assert drafted.card.fingerprint != plain.card.fingerprint
    made = encode_source(
        str(tmp_path / "pictures"),
        tmp_path / "store",
        image_encoders=[f"v=hf:{tiny_vision}?draft=120"],
        options=EncodeOptions(policy="float32", device="cpu", thumbnails=0),
    )
    feature = open_store(made.store)["v"]
    with decoded_small(120):
        pixels = drafted.prepare(open_picture(photograph()))
    np.testing.assert_allclose(feature.read("tokens", 0, 1), drafted.encode([pixels]).tokens, rtol=1e-5)
    # The tolerance that docs/encoders.md states is of photographs; this one is soft.
    assert np.abs(pixels - plain.prepare(open_picture(photograph()))).mean() < 0.05
    again = encoder_for_card(feature.card, device="cpu")
    assert again.card.fingerprint == feature.card.fingerprint


def test_pictures_are_not_enlarged(tiny_vision):
    with pytest.raises(UsageError, match="enlarged"):
        load_image_encoder(f"hf:{tiny_vision}?draft=20", device="cpu")
