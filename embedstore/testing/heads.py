"""Head configurations for encoders that do not exist, and the contract of a head as a test class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from embedstore.documents import HeadConfig
from embedstore.errors import HeadError
from embedstore.heads.base import build_head
from embedstore.testing.stores import random_card

if TYPE_CHECKING:
    from embedstore.heads.base import Head

OFFSETS = torch.tensor([0, 3, 4, 9, 11])


def head_config(*, image_width: int = 16, text_width: int = 12, prefix: int = 1, **sides: Any) -> HeadConfig:
    """A `HeadConfig` for random cards; `sides` are its other fields, width 10 unless given."""
    return HeadConfig(
        **{"head": "token", "width": 10, **sides},
        image_width=image_width,
        image_cls_width=image_width,
        text_width=text_width,
        image_feature="vision",
        text_feature="words",
        image_card=random_card("image", width=image_width, tokens=9, prefix=prefix),
        text_card=random_card("text", width=text_width, tokens=8),
    )


class HeadContract:
    """What fit, bench and search rely on. A plug-in's test is a subclass with a pytest fixture `config`.

    The fixture gives a `HeadConfig` of `head_config`, whose `head` is found by name. Pictures have 9 patches,
    texts 1 to 5 tokens.
    """

    def test_unit_vectors_of_one_width(self, config: HeadConfig) -> None:
        """Both sides give finite unit vectors of one width, in training and at test time."""
        head = build_head(config)
        for training in (True, False):
            v, u = _embed(head.train(training), config)
            _require(v.shape == u.shape, f"pictures {tuple(v.shape)}, texts {tuple(u.shape)}")
            for side in (v, u):
                torch.testing.assert_close(side.norm(dim=-1), torch.ones(4), rtol=1e-4, atol=1e-4)

    def test_every_weight_learns(self, config: HeadConfig) -> None:
        """A finite gradient that is not all zeros comes to every parameter."""
        head = build_head(config)
        tokens, prefix, words = _tokens(config)
        v, u = head.embed_image(tokens, prefix), head.embed_text(words, OFFSETS)
        torch.autograd.backward((v * u * torch.arange(v.numel()).view(v.shape)).sum())
        for name, p in head.named_parameters():
            learns = p.grad is not None and bool(torch.isfinite(p.grad).all() and p.grad.any())
            _require(learns, f"no gradient: {name}")

    def test_a_text_is_embedded_by_itself(self, config: HeadConfig) -> None:
        """At test time neither the other texts of a batch nor the longest of them change an embedding."""
        head = build_head(config).eval()
        _, _, words = _tokens(config)
        together = head.embed_text(words, OFFSETS)
        for i in range(4):
            own = words[OFFSETS[i] : OFFSETS[i + 1]]
            alone = head.embed_text(own, torch.tensor([0, len(own)]))
            torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)

    def test_padded_texts_are_embedded_as_packed_ones(self, config: HeadConfig) -> None:
        """Whatever stands in the padding."""
        head = build_head(config).eval()
        _, _, words = _tokens(config)
        lengths = OFFSETS.diff()
        mask = torch.arange(6) < lengths.unsqueeze(1)
        padded = torch.full((4, 6, words.shape[1]), 30.0)
        padded[mask] = words
        torch.testing.assert_close(
            head.embed_padded(padded, mask), head.embed_text(words, OFFSETS), rtol=1e-4, atol=1e-5
        )

    def test_a_picture_is_embedded_by_itself(self, config: HeadConfig) -> None:
        """At test time the other pictures of a batch do not change an embedding."""
        head = build_head(config).eval()
        tokens, prefix, _ = _tokens(config)
        together = head.embed_image(tokens, prefix)
        for i in range(4):
            alone = head.embed_image(tokens[i : i + 1], prefix[i : i + 1])
            torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)

    def test_a_token_of_no_share_counts_for_nothing(self, config: HeadConfig) -> None:
        """Tokens with the share 0 of their picture change nothing, whatever they hold."""
        head = build_head(config).eval()
        tokens, prefix, _ = _tokens(config)
        shares = torch.full((4, 9), 1 / 8)
        shares[:, 4] = 0.0
        changed = tokens.clone()
        changed[:, 4] = 30.0
        found, wanted = (head.embed_image(t, prefix, weights=shares) for t in (changed, tokens))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

    def test_half_precision_tokens(self, config: HeadConfig) -> None:
        """Stored float16 gives what the same values in float32 give."""
        head = build_head(config).eval()
        tokens, prefix, words = (x.half() for x in _tokens(config))
        torch.testing.assert_close(
            head.embed_image(tokens, prefix), head.embed_image(tokens.float(), prefix.float())
        )
        torch.testing.assert_close(head.embed_text(words, OFFSETS), head.embed_text(words.float(), OFFSETS))

    def test_parts_make_up_the_joint_embedding(self, config: HeadConfig) -> None:
        """In training the parts cover the channels in order, are unit vectors, and weigh 1 together."""
        head = build_head(config).train()
        v, _ = _embed(head, config)
        if not head.parts:
            return
        _require([p.start for p in head.parts] == [0, *(p.stop for p in head.parts[:-1])], "gaps")
        _require(head.parts[-1].stop == v.shape[1], "channels that are of no part")
        _require(abs(sum(p.weight for p in head.parts) - 1) < 1e-6, "weights that do not sum to 1")
        for part in head.parts:
            torch.testing.assert_close(part.of(v).norm(dim=-1), torch.ones(4), rtol=1e-4, atol=1e-4)

    def test_patches_are_unit_vectors_or_refused(self, config: HeadConfig) -> None:
        """`embed_patches` answers as wide as texts are, or raises `HeadError`."""
        head = build_head(config).eval()
        tokens, prefix, words = _tokens(config)
        try:
            patches = head.embed_patches(tokens, prefix)
        except HeadError:
            return
        _require(patches.shape == (4, 9, head.embed_text(words, OFFSETS).shape[1]), "other width than texts")
        torch.testing.assert_close(patches.norm(dim=-1), torch.ones(4, 9), rtol=1e-4, atol=1e-4)

    def test_words_are_unit_vectors_or_refused(self, config: HeadConfig) -> None:
        """`embed_words` stands for a text of one word as `embed_text` does, or raises `HeadError`."""
        head = build_head(config).eval()
        _, _, words = _tokens(config)
        try:
            found = head.embed_words(words, OFFSETS)
        except HeadError:
            return
        torch.testing.assert_close(
            found, head.embed_text(words, torch.arange(len(words) + 1)), rtol=1e-4, atol=1e-5
        )


def _tokens(config: HeadConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    d, w = config.image_width, config.text_width
    return (
        torch.randn(4, 9, d, generator=g),
        torch.randn(4, 1, d, generator=g),
        torch.randn(11, w, generator=g),
    )


def _embed(head: Head, config: HeadConfig) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, prefix, words = _tokens(config)
    return head.embed_image(tokens, prefix), head.embed_text(words, OFFSETS)


def _require(good: bool, problem: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not good:
        raise AssertionError(problem)
