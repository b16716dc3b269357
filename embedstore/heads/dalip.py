"""DALIP's head: the embedding of section 2's projectors beside one of the tokens' distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from embedstore.documents import IMPORTED_MEAN, DalipOptions
from embedstore.errors import HeadError
from embedstore.heads.base import Head, Part
from embedstore.heads.distribution import Distribution
from embedstore.heads.image_inputs import cls_of, patch_mean, patches_of
from embedstore.heads.segments import Runs, masked
from embedstore.heads.token import TokenHead
from embedstore.heads.token_sets import TokenSets

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedstore.documents import HeadConfig

_OF_THE_MEAN = ("mean", "weightedmean", "mean_sqrt_len_tokens", "max")


class DalipHead(Head):
    """`[sqrt(λ1)·first, sqrt(λ2)·second]`, λ1 + λ2 = 1: dot products are `λ1·cos(first) + λ2·cos(second)`.

    first: a `TokenHead` of the same configuration (CLIP's is image_cls and text_global 'linear', the other
    sides 'identity'). second: a `Distribution` of all patches, CLS not among them, and of all real text
    tokens. Where λ1 is 1 or 0 the other order is left out. With `score` 'first' a fitted head gives the first
    order alone. An anchor is CLS or the pooled embedding, as wide as the tokens, of images, and of texts what
    the encoder's own pooling reads: the last token (EOT), the first, or the mean.
    `HeadError` as of `TokenHead` and `Distribution`, and for pooled texts, which have no distribution.
    Source: DALIP, section 4 and supplement, Tables S3 and S4.
    """

    options_type = DalipOptions
    reads = frozenset(Head.SIDES)
    needs_tokens = frozenset({"images", "texts"})

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        options: DalipOptions = self.options_of(config.options)
        self.config, self.options = config, options
        self.weights = {"first": options.lambda1, "second": 1.0 - options.lambda1}
        self.first = TokenHead(config) if options.lambda1 > 0 else None
        self.image_second = self.text_second = None
        if options.lambda1 < 1:
            # How long the longest text is decides the size of what is made of them.
            self.compiled_sides = frozenset({"image"})
        if options.score == "first" and self.first is None:
            raise HeadError("there is no first order to compare", found="score 'first', lambda1 0")
        if options.lambda1 < 1:
            if config.text_pooling == "pooled":
                raise HeadError(
                    "a pooled text has no second order",
                    found="text_pooling 'pooled'",
                    allowed="mean",
                    todo="leave --text-pooling out, or take lambda1 1",
                )
            self.image_second = Distribution(config.image_width, config.width, options, image=True)
            self.text_second = Distribution(config.text_width, config.width, options, image=False)
            self.image_anchor, self.text_anchor = image_anchor(config, options), text_anchor(config, options)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The first order's channels and the second's; empty where there is one order alone."""
        if self.first is None or self.image_second is None or self._first_alone:
            return ()
        e = self.config.width
        return tuple(
            Part(name=name, weight=weight, start=k * e, stop=(k + 1) * e)
            for k, (name, weight) in enumerate(self.weights.items())
        )

    @property
    def _first_alone(self) -> bool:
        return self.options.score == "first" and not self.training

    def embed_image(
        self,
        tokens: Tensor,
        prefix: Tensor | None = None,
        pooled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """`tokens (b, t, d)`; `prefix (b, p, d)`, CLS first, or `pooled (b, w)`; to unit vectors `(b, 2e)`.

        One order alone: `(b, e)`. `weights (b, t)` count a token as the patches that it stands for.
        """

        def second(distribution: Distribution) -> Tensor:
            if self.image_anchor == "cls":
                anchor = cls_of(prefix, pooled, self.config)
            else:
                anchor = patch_mean(tokens.to(distribution.dtype), weights)
            sets = TokenSets.grid(tokens, weights, patches_of(self.config))
            return embedded(distribution, tokens, anchor, sets)

        return self._joint(
            lambda first: first.embed_image(tokens, prefix, pooled, weights), second, self.image_second
        )

    def embed_text(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Packed `tokens (sum of l, d)`, `offsets (b+1,)` int64 on the host, to unit vectors as of images."""

        def second(distribution: Distribution) -> Tensor:
            if self.text_anchor == "mean":
                anchor = Runs.from_offsets(offsets, tokens.device).mean(tokens.to(distribution.dtype))
            else:
                places = offsets[:-1] if self.text_anchor == "first" else offsets[1:] - 1
                anchor = tokens[places.to(tokens.device)]
            return embedded(distribution, tokens, anchor, TokenSets.packed(offsets, tokens.device))

        return self._joint(lambda first: first.embed_text(tokens, offsets), second, self.text_second)

    def embed_padded(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Padded `tokens (b, l, d)` with `mask (b, l)`, True where real, to unit vectors as of images."""

        def second(distribution: Distribution) -> Tensor:
            if self.text_anchor == "mean":
                anchor = patch_mean(tokens.to(distribution.dtype), masked(mask).weights)
            elif self.text_anchor == "first":
                anchor = tokens[:, 0]
            else:
                last = (mask.sum(dim=1) - 1).view(-1, 1, 1).expand(-1, 1, tokens.shape[2])
                anchor = tokens.gather(1, last).squeeze(1)
            return embedded(distribution, tokens, anchor, TokenSets.masked(mask))

        return self._joint(lambda first: first.embed_padded(tokens, mask), second, self.text_second)

    def embed_patches(
        self,
        tokens: Tensor,
        prefix: Tensor | None = None,
        pooled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """As of `TokenHead` where the first order alone is compared; a patch has no distribution."""
        return self._first_of("patch").embed_patches(tokens, prefix, pooled, weights)

    def embed_words(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """As of `TokenHead` where the first order alone is compared; a word has no distribution."""
        return self._first_of("word").embed_words(tokens, offsets)

    def _first_of(self, what: str) -> TokenHead:
        if self.first is None or (self.image_second is not None and self.options.score != "first"):
            raise HeadError(
                f"a single {what} has no second order",
                found=f"lambda1 {self.options.lambda1:g}, score {self.options.score!r}",
                todo="fit it with --set score=first",
            )
        return self.first

    def _joint(
        self,
        first: Callable[[TokenHead], Tensor],
        second: Callable[[Distribution], Tensor],
        distribution: Distribution | None,
    ) -> Tensor:
        if self.first is not None and (distribution is None or self._first_alone):
            return first(self.first)
        if distribution is None:
            raise HeadError("the head has neither order")
        if self.first is None:
            return second(distribution)
        scales = [weight**0.5 for weight in self.weights.values()]
        return torch.cat([scales[0] * first(self.first), scales[1] * second(distribution)], dim=-1)


def embedded(distribution: Distribution, tokens: Tensor, anchor: Tensor, sets: TokenSets) -> Tensor:
    """The second-order embedding `(b, e)` of frozen tokens, which get no gradient."""
    found: Tensor = distribution(tokens.detach(), anchor.detach(), sets)
    return found


def image_anchor(config: HeadConfig, options: DalipOptions) -> Literal["cls", "mean"]:
    """What the patches are compared with; `HeadError` for a CLS that is not as wide as they are."""
    fits = config.image_cls_width == config.image_width
    if options.image_anchor == "cls" and not fits:
        raise HeadError(
            "the anchor must be as wide as the tokens",
            where="image_anchor",
            found=f"tokens {config.image_width} wide, CLS or pooled {config.image_cls_width}",
            todo="--set image_anchor=mean",
        )
    return "cls" if fits and options.image_anchor != "mean" else "mean"


def text_anchor(config: HeadConfig, options: DalipOptions) -> Literal["last", "first", "mean"]:
    """Which token the others are compared with, by option, else by how the encoder pools."""
    if options.text_anchor != "auto":
        return options.text_anchor
    pooling = config.text_card.pooling
    modes = pooling.partition("+")[0].removesuffix("-after-prompt").split(",")
    if pooling == IMPORTED_MEAN or any(mode in _OF_THE_MEAN for mode in modes):
        return "mean"
    return "first" if "cls" in modes else "last"
