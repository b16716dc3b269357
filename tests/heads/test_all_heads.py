"""Every head keeps the contract; merged tokens, patches, orders, and what each refuses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from embedstore.documents import IMPORTED_MEAN
from embedstore.errors import HeadError
from embedstore.heads import HEADS
from embedstore.heads.base import Head, build_head
from embedstore.heads.dalip import text_anchor
from embedstore.heads.token_sets import TokenSets
from embedstore.testing.heads import HeadContract, head_config

SMALL = {"reduced": 5}
CONFIGS = {
    "token": {"head": "token"},
    "token-max": {"head": "token", "image_pooling": "max"},
    "token-mlp": {"head": "token", "image_local": "mlp", "text_token": "mlp", "text_global": "linear"},
    "sail": {"head": "sail", "text_pooling": "pooled"},
    "dinotxt": {"head": "dinotxt", "options": {"head_width": 4}},
    "dinotxt-no-map": {"head": "dinotxt", "width": 32, "options": {"project": False}},
    **{
        f"dalip-{k}": {"head": "dalip", "options": {**SMALL, "second": k}}
        for k in ("mbdc", "bdc", "mp", "kspd")
    },
    "dalip-theirs": {"head": "dalip", "options": {**SMALL, "convention": "dalip"}},
    "dalip-mean": {"head": "dalip", "options": {**SMALL, "image_anchor": "mean", "text_anchor": "mean"}},
    "dalip-first": {"head": "dalip", "options": {"lambda1": 1.0}},
    "dalip-second": {"head": "dalip", "options": {**SMALL, "lambda1": 0.0}},
    "dalip-scored-first": {"head": "dalip", "options": {**SMALL, "score": "first"}},
}


def config_of(name, **more):
    return head_config(**{"width": 12, "dropout": 0.0, **CONFIGS[name], **more})


class TestContract(HeadContract):
    @pytest.fixture(params=CONFIGS)
    def config(self, request):
        torch.manual_seed(0)
        return config_of(request.param)


def test_the_contract_sees_a_weight_that_never_learns(monkeypatch):
    def with_a_dead_weight(config):
        head = build_head(config)
        with torch.no_grad():
            head.image_cls.out.weight.zero_()
        return head

    monkeypatch.setattr("embedstore.testing.heads.build_head", with_a_dead_weight)
    with pytest.raises(AssertionError, match=r"no gradient: image_cls\.hidden"):
        HeadContract().test_every_weight_learns(config_of("token"))


def batch(seed=0, b=3, t=9):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(b, t, 16, generator=g), torch.randn(b, 1, 16, generator=g)


def test_every_head_of_the_table_is_tested_here():
    assert {c["head"] for c in CONFIGS.values()} == set(HEADS.names())


# A maximum takes no shares.
MERGING = [name for name in CONFIGS if name != "token-max"]


@pytest.mark.parametrize("name", MERGING)
@pytest.mark.parametrize("training", [False, True], ids=["testing", "training"])
@settings(max_examples=5)
@given(counts=st.lists(st.integers(0, 4), min_size=5, max_size=5).filter(any), seed=st.integers(0, 9))
def test_a_merged_token_counts_as_the_tokens_it_stands_for(name, training, counts, seed):
    torch.manual_seed(seed)
    counts = [*counts[:4], 9 - sum(counts[:4])] if sum(counts[:4]) <= 9 else [3, 3, 3, 0, 0]
    options = dict(CONFIGS[name].get("options", {}))
    if name.startswith("dalip"):
        options["channel_dropout"] = 0.0
    head = build_head(config_of(name, options=options))
    head.train(training)
    few, prefix = batch(seed, t=5)
    all_of_them = few.repeat_interleave(torch.tensor(counts), dim=1)
    shares = (torch.tensor(counts) / 9).expand(3, 5)
    wanted = head.embed_image(all_of_them, prefix)
    torch.testing.assert_close(head.embed_image(few, prefix, weights=shares), wanted, rtol=1e-3, atol=2e-5)


@settings(max_examples=25)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_packed_sets_are_padded_and_back(lengths):
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    sets = TokenSets.packed(offsets, torch.device("cpu"))
    x = torch.arange(1.0, 1 + offsets[-1]).view(-1, 1)
    padded = sets.padded(x)
    assert padded.shape == (len(lengths), max(lengths), 1)
    assert sets.count.tolist() == lengths
    assert torch.equal(sets.unpadded(padded), x)
    for i, length in enumerate(lengths):
        assert padded[i, :length, 0].tolist() == x[offsets[i] : offsets[i + 1], 0].tolist()
        assert not padded[i, length:].any()
    attention = sets.attention(x)
    torch.testing.assert_close(attention.sum(1), torch.ones(len(lengths), 1))
    assert not attention[~(padded > 0)].any()


@pytest.mark.parametrize("name", ["token", "sail", "dinotxt"])
def test_a_single_patch_is_its_own_picture(name):
    """With one patch, and for what no attention mixes, the patch stands where the mean would."""
    torch.manual_seed(0)
    head = build_head(config_of(name, **({"options": {"blocks": 0}} if name == "dinotxt" else {}))).eval()
    tokens, prefix = batch()
    found = head.embed_patches(tokens, prefix)
    for k in range(9):
        torch.testing.assert_close(found[:, k], head.embed_image(tokens[:, k : k + 1], prefix))


def test_patches_of_the_token_head_follow_the_formula_of_segmentation():
    head = build_head(config_of("token")).eval()
    tokens, prefix = batch()
    wanted = functional.normalize(head.image_local(tokens) + head.image_cls(prefix), dim=-1)
    torch.testing.assert_close(head.embed_patches(tokens, prefix), wanted)
    alone = build_head(config_of("token", image_cls="identity")).eval()
    wanted = functional.normalize(alone.image_local(tokens), dim=-1)
    torch.testing.assert_close(alone.embed_patches(tokens), wanted)


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("token", {"image_local": "identity"}, "reads no patches"),
        ("dalip-mbdc", {}, "no second order[\\s\\S]*score=first"),
        ("dalip-second", {}, "no second order"),
    ],
)
def test_patches_without_a_meaning_are_refused(name, more, words):
    head = build_head(config_of(name, **more)).eval()
    with pytest.raises(HeadError, match=words):
        head.embed_patches(*batch())


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("sail", {}, "no single words[\\s\\S]*text-pooling mean"),
        ("token", {"text_pooling": "pooled"}, "no single words"),
        ("dalip-mbdc", {}, "single word has no second order[\\s\\S]*score=first"),
    ],
)
def test_words_without_a_meaning_are_refused(name, more, words):
    head = build_head(config_of(name, **more)).eval()
    with pytest.raises(HeadError, match=words):
        head.embed_words(torch.randn(3, 12), torch.tensor([0, 1, 3]))


@pytest.mark.parametrize(
    "name", ["token", "token-mlp", "token-max", "sail-mean", "dinotxt", "dalip-scored-first"]
)
def test_words_are_embedded_where_they_can_be(name):
    more = {"text_pooling": "mean"} if name == "sail-mean" else {}
    head = build_head(config_of(name.removesuffix("-mean"), **more)).eval()
    found = head.embed_words(torch.randn(3, 12).half(), torch.tensor([0, 1, 3]))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))


def test_patches_after_blocks_know_the_shares_of_merged_tokens():
    head = build_head(config_of("dinotxt")).eval()
    few, prefix = batch(t=5)
    copies = torch.tensor([3, 2, 2, 1, 1])
    found = head.embed_patches(few, prefix, weights=(copies / 9).expand(3, 5))
    many = head.embed_patches(few.repeat_interleave(copies, dim=1), prefix)
    torch.testing.assert_close(found.repeat_interleave(copies, dim=1), many, rtol=1e-4, atol=1e-5)


def test_dot_products_are_the_weighted_cosines_of_the_orders():
    head = build_head(config_of("dalip-mbdc", options={**SMALL, "lambda1": 0.3})).eval()
    first, second = head.parts
    assert [(p.name, round(p.weight, 6), p.start, p.stop) for p in head.parts] == [
        ("first", 0.3, 0, 12), ("second", 0.7, 12, 24),
    ]  # fmt: skip
    image = head.embed_image(*batch())
    text = head.embed_text(torch.randn(6, 12), torch.tensor([0, 1, 3, 6]))
    wanted = 0.3 * first.of(image) @ first.of(text).T + 0.7 * second.of(image) @ second.of(text).T
    torch.testing.assert_close(image @ text.T, wanted)
    torch.testing.assert_close(image[:, :12], math.sqrt(0.3) * head.first.embed_image(*batch()))


def test_one_order_alone_leaves_out_the_weights_of_the_other():
    for name, absent in (("dalip-first", "second"), ("dalip-second", "first")):
        head = build_head(config_of(name))
        assert head.parts == ()
        assert not any(key.startswith(absent) or f"_{absent}" in key for key in head.state_dict())
        assert head.embed_image(*batch()).shape == (3, 12)
    both = build_head(config_of("dalip-scored-first"))
    assert len(both.parts) == 2
    assert both.train().embed_image(*batch()).shape == (3, 24)
    torch.testing.assert_close(both.eval().embed_image(*batch()), both.first.embed_image(*batch()))
    assert both.embed_patches(*batch()).shape == (3, 9, 12)


def test_channels_are_dropped_whole_on_both_sides():
    torch.manual_seed(0)
    head = build_head(config_of("dalip-second", options={"reduced": 40, "lambda1": 0.0})).train()
    seen = {}
    for side in ("image_second", "text_second"):
        inner = getattr(head, side)
        reduced = inner._reduced
        inner._reduced = lambda z, sets, side=side, reduced=reduced: seen.setdefault(side, reduced(z, sets))
    head.embed_image(*batch())
    head.embed_text(torch.randn(9, 12), torch.tensor([0, 2, 5, 9]))
    for x in seen.values():
        gone = (x == 0).all(dim=1)
        # Half of 480 are dropped, give or take 5 deviations; ReLU alone seldom empties a channel.
        assert 0.35 < gone.double().mean() < 0.8


def test_anchors_follow_how_the_encoder_pools():
    config = config_of("dalip-mbdc")
    options = Head.options_of.__func__(HEADS.load("dalip"), {})
    for pooling, wanted in {
        "mean": "mean", "mean+normalize": "mean", "cls": "first", "cls,mean": "mean",
        "mean-after-prompt+dense-tanh": "mean", "cls-after-prompt": "first", IMPORTED_MEAN: "mean",
        "text_embeds": "last", "eot": "last", "lasttoken+dense-tanh": "last",
    }.items():  # fmt: skip
        card = config.text_card.model_copy(update={"pooling": pooling})
        assert text_anchor(config.model_copy(update={"text_card": card}), options) == wanted


@pytest.mark.parametrize(
    ("head", "more", "words"),
    [
        ("dalip", {"options": {"heads": 5}}, "5 heads of width 12[\\s\\S]*divisor of 12"),
        ("dalip", {"options": {"second": "mp", "heads": 1}}, "two or more"),
        ("dalip", {"options": {"lambda": 0.5}}, "unknown option 'lambda'[\\s\\S]*did you mean 'lambda1'"),
        ("dalip", {"options": {"lambda1": 1.5}}, "less than or equal to 1"),
        ("dalip", {"options": {"second": "cov"}}, "'mbdc', 'bdc', 'mp' or 'kspd'"),
        ("dalip", {"options": {"heads": "4"}}, "bad option 'heads'[\\s\\S]*found: '4'"),
        ("dalip", {"options": {"score": "first", "lambda1": 0.0}}, "no first order"),
        ("dalip", {"text_pooling": "pooled"}, "a pooled text has no second order"),
        ("dinotxt", {"options": {"head_width": 5}}, "divisor of 16"),
        ("dinotxt", {"options": {"project": False}}, "take width 32"),
        ("sail", {"options": {"expand": 2}}, "unknown option 'expand'[\\s\\S]*did you mean 'expansion'"),
        ("token", {"options": {"heads": 2}}, "none: this head has no options of its own"),
    ],
)
def test_contradictions_are_refused(head, more, words):
    with pytest.raises(HeadError, match=words):
        build_head(head_config(head=head, width=12, **more))


@pytest.mark.parametrize("head", ["dalip", "dinotxt"])
def test_a_cls_of_another_width(head):
    config = head_config(head=head, width=12, options=SMALL if head == "dalip" else {}, prefix=0)
    config = config.model_copy(update={"image_cls_width": 20})
    if head == "dinotxt":
        with pytest.raises(HeadError, match="as wide as the tokens"):
            build_head(config)
        return
    found = build_head(config).eval()
    assert found.embed_image(batch()[0], pooled=torch.randn(3, 20)).shape == (3, 24)
    with pytest.raises(HeadError, match="image_anchor=mean"):
        build_head(config.model_copy(update={"options": {**SMALL, "image_anchor": "cls"}}))


def test_pooled_stands_in_for_a_missing_cls():
    tokens, prefix = batch()
    for name in ("sail", "dinotxt", "dalip-mbdc"):
        head = build_head(config_of(name)).eval()
        torch.testing.assert_close(
            head.embed_image(tokens, pooled=prefix[:, 0]), head.embed_image(tokens, prefix)
        )


@pytest.mark.parametrize("name", ["token", "sail", "dinotxt", "dalip-mbdc"])
def test_a_register_is_no_cls(name):
    tokens, registers = batch()
    pooled = torch.randn(3, 16)
    config = config_of(name)
    card = config.image_card.model_copy(update={"registers": 1})
    head = build_head(config.model_copy(update={"image_card": card})).eval()
    usual = build_head(config).eval()
    usual.load_state_dict(head.state_dict())
    # Only dino.txt's blocks read registers; they stand behind what is compared with patches.
    prefix = torch.cat([pooled[:, None], registers], dim=1)
    torch.testing.assert_close(head.embed_image(tokens, registers, pooled), usual.embed_image(tokens, prefix))
    with pytest.raises(HeadError, match="no CLS or pooled"):
        head.embed_image(tokens, registers)


def test_what_is_random_repeats_with_the_generator():
    tokens, prefix = batch()
    for name in CONFIGS:
        head = build_head(config_of(name, dropout=0.3)).train()
        found = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            found.append(head.embed_image(tokens, prefix).detach())
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2]), name


def test_every_pair_of_orders_has_its_own_parts():
    for kind, lambda1 in itertools.product(("mbdc", "mp"), (0.0, 0.4, 1.0)):
        head = build_head(config_of("dalip-mbdc", options={**SMALL, "second": kind, "lambda1": lambda1}))
        assert len(head.parts) == (2 if lambda1 == 0.4 else 0)
