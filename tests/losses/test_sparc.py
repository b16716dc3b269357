"""SPARC against a slow float64 sum, word by word; its gradients, blocks, merged tokens, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.losses.base import Pairing, TokenPairs, build_loss
from embedstore.losses.clip import contrastive
from embedstore.losses.sparc import SparcLoss, alignment, token_loss

OFFSETS = torch.tensor([0, 3, 4, 9, 11])
OWNER = torch.tensor([0, 1, 1, 2])


def units(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return torch.from_numpy(x / np.linalg.norm(x, axis=-1, keepdims=True))


def pairs(*, dtype=torch.float64, owner=OWNER, shares=None, t=7, e=6, seed=0):
    b = len(OFFSETS) - 1 if owner is None else int(owner.max()) + 1
    return TokenPairs(
        patches=units(seed, b, t, e).to(dtype),
        words=units(seed + 1, int(OFFSETS[-1]), e).to(dtype),
        offsets=OFFSETS,
        count=t,
        shares=shares,
        owner=owner,
    )


def np_lse(values):
    values = np.array(values)
    return values.max() + np.log(np.exp(values - values.max()).sum())


def np_grouped(patches, word):
    """Patches of one picture `(t, e)`, each standing for itself, as one word sees them."""
    similarity = np.array([p @ word for p in patches])
    low, high = similarity.min(), similarity.max()
    scaled = np.ones(len(similarity)) if high - low < 1e-6 else (similarity - low) / (high - low)
    kept = np.array([s if s >= 1 / len(patches) else 0.0 for s in scaled])
    group = sum(w * p for w, p in zip(kept / kept.sum(), patches, strict=True))
    return group / np.linalg.norm(group)


def np_sparc(tokens, scale):
    patches, words = tokens.patches.double().numpy(), tokens.words.double().numpy()
    owner = range(len(OFFSETS) - 1) if tokens.owner is None else tokens.owner.tolist()
    of_texts = []
    for j, i in enumerate(owner):
        own = words[OFFSETS[j] : OFFSETS[j + 1]]
        groups = [np_grouped(patches[i], word) for word in own]
        terms = []
        for k in range(len(own)):
            right = scale * groups[k] @ own[k]
            terms.append(np_lse([scale * groups[k] @ word for word in own]) - right)
            terms.append(np_lse([scale * group @ own[k] for group in groups]) - right)
        of_texts.append(np.mean(terms))
    return np.mean(of_texts)


@pytest.mark.parametrize("texts", [1, 2, 3, None])
@pytest.mark.parametrize("owner", [OWNER, None], ids=["several", "one-each"])
@pytest.mark.parametrize("scale", [1.0, 14.3])
def test_the_token_loss_is_its_formula(texts, owner, scale):
    tokens = pairs(dtype=torch.float32, owner=owner)
    found = token_loss(tokens, torch.tensor(scale), texts=texts)
    assert float(found) == pytest.approx(np_sparc(tokens, scale), rel=1e-5)


@pytest.mark.parametrize("texts", [1, 3, None])
def test_gradients_agree_with_finite_differences(texts):
    whole = pairs()
    shares = torch.tensor([0.0, 1, 2, 1, 1, 1, 1]).double().expand(3, 7) / 7

    def loss(patches, words, scale):
        given = TokenPairs(patches=patches, words=words, offsets=OFFSETS, count=7, shares=shares, owner=OWNER)
        return 3 * token_loss(given, scale, texts=texts)

    inputs = [whole.patches, whole.words, torch.tensor(5.0, dtype=torch.float64)]
    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in inputs])


@settings(max_examples=25)
@given(counts=st.lists(st.integers(0, 3), min_size=4, max_size=6).filter(any), seed=st.integers(0, 99))
def test_a_merged_patch_counts_as_the_patches_it_stands_for(counts, seed):
    few = pairs(t=len(counts), seed=seed)
    copies, whole = torch.tensor(counts), sum(counts)
    shares = (copies / whole).double().expand(3, -1)
    merged = TokenPairs(
        patches=few.patches, words=few.words, offsets=OFFSETS, count=whole, shares=shares, owner=OWNER
    )
    many = TokenPairs(
        patches=few.patches.repeat_interleave(copies, dim=1),
        words=few.words,
        offsets=OFFSETS,
        count=whole,
        owner=OWNER,
    )
    scale = torch.tensor(10.0, dtype=torch.float64)
    torch.testing.assert_close(token_loss(merged, scale), token_loss(many, scale))


def test_truths_of_the_alignment():
    similarity = torch.tensor([[[0.5, 0.1, 0.3, 0.11], [0.2, 0.2, 0.2, 0.2]]])
    found = alignment(similarity, torch.ones(1, 4), 4)
    # 0.11 is 0.025 of the way from the least to the largest, below a quarter; a flat word takes all alike.
    torch.testing.assert_close(found, torch.tensor([[[2 / 3, 0, 1 / 3, 0], [0.25] * 4]]))
    # The second patch stands for three, the last for none.
    found = alignment(similarity, torch.tensor([[1.0, 1.0, 3.0, 0.0]]), 5)
    torch.testing.assert_close(found[0, 0], torch.tensor([0.4, 0, 0.6, 0]))


def test_words_that_are_their_patches_cost_little_and_one_word_nothing():
    words = torch.eye(4)
    tokens = TokenPairs(patches=words[None], words=words, offsets=torch.tensor([0, 4]), count=4)
    assert float(token_loss(tokens, torch.tensor(100.0))) == pytest.approx(0, abs=1e-6)
    one = TokenPairs(patches=words[None], words=words[:1], offsets=torch.tensor([0, 1]), count=4)
    assert float(token_loss(one, torch.tensor(100.0))) == pytest.approx(0, abs=1e-6)
    # Words that are alike cannot be told apart: an even chance among three.
    alike = TokenPairs(
        patches=words[None], words=words[:1].expand(3, 4), offsets=torch.tensor([0, 3]), count=4
    )
    assert float(token_loss(alike, torch.tensor(10.0))) == pytest.approx(np.log(3), rel=1e-5)


def test_identical_patches_and_words_have_finite_gradients():
    patches = torch.ones(1, 5, 4).div(2).requires_grad_()
    words = torch.ones(3, 4).div(2).requires_grad_()
    tokens = TokenPairs(patches=patches, words=words, offsets=torch.tensor([0, 3]), count=5)
    token_loss(tokens, torch.tensor(10.0)).backward()
    assert torch.isfinite(patches.grad).all()
    assert torch.isfinite(words.grad).all()


def test_both_losses_are_weighed_and_share_one_temperature():
    loss = build_loss("sparc", temperature=0.1, global_weight=0.3, local_weight=2.0)
    assert isinstance(loss, SparcLoss)
    tokens = pairs(dtype=torch.float32)
    v, u = units(5, 3, 6).float(), units(6, 4, 6).float()
    pairing = Pairing(owner=OWNER)
    (loss.of_tokens(tokens) + loss(v, u, pairing)).backward()
    slope = loss.temperature.grad.clone()
    wanted = 0.3 * contrastive(v, u, 0.1, pairing=pairing)
    torch.testing.assert_close(loss(v, u, pairing), wanted)
    assert loss.of_tokens(tokens).item() == pytest.approx(2 * np_sparc(tokens, 10.0), rel=1e-5)

    def at(tau):
        scale = torch.tensor(1 / tau, dtype=torch.float64)
        return 0.3 * contrastive(v.double(), u.double(), tau, pairing=pairing) + 2 * token_loss(
            pairs(), scale
        )

    assert float(slope) == pytest.approx(float(at(0.1001) - at(0.0999)) / 2e-4, rel=1e-3)


def test_weights_that_mean_nothing_are_refused():
    with pytest.raises(UsageError, match="0 or more, one of them above"):
        build_loss("sparc", global_weight=0.0, local_weight=0.0)
    with pytest.raises(UsageError, match=r"'clip' has no option 'local_weight'"):
        build_loss("clip", local_weight=1.0)
