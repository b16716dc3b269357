"""Every policy through the coder: shapes, dtypes, round trips, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from embedstore.errors import StorageValueError, UsageError
from embedstore.policies import parse_policy
from embedstore.store import plan_feature
from embedstore.store.coding import calibration
from embedstore.store.coding.coder import Coder
from embedstore.testing.stores import random_card, random_plan

NAMES = (
    "float32", "float16", "bfloat16", "int8", "fp8", "pool-2x2", "merge-4", "merge-4+int8", "pca-6",
    "pca-6+int8", "pq-4", "pq-4+int8", "merge-8+pq-4", "pca-8+pq-4+fp8", "cls+mean", "cls+mean+bfloat16",
    "pool-2x2+merge-2+pca-4+fp8",
)  # fmt: skip
ROWS, TOKENS, WIDTH = 40, 16, 12


def values(seed=0, rows=ROWS):
    random = np.random.default_rng(seed)
    return {
        "tokens": random.normal(size=(rows, TOKENS, WIDTH)).astype(np.float32),
        "prefix": random.normal(size=(rows, 2, WIDTH)).astype(np.float32),
        "pooled": random.normal(size=(rows, 5)).astype(np.float32),
    }


def header_of(name, **options):
    card = random_card("image", width=WIDTH, tokens=TOKENS, prefix=2, pooled_width=5)
    return plan_feature(
        name="x", plan=random_plan(images=ROWS, captions=0), card=card, policy=name, **options
    )


def learnt_for(name, arrays):
    policy = parse_policy(name)
    if not policy.learns:
        return None
    return calibration.learn_from(policy, [arrays], grid=(4, 4))


@pytest.mark.parametrize("name", NAMES)
def test_stored_arrays_are_those_of_the_header(name):
    header, arrays = header_of(name), values()
    learnt = learnt_for(name, arrays)
    made = Coder.of(header, learnt).encode(arrays, rows=np.arange(ROWS))
    wanted = {a.name: (a.shape, a.dtype) for a in header.arrays if a.name != "status"}
    assert {n: (v.shape, v.dtype.name) for n, v in made.items()} == wanted
    shapes = calibration.learnt_shapes(parse_policy(name), header.card, tuple(wanted))
    assert {n: v.shape for n, v in (learnt or {}).items()} == shapes


@pytest.mark.parametrize("name", NAMES)
def test_decoding_gives_back_about_what_was_stored(name):
    policy, arrays = parse_policy(name), values()
    coder = Coder.of(header_of(name), learnt_for(name, arrays))
    made = coder.encode(arrays, rows=np.arange(ROWS))
    digits = {"float32": 0, "float16": 2e-3, "bfloat16": 2e-2, "int8": 3e-2, "fp8": 0.3}[policy.number]
    for array, scales in (("prefix", "prefix_scales"), ("pooled", "pooled_scales")):
        np.testing.assert_allclose(
            coder.decode(array, made[array], made.get(scales)), arrays[array], atol=digits
        )
    tokens = coder.decode("tokens", made["tokens"], made.get("scales"))
    assert tokens.dtype == np.float32
    assert tokens.shape == (ROWS, policy.tokens(TOKENS, (4, 4)), WIDTH)
    if policy.pca or policy.pq:
        assert np.square(tokens).sum() < np.square(arrays["tokens"]).sum() * 1.05
        return
    weights = made.get("weights", np.full(tokens.shape[:2], 1 / tokens.shape[1]))
    found = np.einsum("bt,btd->bd", weights, tokens)
    np.testing.assert_allclose(found, arrays["tokens"].mean(axis=1), atol=digits + 1e-6)


@pytest.mark.parametrize("name", ["merge-4", "int8", "pca-6+int8", "pq-4"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused_with_its_row(name, value):
    arrays = values()
    coder = Coder.of(header_of(name), learnt_for(name, arrays))
    arrays["tokens"][3, 1, 2] = value
    with pytest.raises(StorageValueError, match=rf"row 103 of x/tokens.*\n.*{value} at element \(1, 2\)"):
        coder.encode(arrays, rows=np.arange(100, 100 + ROWS))


def test_a_coder_without_its_calibration_says_so():
    with pytest.raises(
        StorageValueError, match=r"policy int8 needs its calibration\n  found: no tokens\.mean"
    ):
        Coder.of(header_of("int8")).encode(values(), rows=np.arange(ROWS))
    coder = Coder.of(header_of("fp8"))
    with pytest.raises(StorageValueError, match="x/tokens is stored with scales"):
        coder.decode("tokens", np.zeros((1, TOKENS, WIDTH), np.uint8))


def test_text_takes_the_number_format_only():
    card = random_card("text", width=12, tokens=8)
    header = plan_feature(
        name="w", plan=random_plan(images=4, captions=2), card=card, policy="merge-8+pq-4+fp8"
    )
    assert header.policy == "fp8"
    assert [a.name for a in header.arrays] == [
        "tokens",
        "scales",
        "lengths",
        "pooled",
        "pooled_scales",
        "status",
    ]
    coder, random = Coder.of(header), np.random.default_rng(0)
    x = random.normal(size=(5, 12)).astype(np.float32)
    made = coder.encode({"tokens": x, "lengths": np.array([2, 3], np.int32)}, rows=np.arange(2))
    assert made["scales"].shape == (5,)
    np.testing.assert_allclose(coder.decode("tokens", made["tokens"], made["scales"]), x, atol=0.2)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pca-13", r"pca-13 of tokens 12 wide.*\n.*D to 12"),
        ("pq-5", r"pq-5 of tokens 12 wide.*\n.*1, 2, 3, 4, 6, 12"),
        ("pca-6+pq-4", "pq-4 of tokens 6 wide"),
        ("merge-17", "merge-17 cannot be made of 16 tokens"),
        ("pool-2x2+merge-5", "of 4 tokens"),
    ],
)
def test_policies_that_do_not_fit_the_encoder_are_refused(name, words):
    with pytest.raises(UsageError, match=words):
        header_of(name)


def test_shard_rows_follow_from_stored_bytes():
    card = random_card("image", width=1024, tokens=256)
    plan = random_plan(images=1, captions=0).model_copy(update={"images": 10_000_000})
    rows = {
        name: plan_feature(name="x", plan=plan, card=card, policy=name).shard_rows
        for name in ("float16", "int8", "merge-8+int8", "cls+mean+int8")
    }
    assert rows == {"float16": 1024, "int8": 2048, "merge-8+int8": 65536, "cls+mean+int8": 131072}
