"""Contract tests that every encoder must pass: subclass, override `encoder` and `direct`, run pytest.

    class TestMine(ImageEncoderContract):
        @pytest.fixture
        def encoder(self, loaded): return loaded            # load once, in a fixture of the module

        @pytest.fixture
        def direct(self): return run_the_library_itself

`direct` takes what a user has (pictures or texts), never what `prepare` made of it.
"""

# ruff: noqa: S101 - asserting is what this module is for

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
from PIL import Image

from embedstore.documents import EncoderCard
from embedstore.encoders.base import ImageEncoder, TextEncoder, cards_of, encode_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedstore.shapes import FloatArray

# hidden (b, p + t, d): CLS, registers and patches in the model's own order; pooled (b, w)
DirectImages: TypeAlias = "Callable[[list[Image.Image]], tuple[FloatArray, FloatArray]]"
# tokens (l, d) of each text, real tokens only; pooled (b, w)
DirectTexts: TypeAlias = "Callable[[list[str]], tuple[list[FloatArray], FloatArray]]"

RELATIVE = 1e-5
COSINE = 0.9999

SENTENCES = (
    "a dog runs on the beach",
    "",
    "two red cubes stand left of a small green ball on the wooden table near the window",
    "ein Mädchen läuft",
    "zero\0byte",
    "dog " * 600,
)
LONE_SURROGATE = "half a pair \ud83d of surrogates"


