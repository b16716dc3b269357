"""The freeze-align head: its formula, every row of Table 1, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from embedstore.errors import HeadError, UnknownNameError
from embedstore.heads import HEADS
from embedstore.heads.base import Head
from embedstore.heads.token import TokenHead
from embedstore.testing.heads import head_config

SIDES = ("image_local", "image_cls", "text_token", "text_global")
# freeze-align, Table 1, top to bottom; its "patch" on the text side is the token projector.
TABLE_1 = [
    ("mlp", "identity", "identity", "identity"),
    ("token", "identity", "identity", "identity"),
    ("token", "identity", "identity", "mlp"),
    ("token", "identity", "token", "identity"),
    ("token", "identity", "token", "mlp"),
    ("identity", "token", "token", "mlp"),
    ("token", "token", "token", "mlp"),
]


def batch(seed=0, b=4, t=9, d=16, text_d=12):
    g = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, 3, 4, 9, 11])
    return (
        torch.randn(b, t, d, generator=g),
        torch.randn(b, 3, d, generator=g),
        torch.randn(11, text_d, generator=g),
        offsets,
    )


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def vector(module, x):
    with torch.no_grad():
        return module(x).double().numpy()


def test_the_head_is_its_formula():
    head = TokenHead(head_config()).eval()
    tokens, prefix, words, offsets = batch()
    local, cls = vector(head.image_local, tokens).mean(1), vector(head.image_cls, prefix[:, 0])
    with torch.no_grad():
        image, text = head.embed_image(tokens, prefix), head.embed_text(words, offsets)
    np.testing.assert_allclose(image.numpy(), unit(local + cls), atol=1e-5)
    projected = vector(head.text_token, words)
    means = np.stack([projected[a:b].mean(0) for a, b in itertools.pairwise(offsets.tolist())])
    wanted = unit(vector(head.text_global, torch.from_numpy(means).float()))
    np.testing.assert_allclose(text.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("row", TABLE_1, ids="-".join)
def test_every_row_of_table_1_trains(row):
    width = 12 if row[2:] == ("identity", "identity") else 10
    head = TokenHead(head_config(**dict(zip(SIDES, row, strict=True)), width=width))
    tokens, prefix, words, offsets = batch()
    image, text = head.embed_image(tokens, prefix), head.embed_text(words, offsets)
    assert image.shape == text.shape == (4, width)
    torch.testing.assert_close(image.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(4))
    (image * text).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())
    assert sum(1 for _ in head.parameters()) > 0


@pytest.mark.parametrize("row", list(itertools.product(("token", "mlp", "linear", "identity"), repeat=4)))
def test_every_combination_builds_or_says_why_not(row):
    sides = dict(zip(SIDES, row, strict=True))
    for width in (10, 12):
        bad = row[:2] == ("identity", "identity") or (row[2:] == ("identity", "identity") and width != 12)
        if bad:
            with pytest.raises(HeadError, match="identity"):
                TokenHead(head_config(**sides, width=width))
            continue
        head = TokenHead(head_config(**sides, width=width)).eval()
        tokens, prefix, words, offsets = batch()
        assert head.embed_image(tokens, prefix).shape == (4, width)
        assert head.embed_text(words, offsets).shape == (4, width)


def test_an_image_side_named_identity_is_left_out():
    head = TokenHead(head_config(image_cls="identity")).eval()
    tokens, prefix, _, _ = batch()
    assert torch.equal(head.embed_image(tokens, prefix), head.embed_image(tokens, torch.zeros_like(prefix)))
    head = TokenHead(head_config(image_local="identity")).eval()
    assert torch.equal(head.embed_image(tokens, prefix), head.embed_image(torch.zeros_like(tokens), prefix))


def test_only_cls_of_the_prefix_is_read_and_pooled_where_there_is_none():
    head = TokenHead(head_config()).eval()
    tokens, prefix, _, _ = batch()
    wanted = head.embed_image(tokens, prefix)
    changed = prefix.clone()
    changed[:, 1:] = 7.0
    assert torch.equal(head.embed_image(tokens, changed, pooled=torch.zeros(4, 16)), wanted)
    assert torch.equal(head.embed_image(tokens, pooled=prefix[:, 0]), wanted)
    with pytest.raises(HeadError, match="width 16"):
        head.embed_image(tokens)


def test_max_pooling_takes_the_largest_of_each_channel():
    head = TokenHead(head_config(image_pooling="max", image_cls="identity")).eval()
    tokens, _, _, _ = batch()
    wanted = unit(vector(head.image_local, tokens).max(1))
    np.testing.assert_allclose(head.embed_image(tokens).detach().numpy(), wanted, atol=1e-5)


def test_half_precision_tokens_and_one_token_a_sample():
    head = TokenHead(head_config()).eval()
    tokens, prefix, words, _ = batch(t=1)
    half = head.embed_image(tokens.half(), prefix.half())
    torch.testing.assert_close(half, head.embed_image(tokens.half().float(), prefix.half().float()))
    single = head.embed_text(words[:4].half(), torch.arange(5))
    assert single.dtype == torch.float32
    assert single.shape == (4, 10)


def test_text_tokens_of_one_text_do_not_touch_another():
    head = TokenHead(head_config()).eval()
    _, _, words, offsets = batch()
    before = head.embed_text(words, offsets)
    changed = words.clone()
    changed[4:9] = changed[4:9] ** 2
    after = head.embed_text(changed, offsets)
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
    assert not torch.allclose(before[2], after[2])


def test_heads_are_found_by_exact_name():
    assert HEADS.load("token") is TokenHead
    assert isinstance(TokenHead(head_config()), Head)
    with pytest.raises(UnknownNameError, match="did you mean 'token'"):
        HEADS.load("tokens")
