"""Whatever stands in a file, the answer is a source that keeps its contract, or one of our errors."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedstore.encode.plan import plan_source
from embedstore.errors import EmbedstoreError
from embedstore.sources import open_source
from embedstore.testing.sources import SourceContract

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        ["", " ", "_", ",", "\0", "\ud800", "../x", "/etc/passwd", "a.jpg", "train", "restval", "x" * 300]
    )
    | st.text(max_size=5)
)
KEYS = st.text(max_size=3) | st.sampled_from(["\0", "\ud800", "id", "name", "base"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=4,
)
SENTENCES = [{"raw": "one", "tokens": ["one"]}, {"raw": "two"}]
MASK = {"mask_quality": 0, "label": "a label", "caption": "a text"}
DOCUMENTS = {
    "coco:captions_val2017.json": {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "one"}, {"image_id": 2, "caption": "two"}],
    },
    "karpathy:dataset.json": {
        "images": [
            {"filename": "a.jpg", "split": "train", "sentences": SENTENCES},
            {"filename": "b.jpg", "split": "restval", "filepath": "images", "sentences": SENTENCES},
        ],
        "dataset": "coco",
    },
    "sugarcrepe:add_att.json": {
        "0": {"filename": "a.jpg", "caption": "one", "negative_caption": "two"},
        "1": {"filename": "a.jpg", "caption": "one", "negative_caption": "three", "category": "x"},
    },
    "dci:?captions=summaries": {
        "image": "a.jpg",
        "short_caption": "short",
        "extra_caption": "more",
        "mask_data": {"0": MASK, "1": MASK | {"mask_quality": 2}},
        "summaries": {"base": ["one", "two"]},
        "negatives": {"base": {"swaps": ["three"]}},
    },
    "dci:": {"train": ["a.json"], "test": []},
    "imagenet:": {"0": ["n1", "tench"], "1": ["n2", "crane"]},
    "segmentation:": [{"id": 0, "name": "background"}, {"id": 1, "name": "cat"}],
}
FILES = {
    "dci:?captions=summaries": "complete/a.json",
    "dci:": "splits.json",
    "imagenet:": "imagenet_class_index.json",
    "segmentation:": "classes.json",
}


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(document, path, value):
    if not path:
        return value
    whole = copy.deepcopy(document)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return whole


@pytest.fixture
def folder(tmp_path, draw):
    for name in ("images", "photos", "masks", "n1", "n2"):
        draw(tmp_path / name, "a.png" if name == "masks" else "a.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.json").write_text(json.dumps(DOCUMENTS["dci:?captions=summaries"]))
    return tmp_path


@pytest.mark.parametrize("spec", DOCUMENTS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_value_gives_a_proper_source_or_one_of_our_errors(folder, spec, data):
    document = DOCUMENTS[spec]
    path = data.draw(st.sampled_from(list(places(document))))
    whole = changed(document, path, data.draw(VALUES))
    kind, _, place = spec.partition(":")
    file = folder / FILES.get(spec, place)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(whole), encoding="utf-8")
    try:
        source = open_source(f"{kind}:{folder}/{place}")
        plan_source(source)
    except EmbedstoreError:
        return
    contract = SourceContract()
    contract.test_the_same_sample_every_time(source)
    contract.test_ids_are_unique(source)
    contract.test_captions_are_proper(source)
    contract.test_labels_and_classes_agree(source)
    contract.test_identity_is_plain_and_free_of_paths(source)
    for name in (*source.classes, *(source[i].id for i in range(len(source)))):
        assert name.strip()
        assert "\0" not in name
        name.encode()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, 200), junk=st.binary(max_size=4), kind=st.sampled_from(["coco", "karpathy", "flickr"])
)
def test_bytes_put_anywhere(folder, cut, junk, kind):
    name = {"coco": "captions_val2017.json", "karpathy": "dataset.json", "flickr": "captions.txt"}[kind]
    text = DOCUMENTS.get(f"{kind}:{name}")
    data = b"image,caption\na.jpg,one\n" if text is None else json.dumps(text).encode()
    (folder / name).write_bytes(data[:cut] + junk + data[cut:])
    try:
        plan = plan_source(open_source(f"{kind}:{folder / name}")).plan
    except EmbedstoreError:
        return
    assert plan.images >= 1
