"""Names of storage policies: the grammar, its order, and what is said of a wrong name."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.documents import FeatureHeader
from embedstore.errors import UsageError
from embedstore.policies import NUMBERS, PATTERN, Policy, parse_policy

POLICIES = st.builds(
    Policy,
    pool=st.booleans(),
    merge=st.integers(0, 999_999),
    pca=st.integers(0, 999_999),
    pq=st.integers(0, 999_999),
    number=st.sampled_from(NUMBERS),
) | st.builds(Policy, pool=st.booleans(), mean=st.just(True), number=st.sampled_from(NUMBERS))


@given(POLICIES)
def test_a_name_says_everything(policy):
    assert parse_policy(policy.name) == policy
    assert re.fullmatch(PATTERN, policy.name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("float16", "float16"),
        ("merge-32+float16", "merge-32"),
        ("pca-64+float16", "pca-64"),
        ("cls+mean+int8", "cls+mean+int8"),
        ("pool-2x2+merge-8+pca-64+pq-16+fp8", "pool-2x2+merge-8+pca-64+pq-16+fp8"),
    ],
)
def test_the_shortest_name_is_kept(text, name):
    assert parse_policy(text).name == name


@pytest.mark.parametrize(
    "text",
    ["", "+", "float8", "int8+", "+int8", "merge-0", "merge-08", "merge-", "merge--3", "merge-1.5", "INT8",
     "cls", "mean", "pool-3x3", "int8+merge-8", "pca-8+merge-8", "merge-8+merge-8", "merge-8+cls+mean",
     "pq-16+pca-8", "int8+fp8", "merge-8 +int8", "int8\n", "pool-2x2pca-3", "merge-9999999"],
)  # fmt: skip
def test_other_names_are_refused_with_what_is_allowed(text):
    with pytest.raises(
        UsageError, match=r"(?s)--policy: unknown storage policy.*merge-K.*fp8.*merge-32\+int8"
    ):
        parse_policy(text, where="--policy")


def test_every_pair_of_steps_in_the_wrong_order_is_refused():
    steps = ("pool-2x2", "merge-4", "pca-4", "pq-4", "int8")
    for first, second in itertools.combinations(steps, 2):
        assert parse_policy(f"{first}+{second}").name == f"{first}+{second}"
        with pytest.raises(UsageError):
            parse_policy(f"{second}+{first}")


@pytest.mark.parametrize(
    ("name", "tokens", "weighted"),
    [
        ("int8", 15, False),
        ("pool-2x2", 6, True),
        ("merge-4", 4, True),
        ("cls+mean", 1, False),
        ("pca-4", 15, False),
        ("pool-2x2+merge-6", 6, True),
    ],
)
def test_tokens_and_weights_of_a_grid_of_3_by_5(name, tokens, weighted):
    policy = parse_policy(name)
    assert (policy.tokens(15, (3, 5)), policy.weighted((3, 5))) == (tokens, weighted)
    assert not parse_policy("pool-2x2").weighted((4, 6))


def test_more_centroids_than_tokens_are_refused():
    with pytest.raises(UsageError, match=r"merge-16 cannot be made of 15 tokens.*\n.*K up to 15"):
        parse_policy("merge-16").tokens(15, (3, 5))
    with pytest.raises(UsageError, match="of 6 tokens"):
        parse_policy("pool-2x2+merge-7").tokens(15, (3, 5))
    with pytest.raises(UsageError, match="needs patches on a grid"):
        parse_policy("pool-2x2").tokens(15, None)


def test_what_learns_and_what_has_scales():
    learns = {"int8", "pca-4", "pq-4", "merge-4+int8", "pca-4+fp8"}
    for name in (*learns, "float32", "bfloat16", "fp8", "merge-4", "pool-2x2+fp8", "cls+mean"):
        assert parse_policy(name).learns == (name in learns)
        assert parse_policy(name).scaled == (name.endswith(("int8", "fp8")))


def test_the_schema_knows_the_grammar():
    assert FeatureHeader.model_json_schema()["properties"]["policy"]["pattern"] == PATTERN