def sample_pictures() -> list[Image.Image]:
    """Noise, a gradient and a plain colour, RGB, wide, tall and tiny."""
    rng = np.random.default_rng(7)
    noise = rng.integers(0, 256, (61, 97, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, 120 * 50 * 3).reshape(120, 50, 3).astype(np.uint8)
    plain = np.full((9, 9, 3), (200, 30, 90), dtype=np.uint8)
    return [Image.fromarray(array) for array in (noise, ramp, plain, noise[::-1, ::2].copy())]


def assert_vectors_agree(ours: Any, theirs: Any) -> None:
    """Every vector along the last axis: relative difference at most 1e-5, cosine at least 0.9999."""
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert a.shape == b.shape, f"shapes differ: {a.shape} and {b.shape}"
    norm = np.linalg.norm(b, axis=-1)
    worst = float((np.linalg.norm(a - b, axis=-1) / norm).max())
    cosine = float(((a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * norm)).min())
    assert worst <= RELATIVE, f"relative difference {worst:.3g}"
    assert cosine >= COSINE, f"cosine {cosine:.6f}"


class EncoderContract:
    """What holds for images and texts alike."""

    def test_the_card_survives_json_and_holds_no_path(self, encoder: ImageEncoder | TextEncoder) -> None:
        """A card is the identity of a feature on any machine."""
        card = encoder.card
        assert EncoderCard.from_json(card.to_json(), where="card") == card
        for text in _strings(card.model_dump(mode="json")):
            assert not Path(text).is_absolute(), f"a path in the card: {text}"
            assert str(Path.home()) not in text, f"a path in the card: {text}"

    def test_the_card_names_the_versions_that_ran_it(self, encoder: ImageEncoder | TextEncoder) -> None:
        """At least the library of the card is among them."""
        assert encoder.card.library in encoder.card.versions


class ImageEncoderContract(EncoderContract):
    """What every image encoder must hold; see the module's docstring."""

    @pytest.fixture
    def encoder(self) -> ImageEncoder:
        """The encoder under test, computing in float32."""
        raise NotImplementedError("override the fixture `encoder`")

    @pytest.fixture
    def direct(self) -> DirectImages:
        """A run of the same model with its library alone."""
        raise NotImplementedError("override the fixture `direct`")

    def test_follows_the_protocol(self, encoder: ImageEncoder) -> None:
        """The members are there."""
        assert isinstance(encoder, ImageEncoder)
        assert encoder.card.modality == "image"

    def test_pixels_are_what_the_card_says(self, encoder: ImageEncoder) -> None:
        """`(3, h, w)` float32 of the size in the processor's card, whatever the picture's shape."""
        processor = encoder.card.processor
        assert processor is not None
        for picture in sample_pictures():
            pixels = encoder.prepare(picture)
            assert pixels.shape == (3, *processor.size)
            assert pixels.dtype == np.float32

    def test_shapes_are_what_the_card_says(self, encoder: ImageEncoder) -> None:
        """Tokens fill the grid; prefix and pooled have the stated widths; everything is finite."""
        card = encoder.card
        assert card.grid is not None
        pixels = [encoder.prepare(picture) for picture in sample_pictures()]
        batch = encoder.encode(pixels)
        assert tuple(batch.tokens.shape) == (len(pixels), card.grid[0] * card.grid[1], card.width)
        assert tuple(batch.pooled.shape) == (len(pixels), card.pooled_width)
        if card.prefix:
            assert batch.prefix is not None
            assert tuple(batch.prefix.shape) == (len(pixels), card.prefix, card.width)
        else:
            assert batch.prefix is None
        assert 0 <= card.registers <= card.prefix
        for tensor in (batch.tokens, batch.pooled):
            assert not tensor.requires_grad
            assert bool(tensor.isfinite().all())

    def test_every_feature_of_a_pass_is_what_its_card_says(self, encoder: ImageEncoder) -> None:
        """One feature, or as many as the encoder has cards; the first is that of `card` and `encode`."""
        pixels = [encoder.prepare(picture) for picture in sample_pictures()]
        cards, batches, first = cards_of(encoder), encode_all(encoder, pixels), encoder.encode(pixels)
        assert cards[0] == encoder.card
        assert len({card.fingerprint for card in cards}) == len(cards) == len(batches)
        assert batches[0].tokens.equal(first.tokens)
        assert batches[0].pooled.equal(first.pooled)
        for card, batch in zip(cards, batches, strict=True):
            assert card.grid is not None
            assert tuple(batch.tokens.shape[1:]) == (card.grid[0] * card.grid[1], card.width)
            assert batch.pooled.shape[1] == card.pooled_width
            assert (0 if batch.prefix is None else batch.prefix.shape[1]) == card.prefix

    def test_equals_a_direct_run(self, encoder: ImageEncoder, direct: DirectImages) -> None:
        """Patches are the last `t` places and nothing else; CLS and registers are the first `p`."""
        pictures = sample_pictures()
        batch = encoder.encode([encoder.prepare(picture) for picture in pictures])
        hidden, pooled = direct(pictures)
        places = encoder.card.prefix
        assert_vectors_agree(batch.tokens.cpu(), hidden[:, places:])
        assert_vectors_agree(batch.pooled.cpu(), pooled)
        if batch.prefix is not None:
            assert_vectors_agree(batch.prefix.cpu(), hidden[:, :places])

    def test_a_row_does_not_depend_on_its_batch(self, encoder: ImageEncoder) -> None:
        """Alone, together, and in another order."""
        pixels = [encoder.prepare(picture) for picture in sample_pictures()]
        together, turned = encoder.encode(pixels), encoder.encode(pixels[::-1])
        for row, one in enumerate(pixels):
            alone = encoder.encode([one])
            for batch, place in ((together, row), (turned, len(pixels) - 1 - row)):
                assert_vectors_agree(batch.tokens[place].cpu(), alone.tokens[0].cpu())
                assert_vectors_agree(batch.pooled[place].cpu(), alone.pooled[0].cpu())

    def test_the_same_batch_gives_the_same_bytes(self, encoder: ImageEncoder) -> None:
        """Nothing random is left on: dropout, augmentation, sampling."""
        pixels = [encoder.prepare(picture) for picture in sample_pictures()]
        first, second = encoder.encode(pixels), encoder.encode(pixels)
        assert first.tokens.equal(second.tokens)
        assert first.pooled.equal(second.pooled)

    def test_prepare_may_be_called_from_many_threads(self, encoder: ImageEncoder) -> None:
        """The same bytes as from one thread."""
        pictures = sample_pictures()
        expected = [encoder.prepare(picture) for picture in pictures]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: encoder.prepare(pictures[i % len(pictures)]), range(64)))
        for i, pixels in enumerate(found):
            assert np.array_equal(pixels, expected[i % len(pictures)])


