"""Which image encoder and which text encoder see the same rows alike."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from embedstore.documents.base import FORMAT_VERSION, Count, Document, Name, Positive, Sha256
from embedstore.documents.cards import EncoderCard
from embedstore.documents.reports import Figure
from embedstore.documents.subsets import RowsRecord

PairMeasure: TypeAlias = Literal["linear", "linear-biased", "rbf", "knn"]
VectorKind: TypeAlias = Literal["tokens", "cls", "pooled"]


class PairFigures(Document):
    """What was measured of one image feature and one text feature; 95 % intervals over the rows."""

    image: Name
    text: Name
    linear: Figure = Field(description="linear CKA with the unbiased HSIC; at most 1, about 0 for strangers")
    linear_biased: Figure = Field(description="linear CKA with the biased HSIC, as papers report it")
    rbf: Figure = Field(description="CKA with Gaussian kernels and the unbiased HSIC, on the sample")
    rbf_biased: float = Field(description="the same with the biased HSIC")
    knn: Figure = Field(description="share of a row's nearest neighbours that both name, on the sample")
    behind: Figure | None = Field(
        default=None,
        description="how far behind the first pair, by `by`; the intervals of all pairs hold together",
    )


class PairsReport(Document):
    """Encoder pairs of a store, the most alike first, and everything that the order depends on."""

    format_version: Positive = FORMAT_VERSION
    by: PairMeasure = Field(description="what the pairs are ordered by")
    pairs: tuple[PairFigures, ...]
    level: tuple[tuple[Name, Name], ...] = Field(
        default=(), description="pairs whose distance to the first one is not told apart from noise"
    )
    images: Count = Field(description="rows: pictures with their captions")
    texts: Count
    sample: Count = Field(description="rows of the sample for rbf, knn and all intervals")
    neighbours: Positive = Field(description="k of knn")
    knn_chance: float = Field(description="knn of sides that have nothing in common")
    sigma: dict[str, float] = Field(description="feature to its median distance in the sample")
    vectors: dict[str, VectorKind] = Field(
        description="feature to what was read: the mean of its tokens, CLS or the pooled embedding"
    )
    captions: Literal["mean", "first"] = Field(description="of several captions of a picture")
    skipped: dict[str, Count] = Field(default={}, description="reason to rows left out")
    split: str | None = None
    rows: RowsRecord | None = Field(default=None, description="what of the split was read, if not all")
    language: str
    role: str
    store_fingerprint: Sha256
    cards: dict[str, EncoderCard] = Field(description="feature to its encoder")
    versions: dict[str, str] = Field(default={}, description="library name to version")
    seed: Count = 0
