"""The committed schemas equal what the documents generate, and judge examples alike."""

import copy
import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest

from embedstore import documents
from embedstore.documents import PUBLISHED
from embedstore.errors import EmbedstoreError

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "schemas" / "v1"
SHA = "0" * 64

PROCESSOR = {
    "class_name": "BitImageProcessor",
    "backend": "pil",
    "size": [224, 224],
    "resize": "shortest_edge=256",
    "crop": "center=224x224",
    "interpolation": "bicubic",
    "rescale": 1 / 255,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
IMAGE_CARD = {
    "modality": "image",
    "library": "transformers",
    "architecture": "Dinov2Model",
    "model": "dinov2-small",
    "weights_sha256": SHA,
    "final_norm": True,
    "width": 384,
    "pooled_width": 384,
    "pooling": "cls",
    "grid": [16, 16],
    "prefix": 1,
    "processor": PROCESSOR,
    "versions": {"torch": "2"},
}
TEXT_CARD = {
    "modality": "text",
    "library": "sentence-transformers",
    "architecture": "BertModel",
    "model": "minilm",
    "weights_sha256": SHA,
    "final_norm": True,
    "width": 384,
    "pooled_width": 384,
    "pooling": "mean",
    "tokenizer": {"class_name": "BertTokenizer", "sha256": SHA, "max_length": 256},
    "versions": {"torch": "2"},
}
HEADER = {
    "name": "words",
    "table": "texts",
    "rows": 10,
    "shard_rows": 8,
    "units": 2,
    "max_tokens": 256,
    "policy": "float16",
    "card": TEXT_CARD,
    "arrays": [{"name": "pooled", "shape": [10, 384], "dtype": "float16", "shard": 8, "chunk": 8}],
    "plan_fingerprint": SHA,
}
FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6}
COMPARED = {"file": "a.json", "sha256": SHA, "store_fingerprint": SHA}
EXAMPLES = {
    "EncoderCard": IMAGE_CARD,
    "Plan": {
        "source": {"kind": "folder"},
        "source_sha256": SHA,
        "order": "shuffled",
        "images": 3,
        "texts": 6,
        "splits": {"train": 2},
    },
    "FeatureHeader": HEADER,
    "FeatureManifest": {
        "header": HEADER,
        "quarantined": 0,
        "tokens": 80,
        "nbytes": 1000,
        "units_sha256": SHA,
    },
    "UnitRecord": {
        "unit": 0,
        "rows": [0, 8],
        "header_fingerprint": SHA,
        "files": [{"path": "pooled/c/0/0", "nbytes": 10, "crc32c": 1, "index_crc32c": 2}],
        "tokens": 80,
        "quarantined": [{"row": 1, "id": "a", "reason": "empty file"}],
    },
    "SubsetCard": {
        "name": "rare",
        "table": "images",
        "store_fingerprint": SHA,
        "verb": "collect",
        "settings": {"per_concept": 20, "order": "rare-first", "floors": [0.1, None]},
        "parents": [{"kind": "feature", "name": "vision", "sha256": SHA}],
        "kept": 3,
        "columns": ["concept", "score"],
        "rows_file": {"nbytes": 100, "crc32c": 7},
    },
    "PrototypesCard": {
        "name": "birds",
        "made_of": "images",
        "concepts": ["kea", "kiwi"],
        "counts": [128, 7],
        "width": 384,
        "card": IMAGE_CARD,
        "store_fingerprint": SHA,
        "settings": {"shots": 128, "split": None},
        "vectors_sha256": SHA,
    },
    "HeadConfig": {
        "head": "token",
        "width": 256,
        "image_width": 384,
        "image_cls_width": 384,
        "text_width": 384,
        "image_feature": "vision",
        "text_feature": "words",
        "image_card": IMAGE_CARD,
        "text_card": TEXT_CARD,
    },
    "FitConfig": {"image": "vision", "text": "words"},
    "BenchReport": {
        "task": "retrieval",
        "metrics": {"text_to_image": {"recall@1": FIGURE}},
        "store_fingerprint": SHA,
        "head_sha256": SHA,
        "image_card": IMAGE_CARD,
        "text_card": TEXT_CARD,
    },
    "PolicyStudy": {
        "feature": "vision",
        "policies": [
            {
                "policy": "int8",
                "bytes": 10,
                "tokens": [4, 8],
                "pictures_per_second": 5.0,
                "cosine_error": 0.1,
                "cosine_of": "tokens",
                "recall": {"value": FIGURE, "change": FIGURE, "seeds": [0.5]},
            }
        ],
        "config": {"image": "vision", "text": "words"},
        "seeds": 1,
        "split": None,
        "images": 1,
        "texts": 1,
        "store_fingerprint": SHA,
        "image_card": IMAGE_CARD,
        "text_card": TEXT_CARD,
    },
    "BenchReports": {"reports": {}, "left_out": {"segment": "no masks"}},
    "Comparisons": {"comparisons": [], "only": {"segment": "a"}},
    "Comparison": {
        "task": "retrieval",
        "a": COMPARED,
        "b": COMPARED | {"file": "b.json"},
        "metrics": {
            "text_to_image": {
                "recall@1": {
                    "a": FIGURE,
                    "b": FIGURE,
                    "difference": FIGURE,
                    "how": "paired",
                    "better": "noise",
                }
            }
        },
        "settings": {"device": ["cpu", None]},
        "resamples": 1000,
    },
    "PairsReport": {
        "by": "linear",
        "pairs": [
            {
                "image": "vision",
                "text": "words",
                "linear": FIGURE,
                "linear_biased": FIGURE,
                "rbf": FIGURE,
                "rbf_biased": 0.5,
                "knn": FIGURE,
            }
        ],
        "images": 100,
        "texts": 200,
        "sample": 100,
        "neighbours": 10,
        "knn_chance": 0.1,
        "sigma": {"vision": 1.5, "words": 0.9},
        "vectors": {"vision": "tokens", "words": "pooled"},
        "captions": "mean",
        "language": "en",
        "role": "caption",
        "store_fingerprint": SHA,
        "cards": {"vision": IMAGE_CARD, "words": TEXT_CARD},
    },
    "EaseReport": {
        "points": [{"image": "vision", "text": "words", "cka": 0.5, "cka_unbiased": 0.4, "loss": 2.5}],
        "metrics": {"cka": {"pearson": FIGURE}},
        "vectors": 100,
        "iterations": 500,
        "lr": 0.01,
        "temperature": 0.07,
    },
    "RatesReport": {
        "task": "cache",
        "rates": [
            {"of": "vision", "what": "memcpy", "unit": "B/s", "value": 2, "low": 1, "high": 3, "rounds": 5},
        ],
        "threads": 2,
        "store_fingerprint": SHA,
    },
}
SPOILERS = {
    "an unknown field": lambda d: d | {"surprise": 1},
    "nothing": lambda d: {},
    "not an object": lambda d: [d],
    "a wrong type": lambda d: d | {next(iter(d)): [None]},
}
SPOILED_VALUES = [
    ("EncoderCard", "layer", None),
    ("EncoderCard", "final_norm", None),
    ("EncoderCard", "width", "384"),
    ("EncoderCard", "final_norm", "yes"),
    ("EncoderCard", "processor", None),
    ("EncoderCard", "modality", "text"),
    ("UnitRecord", "unit", True),
    ("FitConfig", "lr", "1e-3"),
    ("FitConfig", "dropout", 1.0),
    ("EncoderCard", "width", 0),
    ("EncoderCard", "modality", "audio"),
    ("EncoderCard", "weights_sha256", "abc"),
    ("Plan", "images", -1),
    ("Plan", "order", "sorted"),
    ("FeatureHeader", "name", "../evil"),
    ("FeatureHeader", "policy", "float8"),
    ("FeatureHeader", "shard_rows", 0),
    ("FeatureManifest", "quarantined", -2),
    ("UnitRecord", "rows", [1]),
    ("HeadConfig", "dropout", 1.5),
    ("HeadConfig", "image_local", "transformer"),
    ("FitConfig", "batch_size", 1),
    ("FitConfig", "lr", 0),
    ("BenchReport", "metrics", {"text_to_image": {"recall@1": 0.5}}),
    ("BenchReport", "task", "../guess"),
    ("Comparison", "only", {"text_to_image/recall@1": "c"}),
    ("Comparison", "resamples", 0),
    ("Comparisons", "only", {"segment": "both"}),
    ("BenchReports", "reports", {"a": {}}),
    ("PolicyStudy", "seeds", 0),
    ("PairsReport", "by", "cca"),
    ("PairsReport", "vectors", {"vision": "mean"}),
    ("PairsReport", "neighbours", 0),
    ("EaseReport", "task", "cka"),
    ("RatesReport", "task", "speeds"),
    ("RatesReport", "threads", 0),
    ("RatesReport", "device", "tpu"),
    ("EaseReport", "vectors", 0),
    ("EaseReport", "points", [{"cka": 0.5, "loss": 2.5}]),
    ("SubsetCard", "name", "../evil"),
    ("SubsetCard", "table", "masks"),
    ("SubsetCard", "kept", -1),
    ("SubsetCard", "columns", ["colour"]),
    ("SubsetCard", "settings", {"k": [[1]]}),
    ("SubsetCard", "rows_file", None),
    ("PrototypesCard", "made_of", "sounds"),
    ("PrototypesCard", "concepts", []),
]