class TextEncoderContract(EncoderContract):
    """What every text encoder must hold; see the module's docstring."""

    @pytest.fixture
    def encoder(self) -> TextEncoder:
        """The encoder under test, computing in float32."""
        raise NotImplementedError("override the fixture `encoder`")

    @pytest.fixture
    def direct(self) -> DirectTexts:
        """A run of the same model with its library alone."""
        raise NotImplementedError("override the fixture `direct`")

    def test_follows_the_protocol(self, encoder: TextEncoder) -> None:
        """The members are there."""
        assert isinstance(encoder, TextEncoder)
        assert encoder.card.modality == "text"

    def test_texts_are_cut_at_the_cards_length(self, encoder: TextEncoder) -> None:
        """No text is longer, and exactly the texts that lost something are flagged."""
        tokenizer = encoder.card.tokenizer
        assert tokenizer is not None
        ids, cut = encoder.prepare(SENTENCES)
        assert len(ids) == len(cut) == len(SENTENCES)
        for row in ids:
            assert row.ndim == 1
            assert row.dtype == np.int64
            assert len(row) <= tokenizer.max_length
        assert cut[-1]
        assert len(ids[-1]) == tokenizer.max_length
        assert not cut[0]
        assert not cut[1]

    def test_any_string_has_a_clear_outcome(self, encoder: TextEncoder) -> None:
        """Nothing at all, a zero byte and half a surrogate pair are texts like others."""
        ids, _ = encoder.prepare(["", "\0", LONE_SURROGATE])
        batch = encoder.encode(ids)
        assert bool(batch.pooled.isfinite().all())
        assert encoder.prepare([]) == ([], [])

    def test_shapes_are_what_the_card_says(self, encoder: TextEncoder) -> None:
        """Real tokens stand first; widths are the card's."""
        card = encoder.card
        ids, _ = encoder.prepare(SENTENCES)
        batch = encoder.encode(ids)
        longest = max(len(row) for row in ids)
        assert tuple(batch.tokens.shape) == (len(ids), longest, card.width)
        assert tuple(batch.pooled.shape) == (len(ids), card.pooled_width)
        expected = np.arange(longest)[None, :] < np.asarray([len(row) for row in ids])[:, None]
        assert np.array_equal(batch.mask.cpu().numpy(), expected)
        assert not batch.tokens.requires_grad

    def test_every_feature_of_a_pass_is_what_its_card_says(self, encoder: TextEncoder) -> None:
        """One feature, or as many as the encoder has cards; the first is that of `card` and `encode`."""
        ids, _ = encoder.prepare(SENTENCES)
        cards, batches, first = cards_of(encoder), encode_all(encoder, ids), encoder.encode(ids)
        assert cards[0] == encoder.card
        assert len({card.fingerprint for card in cards}) == len(cards) == len(batches)
        assert batches[0].tokens.equal(first.tokens)
        assert batches[0].pooled.equal(first.pooled)
        for card, batch in zip(cards, batches, strict=True):
            assert card.tokenizer == cards[0].tokenizer
            assert tuple(batch.tokens.shape) == (*first.mask.shape, card.width)
            assert batch.mask.equal(first.mask)
            assert batch.pooled.shape[1] == card.pooled_width

    def test_equals_a_direct_run(self, encoder: TextEncoder, direct: DirectTexts) -> None:
        """Token by token, and the pooled vector."""
        texts = list(SENTENCES)
        ids, _ = encoder.prepare(texts)
        batch = encoder.encode(ids)
        tokens, pooled = direct(texts)
        for row, expected in enumerate(tokens):
            assert_vectors_agree(batch.tokens[row][batch.mask[row]].cpu(), expected)
        assert_vectors_agree(batch.pooled.cpu(), pooled)

    def test_a_row_does_not_depend_on_its_batch(self, encoder: TextEncoder) -> None:
        """Padding beside a long text changes nothing, in any order."""
        ids, _ = encoder.prepare(SENTENCES)
        together, turned = encoder.encode(ids), encoder.encode(ids[::-1])
        for row, one in enumerate(ids):
            alone = encoder.encode([one])
            for batch, place in ((together, row), (turned, len(ids) - 1 - row)):
                assert_vectors_agree(batch.tokens[place][: len(one)].cpu(), alone.tokens[0].cpu())
                assert_vectors_agree(batch.pooled[place].cpu(), alone.pooled[0].cpu())

    def test_the_same_batch_gives_the_same_bytes(self, encoder: TextEncoder) -> None:
        """Nothing random is left on."""
        ids, _ = encoder.prepare(SENTENCES)
        first, second = encoder.encode(ids), encoder.encode(ids)
        assert first.tokens.equal(second.tokens)
        assert first.pooled.equal(second.pooled)

    def test_prepare_may_be_called_from_many_threads(self, encoder: TextEncoder) -> None:
        """The same ids as from one thread."""
        expected, _ = encoder.prepare(SENTENCES)
        with ThreadPoolExecutor(8) as pool:
            for ids, _ in pool.map(encoder.prepare, [SENTENCES] * 16):
                assert all(np.array_equal(a, b) for a, b in zip(ids, expected, strict=True))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
