"""Names of storage policies, `SHRINK[+SHRINK]...[+NUMBER]`: parsed here and nowhere else.

A policy says how a feature's values become bytes. What shrinks touches the patch tokens of pictures only;
the number format holds for every float array of the feature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from embedstore.errors import UsageError

Number: TypeAlias = Literal["float32", "float16", "bfloat16", "int8", "fp8"]

NUMBERS: tuple[Number, ...] = get_args(Number)
ALLOWED = (
    "parts joined by '+', in this order, each at most once: pool-2x2, merge-K or cls+mean, pca-D, pq-M, and "
    f"a number format ({', '.join(NUMBERS)}; float16 where none is named); e.g. int8, merge-32+int8, pca-64"
)
_COUNT = "[1-9][0-9]{0,5}"
_SHRINKS = ("pool-2x2", rf"merge-{_COUNT}|cls\+mean", f"pca-{_COUNT}", f"pq-{_COUNT}")
# The whole grammar as one expression, for schemas and other people's validators.
PATTERN = (
    r"^(?=.)(?!.*\+$)" + "".join(rf"((?:{step})(?:\+|$))?" for step in _SHRINKS) + f"({'|'.join(NUMBERS)})?$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A parsed name. Steps are applied in the order of the fields; 0 and False mean 'not asked for'."""

    pool: bool = False
    merge: int = 0
    mean: bool = False
    pca: int = 0
    pq: int = 0
    number: Number = "float16"

    @property
    def name(self) -> str:
        """The shortest name that parses to this policy."""
        steps = [
            "pool-2x2" if self.pool else "",
            f"merge-{self.merge}" if self.merge else "",
            "cls+mean" if self.mean else "",
            f"pca-{self.pca}" if self.pca else "",
            f"pq-{self.pq}" if self.pq else "",
        ]
        named = [s for s in steps if s]
        return "+".join(named if named and self.number == "float16" else [*named, self.number])

    @property
    def shrinks(self) -> bool:
        """Whether patch tokens lose more than digits."""
        return bool(self.pool or self.merge or self.mean or self.pca or self.pq)

    @property
    def learns(self) -> bool:
        """Whether it needs calibration: channel statistics, a basis or a codebook."""
        return bool(self.pca or self.pq or self.number == "int8")

    @property
    def scaled(self) -> bool:
        """Whether the number format keeps a scale beside every token."""
        return self.number in ("int8", "fp8")

    @property
    def number_only(self) -> Policy:
        """What holds for arrays that are never shrunk: text tokens, prefix, pooled."""
        return Policy(number=self.number)

    @property
    def fewer_tokens(self) -> Policy:
        """The steps that lessen the tokens of a picture, and no other."""
        return Policy(pool=self.pool, merge=self.merge, mean=self.mean)

    def tokens(self, count: int, grid: tuple[int, int] | None) -> int:
        """Tokens of a picture that are stored, from the encoder's patch tokens and their grid.

        `UsageError` where the steps do not fit them: pooling needs a grid, merging as many tokens.
        """
        left = self._pooled(count, grid)
        if self.merge > left:
            raise UsageError(
                f"{self.name} cannot be made of {left} tokens a picture",
                where="policy",
                allowed=f"merge-K with K up to {left}",
            )
        return 1 if self.mean else self.merge or left

    def _pooled(self, count: int, grid: tuple[int, int] | None) -> int:
        if not self.pool:
            return count
        if grid is None:
            raise UsageError(
                "pool-2x2 needs patches on a grid, which this encoder's card does not name", where="policy"
            )
        return -(-grid[0] // 2) * -(-grid[1] // 2)

    def weighted(self, grid: tuple[int, int] | None) -> bool:
        """Whether stored tokens stand for unequal numbers of patches, so that their shares are kept."""
        if self.mean:
            return False
        return bool(self.merge) or (self.pool and grid is not None and any(side % 2 for side in grid))


def parse_policy(text: str, *, where: str = "policy") -> Policy:
    """Parse a policy's name; `UsageError` that says where it was given and what is allowed."""
    found = re.fullmatch(PATTERN, text)
    if found is None:
        raise UsageError("unknown storage policy", where=where, found=text, allowed=ALLOWED)
    pool, tokens, pca, pq, number = (part.rstrip("+") if part else "" for part in found.groups())
    return Policy(
        pool=bool(pool),
        merge=_count(tokens) if tokens.startswith("merge") else 0,
        mean=tokens == "cls+mean",
        pca=_count(pca),
        pq=_count(pq),
        number=next((n for n in NUMBERS if n == number), "float16"),
    )


def _count(step: str) -> int:
    return int(step.rpartition("-")[2]) if step else 0
