"""The files of known data sets behind a URL give what they give on a disk."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from embedstore.errors import SourceError
from embedstore.sources import open_source

NAMES = ["a.jpg", "b.jpg", "c.jpg"]
ITEM = {"image": "a.jpg", "short_caption": "short", "extra_caption": "more", "mask_data": {}}
CREPE = {"0": {"filename": "b.jpg", "caption": "one", "negative_caption": "two"}}
COCO = {
    "images": [{"id": k, "file_name": name} for k, name in enumerate(NAMES)],
    "annotations": [{"image_id": 1, "id": 1, "caption": "words"}],
}
KARPATHY = {
    "images": [{"filename": n, "split": "test", "filepath": "val2014", "sentences": []} for n in NAMES]
}
SETS = {
    "coco:annotations/captions_val2017.json": (
        {"annotations/captions_val2017.json": COCO},
        "val2017",
    ),
    "coco:": ({"annotations/captions_val2017.json": COCO}, "val2017"),
    "karpathy:dataset_coco.json": ({"dataset_coco.json": KARPATHY}, "images/val2014"),
    "flickr:results.token": ({"results.token": "a.jpg#0\tx\nb.jpg#0\ty\n", "test.txt": "b\n"}, "Images"),
    "imagenet:": ({"words.txt": "n1 one\n", "notes.txt": ""}, "train/n1"),
    "dci:": ({"annotations/a.json": ITEM, "splits.json": {"test": ["a.json"]}}, "photos"),
    "sugarcrepe:data": ({"data/add_att.json": CREPE}, "data/images"),
    "xtd:": (
        {
            "X/test_image_names.txt": "".join(f"{name}\n" for name in NAMES),
            "Y/test_1kcaptions_de.txt": "eins\nzwei\ndrei\n",
        },
        "images",
    ),
    "segmentation:?lists=val.txt": ({"classes.txt": "background\ncat\n", "val.txt": "a\nc\n"}, "images"),
}


def facts(source):
    samples = [source[i] for i in range(len(source))]
    return [(s.id, s.picture.ref, s.captions, s.label, s.split, s.mask is not None) for s in samples]


def seen(source):
    samples = pickle.loads(pickle.dumps([source[i] for i in range(len(source))]))  # noqa: S301 - our own
    return [(s.picture.open().tobytes(), None if s.mask is None else s.mask.open().tolist()) for s in samples]


@pytest.mark.parametrize("spec", SETS)
def test_a_url_gives_what_a_path_gives(tmp_path, memory, spec):
    files, pictures = SETS[spec]
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for name in NAMES:
        (root / pictures).mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).save(root / pictures / name, exif=exif)
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 2, (5, 7), np.uint8)).save(root / "masks" / f"{name[:-4]}.png")
    for name, whole in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(whole if isinstance(whole, str) else json.dumps(whole))
    kind, _, place = spec.partition(":")
    here = open_source(f"{kind}:{root}/{place}")
    there = open_source(f"{kind}:{memory.copy(root)}/{place}")
    assert facts(there) == facts(here)
    assert seen(there) == seen(here)
    assert there.identity == here.identity
    assert there.dropped == here.dropped
    assert there.classes == here.classes


def test_what_is_not_behind_the_url(memory, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "captions_val2017.json").write_text(json.dumps(COCO))
    url = memory.copy(tmp_path / "data")
    with pytest.raises(SourceError, match="not one of the pictures is there"):
        open_source(f"coco:{url}/captions_val2017.json")
    with pytest.raises(SourceError, match="there is no such file"):
        open_source(f"karpathy:{url}/dataset_coco.json")
    with pytest.raises(SourceError, match="not a folder"):
        open_source(f"imagenet:{url}/nothing")
