"""What a head is, for the trainer, the bench and the fitted model."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from embedstore.documents import NoOptions
from embedstore.errors import HeadError
from embedstore.heads import HEADS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedstore.documents import Document, HeadConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the embeddings that a joint embedding is made of: channels `[start, stop)`, scaled.

    The channels hold `sqrt(weight)` times a unit vector, and the weights of all parts sum to 1. So the dot
    product of two joint embeddings is the weighted sum of the parts' cosines.
    """

    name: str
    weight: float
    start: int
    stop: int

    def of(self, joint: Tensor) -> Tensor:
        """The unit vectors `(b, stop − start)` of this part."""
        return joint[:, self.start : self.stop] * float(self.weight**-0.5)


def renormalised(joint: Tensor, parts: Sequence[Part]) -> Tensor:
    """Means of joint embeddings `(n, e)` to unit vectors again, each part by itself and of its weight."""
    if not parts:
        return functional.normalize(joint, dim=-1)
    return torch.cat([part.weight**0.5 * functional.normalize(part.of(joint), dim=-1) for part in parts], -1)


class Head(nn.Module, ABC):
    """Tokens of frozen encoders to unit vectors in a joint space.

    Constructed from one `HeadConfig`, which decides every size; a `HeadError` where it contradicts itself.
    Inputs are in their stored dtype, on the head's device, and get no gradient.

    A subclass with options of its own names their document in `options_type` and reads them by `options_of`.
    `reads` are the fields of a fit's configuration, of `SIDES`, that make a difference to it (none: all);
    `needs_tokens` the tables of whose features it must have tokens; `text_pooling` what its text side reads
    unless a configuration says otherwise; `compiled_sides` those of which `torch.compile` can make one
    program for batches of every size.
    """

    SIDES: ClassVar[tuple[str, ...]] = (
        "image_local", "image_cls", "text_token", "text_global", "image_pooling",
    )  # fmt: skip
    options_type: ClassVar[type[Document]] = NoOptions
    reads: ClassVar[frozenset[str] | None] = None
    needs_tokens: ClassVar[frozenset[str]] = frozenset()
    text_pooling: ClassVar[Literal["mean", "pooled"]] = "mean"
    compiled_sides: frozenset[str] = frozenset({"image", "text"})

    @property
    def parts(self) -> tuple[Part, ...]:
        """What a joint embedding is made of now, in order; empty where it is one whole.

        The loss of a fit is then the weighted sum of the loss of each part. At test time there may be fewer.
        """
        return ()

    @abstractmethod
    def embed_image(
        self,
        tokens: Tensor,
        prefix: Tensor | None = None,
        pooled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """`tokens (b, t, d)`; `prefix (b, p, d)`, CLS first, or `pooled (b, w)`; to `(b, e)`.

        `weights (b, t)`: the share of the picture that each token stands for, summing to 1; none: equal.
        """

    @abstractmethod
    def embed_text(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Packed `tokens (sum of l, d)`, text i at `offsets[i]..offsets[i+1]`, to `(b, e)`.

        `offsets (b+1,)` int64 on the host; every text has at least one token. Where the configuration's
        `text_pooling` is 'pooled', the pooled embedding is the one token of each text.
        """

    def embed_padded(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """As `embed_text`, of `tokens (b, l, d)` with `mask (b, l)`, True where real, at least one a text.

        For graphs, which have no ragged tensors: what is exported is this one. Padding must be finite. A head
        that does not write it anew is right, but cannot be exported.
        """
        offsets = functional.pad(mask.sum(dim=1).cumsum(0), (1, 0)).cpu()
        return self.embed_text(tokens[mask], offsets)

    def embed_patches(
        self,
        tokens: Tensor,
        prefix: Tensor | None = None,
        pooled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """A unit vector for every patch, `(b, t, e)`, to be compared with `embed_text`: for segmentation.

        Arguments as of `embed_image`. The patch stands where the mean (or maximum) of the patches would. Also
        what a loss that looks at tokens compares words with.
        `HeadError` of a head in which a single patch means nothing.
        """
        del tokens, prefix, pooled, weights
        raise HeadError(f"{type(self).__name__} embeds whole pictures, no single patches")

    def embed_words(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """A unit vector for every token of a text, packed as they came, `(sum of l, e)`.

        Arguments as of `embed_text`. The token stands where the mean of the tokens would. `HeadError` of a
        head in which a single token means nothing.
        """
        del tokens, offsets
        raise HeadError(f"{type(self).__name__} embeds whole texts, no single words")

    @classmethod
    def options_of(cls, options: Mapping[str, Any]) -> Any:
        """The head's own options, checked, defaults filled in; `HeadError` with the nearest name."""
        known = cls.options_type.model_fields
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise HeadError(
                    f"unknown option {name!r}",
                    where=cls.__name__,
                    allowed=", ".join(known) or "none: this head has no options of its own",
                    todo=f"did you mean {near[0]!r}?" if near else None,
                )
        try:
            return cls.options_type.model_validate(dict(options), strict=True)
        except ValidationError as bad:
            first = bad.errors()[0]
            raise HeadError(
                f"bad option {'.'.join(map(str, first['loc']))!r}: {first['msg']}",
                where=cls.__name__,
                found=repr(first.get("input")),
            ) from None


def head_type(name: str) -> type[Head]:
    """The class of this name; `UnknownNameError` for a name in no table."""
    found = HEADS.load(name)
    if not (isinstance(found, type) and issubclass(found, Head)):
        raise HeadError(f"{name!r} is not a head", found=repr(found), allowed="a subclass of Head")
    return found


def build_head(config: HeadConfig) -> Head:
    """The head that `config` names, with fresh weights.

    `UnknownNameError` for a name in no table, `HeadError` for options that the head has not.
    """
    kind = head_type(config.head)
    kind.options_of(config.options)
    return kind(config)
