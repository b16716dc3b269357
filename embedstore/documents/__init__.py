"""The frozen documents that go to disk: each round-trips to JSON and has a schema in `schemas/v1/`.

No document holds a clock, a host, a path of the machine or a process id.
"""

from __future__ import annotations

from embedstore.documents.base import (
    FORMAT_VERSION,
    NAME_PATTERN,
    Document,
    differing_fields,
    load_document,
    parse_named,
    read_bounded,
    refuse_differences,
)
from embedstore.documents.cards import (
    IMPORTED_MEAN,
    PROBE_TOLERANCE,
    EncoderCard,
    HeadCard,
    ProcessorCard,
    TokenizerCard,
    ViewCard,
)
from embedstore.documents.comparisons import LOWER_IS_BETTER, Comparison, Comparisons, Difference
from embedstore.documents.ease import EasePoint, EaseReport
from embedstore.documents.head_options import (
    DalipOptions,
    DinotxtOptions,
    NoOptions,
    OptionValue,
    SailOptions,
)
from embedstore.documents.heads import FitConfig, HeadConfig, Projection
from embedstore.documents.pairs import PairFigures, PairMeasure, PairsReport, VectorKind
from embedstore.documents.policy_study import PolicyFigures, PolicyScore, PolicyStudy
from embedstore.documents.prototypes import PrototypesCard
from embedstore.documents.rates import FeatureBytes, Rate, RatesReport, RateUnit
from embedstore.documents.reports import NOT_SHARES, BenchReport, BenchReports, Confusion, Figure
from embedstore.documents.stores import (
    ArrayName,
    ArraySpec,
    FeatureHeader,
    FeatureManifest,
    Origin,
    Plan,
    PolicyName,
    QuarantinedRow,
    ShardFile,
    StoredType,
    Table,
    UnitRecord,
)
from embedstore.documents.subsets import (
    RowsRecord,
    Setting,
    SubsetCard,
    SubsetColumn,
    SubsetFile,
    SubsetParent,
)

PUBLISHED: tuple[type[Document], ...] = (
    EncoderCard,
    Plan,
    FeatureHeader,
    FeatureManifest,
    UnitRecord,
    SubsetCard,
    PrototypesCard,
    HeadConfig,
    FitConfig,
    BenchReport,
    BenchReports,
    Comparison,
    Comparisons,
    PolicyStudy,
    PairsReport,
    EaseReport,
    RatesReport,
)

__all__ = [
    "FORMAT_VERSION",
    "IMPORTED_MEAN",
    "LOWER_IS_BETTER",
    "NAME_PATTERN",
    "NOT_SHARES",
    "PROBE_TOLERANCE",
    "PUBLISHED",
    "ArrayName",
    "ArraySpec",
    "BenchReport",
    "BenchReports",
    "Comparison",
    "Comparisons",
    "Confusion",
    "DalipOptions",
    "Difference",
    "DinotxtOptions",
    "Document",
    "EasePoint",
    "EaseReport",
    "EncoderCard",
    "FeatureBytes",
    "FeatureHeader",
    "FeatureManifest",
    "Figure",
    "FitConfig",
    "HeadCard",
    "HeadConfig",
    "NoOptions",
    "OptionValue",
    "Origin",
    "PairFigures",
    "PairMeasure",
    "PairsReport",
    "Plan",
    "PolicyFigures",
    "PolicyName",
    "PolicyScore",
    "PolicyStudy",
    "ProcessorCard",
    "Projection",
    "PrototypesCard",
    "QuarantinedRow",
    "Rate",
    "RateUnit",
    "RatesReport",
    "RowsRecord",
    "SailOptions",
    "Setting",
    "ShardFile",
    "StoredType",
    "SubsetCard",
    "SubsetColumn",
    "SubsetFile",
    "SubsetParent",
    "Table",
    "TokenizerCard",
    "UnitRecord",
    "VectorKind",
    "ViewCard",
    "differing_fields",
    "load_document",
    "parse_named",
    "read_bounded",
    "refuse_differences",
]