def generated():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "schemas" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.schema_files()


def verdicts(name, value):
    """(accepted by the document, accepted by the committed schema)."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    try:
        getattr(documents, name).from_json(json.dumps(value), where="example")
        by_document = True
    except EmbedstoreError:
        by_document = False
    return by_document, jsonschema.Draft202012Validator(schema).is_valid(value)


def test_committed_files_equal_the_generated_ones():
    committed = {
        p.relative_to(SCHEMAS).as_posix(): p.read_text(encoding="utf-8") for p in SCHEMAS.rglob("*.json")
    }
    assert committed == generated(), "run `make schemas` and commit the result"


def test_every_published_document_has_an_example():
    assert {d.__name__ for d in PUBLISHED} == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_both_accept_the_example(name):
    assert verdicts(name, EXAMPLES[name]) == (True, True)


def test_both_let_an_imported_card_leave_unknown_what_nobody_knows():
    unknown = {"library": "imported", "processor": None, "grid": None, "layer": None, "final_norm": None}
    assert verdicts("EncoderCard", IMAGE_CARD | unknown) == (True, True)


@pytest.mark.parametrize("spoiler", SPOILERS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_both_reject_a_spoiled_example(name, spoiler):
    assert verdicts(name, SPOILERS[spoiler](copy.deepcopy(EXAMPLES[name]))) == (False, False)


@pytest.mark.parametrize(("name", "field", "value"), SPOILED_VALUES)
def test_both_reject_a_bad_value(name, field, value):
    assert verdicts(name, EXAMPLES[name] | {field: value}) == (False, False)


@pytest.mark.parametrize("name", EXAMPLES)
def test_documents_round_trip(name):
    kind = getattr(documents, name)
    document = kind.from_json(json.dumps(EXAMPLES[name]), where="example")
    assert kind.from_json(document.to_json(), where="again") == document


def test_a_bad_document_says_where_and_what():
    with pytest.raises(EmbedstoreError, match=r"plan\.json: Plan is not valid: images: .*\n  found: -1"):
        documents.Plan.from_json(json.dumps(EXAMPLES["Plan"] | {"images": -1}), where="plan.json")


def test_cards_differ_in_identity_only_where_numbers_would():
    card = documents.EncoderCard(**IMAGE_CARD)
    assert (
        card.model_copy(update={"versions": {"torch": "3"}, "device_kind": "cuda"}).identity == card.identity
    )
    assert card.model_copy(update={"weights_sha256": "1" * 64}).identity != card.identity


def test_differing_fields_are_named_by_path():
    card = documents.EncoderCard(**IMAGE_CARD)
    other = card.model_copy(update={"processor": card.processor.model_copy(update={"rescale": 1.0})})
    assert documents.differing_fields(card, other) == {"processor.rescale": (1 / 255, 1.0)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:facebook/dinov2-large", (None, "hf:facebook/dinov2-large")),
        ("big=hf:facebook/dinov2-large", ("big", "hf:facebook/dinov2-large")),
        ("hf:model?image_size=336", (None, "hf:model?image_size=336")),
        ("a.b-c_1=hf:m?x=1", ("a.b-c_1", "hf:m?x=1")),
        ("folder/x=y", (None, "folder/x=y")),
    ],
)
def test_named_specs(text, expected):
    assert documents.parse_named(text) == expected


@pytest.mark.parametrize("text", ["=hf:m", "bad name=hf:m", "ü=hf:m"])
def test_bad_feature_names_are_refused(text):
    with pytest.raises(EmbedstoreError, match="bad feature name"):
        documents.parse_named(text)
