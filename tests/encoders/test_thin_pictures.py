"""A picture that the processor would blow up is refused with a reason, and quarantined by encode."""

import pytest
from PIL import Image

from embedstore.encode import EncodeOptions, encode_source
from embedstore.encoders import load_image_encoder
from embedstore.errors import UnreadableImage
from embedstore.store.info import store_info


def test_a_line_one_pixel_high_is_refused(tiny_vision):
    encoder = load_image_encoder(f"hf:{tiny_vision}")
    for size in ((60000, 1), (1, 60000)):
        with pytest.raises(UnreadableImage, match=r"too thin: .* allowed 33554432"):
            encoder.prepare(Image.new("RGB", size))


def test_a_panorama_is_not(tiny_vision):
    pixels = load_image_encoder(f"hf:{tiny_vision}").prepare(Image.new("RGB", (4000, 40)))
    assert pixels.shape == (3, 28, 28)


def test_encode_quarantines_it(picture_folder, tiny_vision, tmp_path):
    Image.new("RGB", (60000, 1)).save(picture_folder / "class0" / "000.png")
    encode_source(
        str(picture_folder),
        tmp_path / "store",
        image_encoders=[f"vision=hf:{tiny_vision}"],
        options=EncodeOptions(limit=100),
    )
    ((reason, count),) = store_info(tmp_path / "store").features[0].quarantined.items()
    assert reason.startswith("too thin: 60000×1 pixels")
    assert count == 1
