from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from embedstore.encoders import cards_of, encode_all, encoder_for_card, load_image_encoder
from embedstore.encoders.views import View, ViewedImages, ViewPreparation, parse_views, view_of
from embedstore.errors import EncoderError, UnknownNameError, UsageError
from embedstore.model import refuse_other_card
from embedstore.testing.encoders import assert_vectors_agree

NOISE = np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8)
KIND = "random-resized-crop?scale=0.3,0.9&flip=0.5"


@pytest.fixture(scope="module")
def plain(tiny_vision):
    return load_image_encoder(f"hf:{tiny_vision}", device="cpu")


@pytest.fixture
def picture():
    return Image.fromarray(NOISE)


def view(**changes):
    values = {"scale": (0.08, 1.0), "ratio": (0.75, 1.33333), "flip": 0.5, "seed": 7, "number": 1}
    return View(**{**values, **changes})


def test_the_same_numbers_are_drawn_for_ever():
    """Stores name views by seed and number, so these may never change."""
    assert view().box((120, 90), "a.jpg") == ((41, 17, 98, 66), False)
    assert view(number=2).box((120, 90), "a.jpg") == ((12, 20, 86, 88), True)
    assert view(seed=8).box((120, 90), "a.jpg") == ((67, 40, 102, 76), True)


@given(
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    row_id=st.text(max_size=30),
    number=st.integers(1, 99),
)
def test_a_crop_lies_inside_the_picture(width, height, row_id, number):
    (left, top, right, bottom), _ = view(number=number).box((width, height), row_id)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_crops_have_the_areas_and_shapes_asked_for():
    found = [view(scale=(0.2, 0.6), ratio=(0.5, 2.0)).box((400, 300), str(i)) for i in range(2000)]
    sizes = np.array([(right - left, bottom - top) for (left, top, right, bottom), _ in found])
    area, shape = sizes.prod(1) / 120_000, sizes[:, 0] / sizes[:, 1]
    assert 0.195 < area.min() < 0.21
    assert 0.55 < area.max() < 0.605
    assert (shape.min(), shape.max()) == pytest.approx((0.5, 2.0), rel=0.03)
    assert 0.46 < np.mean([mirrored for _, mirrored in found]) < 0.54


def test_a_shape_that_never_fits_is_taken_from_the_middle():
    assert view().box((1000, 10), "x")[0] == (493, 0, 506, 10)
    assert view().box((10, 1000), "x")[0] == (0, 493, 10, 506)


def test_pixels_are_the_crop_resized_and_normalised(plain, picture):
    """Against Pillow and NumPy alone."""
    card = plain.card.processor
    (one,) = parse_views(KIND, count=1, seed=7)
    pixels = ViewPreparation(plain.preparation, card, [one]).of_row(picture, "id")[0]
    box, mirrored = one.box(picture.size, "id")
    crop = np.asarray(picture.resize((28, 28), Image.Resampling.BICUBIC, box=box))
    crop = crop[:, ::-1] if mirrored else crop
    expected = (crop.astype(np.float64) / 255 - card.mean) / card.std
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, expected.transpose(2, 0, 1), atol=1e-5)


def test_a_whole_picture_that_fits_is_what_the_processor_makes(tmp_path, picture):
    """Normalised as the processor does it: the view of everything is the picture."""
    import transformers

    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size, resample=3).save_pretrained(tmp_path)
    encoder = load_image_encoder(f"hf:{tmp_path}?backend=pil", device="cpu")
    whole = view(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    square = picture.crop((0, 0, 90, 90))
    made = ViewPreparation(encoder.preparation, encoder.card.processor, [whole]).of_row(square, "x")[0]
    np.testing.assert_allclose(made, encoder.prepare(square), atol=1e-6)


def test_views_go_to_other_processes_as_they_are(plain, picture):
    made = ViewPreparation(
        plain.preparation, plain.card.processor, [None, *parse_views(KIND, count=2, seed=7)]
    )
    sent = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own bytes
    pixels = made.of_row(picture, "id")
    assert pixels.shape == (3, 3, 28, 28)
    assert np.array_equal(sent.of_row(picture, "id"), pixels)
    assert np.array_equal(pixels[0], plain.prepare(picture))
    assert not np.array_equal(made.of_row(picture, "other")[1:], pixels[1:])


def test_a_viewed_encoder_is_the_plain_one_elsewhere(plain, picture):
    encoder = ViewedImages(plain, [(one, 0) for one in parse_views(KIND, count=2, seed=7)])
    pixels = encoder.prepare(picture)
    assert np.array_equal(pixels, plain.prepare(picture))
    assert encoder.encode([pixels]).tokens.equal(plain.encode([pixels]).tokens)
    rows = [encoder.prepare.of_row(picture, f"{i}") for i in range(3)]
    one, two = encode_all(encoder, rows)
    for k, batch in enumerate((one, two)):
        assert_vectors_agree(batch.tokens, plain.encode([row[k] for row in rows]).tokens)


def test_the_card_names_the_view_and_gives_it_again(tiny_vision, plain, own_home):
    views = parse_views(KIND, count=3, seed=7)
    made = ViewedImages(plain, [(views[2], 0)]).card
    assert made.view.kind == "random-resized-crop?scale=0.3,0.9&ratio=0.75,1.33333&flip=0.5"
    assert (made.view.seed, made.view.number) == (7, 3)
    assert view_of(made) == views[2]
    assert made.identity != plain.card.identity
    assert made.plain == plain.card
    assert "view" not in plain.card.model_dump(mode="json")
    again = encoder_for_card(made, f"hf:{tiny_vision}", device="cpu")
    assert cards_of(again) == (made,)
    assert encoder_for_card(made, device="cpu").card == made


@pytest.mark.parametrize("text", ["random-resized-crop", KIND, "random-resized-crop?ratio=0.3333333,3"])
def test_what_a_card_says_is_what_is_done(text):
    for one in parse_views(text, count=2, seed=1):
        (again, *_) = parse_views(one.card.kind, count=1, seed=1)
        assert (again.scale, again.ratio, again.flip) == (one.scale, one.ratio, one.flip)


def test_a_head_of_views_is_for_the_pictures_themselves(plain):
    viewed = ViewedImages(plain, [(view(), 0)]).card
    refuse_other_card(viewed, plain.card, where="head")
    refuse_other_card(plain.card, viewed, where="head")


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("center-crop", UnknownNameError, r"'center-crop'(.|\n)*random-resized-crop"),
        ("random-resized-crop?size=3", UsageError, r"unknown option 'size'(.|\n)*scale, ratio, flip"),
        ("random-resized-crop?scale=0.5", UsageError, r"bad scale(.|\n)*LOW,HIGH"),
        ("random-resized-crop?scale=0,1", UsageError, r"bad scale(.|\n)*not 0"),
        ("random-resized-crop?scale=0.9,0.1", UsageError, "bad scale"),
        ("random-resized-crop?scale=0.1,1.5", UsageError, "bad scale(.|\n)*at most 1"),
        ("random-resized-crop?flip=nan", UsageError, "bad flip(.|\n)*one number"),
    ],
)
def test_a_view_that_cannot_be_meant_is_refused(text, error, words):
    with pytest.raises(error, match=words):
        parse_views(text, count=1, seed=0)


def test_an_interpolation_that_pillow_lacks_is_refused(plain):
    processor = plain.card.processor.model_copy(update={"interpolation": "spline+antialias"})
    with pytest.raises(EncoderError, match=r"spline(.|\n)*bicubic"):
        ViewPreparation(plain.preparation, processor, [view()])
