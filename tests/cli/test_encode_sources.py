"""`embedstore encode` on each file of known data sets, and what later tasks need of it in the store."""

from __future__ import annotations

import json
import secrets
import sys

import numpy as np
import pytest
from PIL import Image

from embedstore.encode.plan import plan_source
from embedstore.errors import UsageError
from embedstore.sources import open_source
from embedstore.store import open_store, verify_store
from embedstore.store.selection import altered, texts_with
from embedstore_cli import app

NAMES = [f"{k}.jpg" for k in range(4)]


@pytest.fixture
def pictures(tmp_path):
    """A folder of four pictures, one of them turned by its EXIF orientation."""
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k, name in enumerate(NAMES):
        exif = Image.Exif()
        exif[0x0112] = 6 if k == 3 else 1
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / name, exif=exif)
    return tmp_path / "data"


@pytest.fixture
def encoded(monkeypatch, capsys, tmp_path, tiny_vision, tiny_words):
    """The store that the command makes of a source."""

    def call(source, *more, image=True, text=True):
        store = tmp_path / "store"
        command = ["embedstore", "encode", source, store, *more]
        command += ["--image-encoder", f"vision=hf:{tiny_vision}"] if image else []
        command += ["--text-encoder", f"words=hf:{tiny_words}"] if text else []
        monkeypatch.setattr(sys, "argv", [str(part) for part in command])
        with pytest.raises(SystemExit) as end:
            app.main()
        assert end.value.code == 0, capsys.readouterr().err
        assert verify_store(store).sound
        return open_store(store)

    return call


def write(path, whole):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(whole if isinstance(whole, str) else json.dumps(whole), encoding="utf-8")
    return path


def of_picture(store, name):
    row = store.images(["id"])["id"].to_pylist().index(name)
    texts = store.texts()
    taken = texts.filter(np.equal(texts["image"].to_numpy(), row))
    return taken.select(["text", "language", "role", "category"]).to_pylist()


def test_coco_captions(pictures, encoded):
    images = [{"id": k, "file_name": name, "height": 30, "width": 40} for k, name in enumerate(NAMES)]
    annotations = [{"id": k, "image_id": k % 3, "caption": f"caption {k}"} for k in range(6)]
    path = write(pictures / "captions_val2017.json", {"images": images, "annotations": annotations})
    store = encoded(path)
    assert (store.plan.splits, store.plan.roles) == ({"val": 4}, {"caption": 6})
    assert [t["text"] for t in of_picture(store, "1.jpg")] == ["caption 1", "caption 4"]
    assert of_picture(store, "3.jpg") == []


def test_karpathy_splits(pictures, encoded):
    splits = ["train", "restval", "val", "test"]
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": f"seen in {split}", "tokens": []}]}
        for name, split in zip(NAMES, splits, strict=True)
    ]
    store = encoded(write(pictures / "dataset_flickr8k.json", {"images": images, "dataset": "x"}))
    assert store.plan.splits == {"restval": 1, "test": 1, "train": 1, "val": 1}
    assert of_picture(store, "3.jpg")[0]["text"] == "seen in test"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.token", "".join(f"{name}#{k}\tcaption {k}\n" for name in NAMES for k in range(2))),
        (
            "captions.txt",
            "image,caption\n" + "".join(f"{name},caption {k}\n" for name in NAMES for k in range(2)),
        ),
    ],
)
def test_flickr_captions(pictures, encoded, name, text):
    write(pictures / "test.txt", "2.jpg\n")
    store = encoded(write(pictures / name, text))
    assert (store.plan.images, store.plan.texts, store.plan.splits) == (4, 8, {"test": 1})


def test_languages_of_xtd_can_be_asked_for_one_by_one(pictures, encoded):
    write(pictures / "test_image_names.txt", "\n".join(NAMES) + "\n")
    for language in ("en", "de", "jp"):
        lines = [f"{language} {k}" for k in range(4)]
        write(pictures / f"test_1kcaptions_{language}.txt", "\n".join(lines) + "\n")
    store = encoded(f"xtd:{pictures}")
    assert store.plan.languages == {"de": 4, "en": 4, "ja": 4}
    for language, word in (("de", "de"), ("ja", "jp")):
        rows = np.flatnonzero(texts_with(store, role="caption", language=language))
        texts = store.texts(["image", "text"]).take(rows)
        names = store.images(["id"])["id"].take(texts["image"]).to_pylist()
        wanted = [f"{word} {NAMES.index(name)}" for name in names]
        assert texts["text"].to_pylist() == wanted


def test_long_texts_of_dci(pictures, encoded):
    for name in NAMES:
        item = {"image": name, "short_caption": f"short {name}", "extra_caption": "more", "mask_data": {}}
        write(pictures / "annotations" / f"{name}.json", item)
    write(pictures / "splits.json", {"test": [f"{name}.json" for name in NAMES]})
    store = encoded(f"dci:{pictures}")
    assert store.plan.roles == {"caption": 4, "long": 4}
    assert texts_with(store, role="long", language="en").sum() == 4
    assert of_picture(store, "1.jpg")[0]["text"] == "short 1.jpg\nmore"


CREPE = {
    "add_att": [("0.jpg", "a dog", "a red dog"), ("1.jpg", "a cat", "a red cat"), ("0.jpg", "two", "three")],
    "swap_obj": [("0.jpg", "a dog", "dog a"), ("1.jpg", "a house", "house a")],
}


def test_sugarcrepe_keeps_every_item_with_its_caption_and_category(pictures, encoded):
    keys = ("filename", "caption", "negative_caption")
    for category, items in CREPE.items():
        whole = {str(k): dict(zip(keys, item, strict=True)) for k, item in enumerate(items)}
        write(pictures / "crepe" / f"{category}.json", whole)
    store = encoded(f"sugarcrepe:{pictures / 'crepe'}", "--image-root", pictures / "images")
    negatives, captions = altered(store, "en")
    texts = store.texts()
    names = store.images(["id"])["id"]
    found = [
        (
            texts["category"][int(n)].as_py(),
            (
                names[texts["image"][int(n)].as_py()].as_py(),
                texts["text"][int(c)].as_py(),
                texts["text"][int(n)].as_py(),
            ),
        )
        for n, c in zip(negatives, captions, strict=True)
    ]
    assert sorted(found) == sorted((category, item) for category, items in CREPE.items() for item in items)
    with pytest.raises(UsageError, match="no text has the role 'negative' in the language 'de'"):
        altered(store, "de")


def test_negatives_of_the_scenes_meet_a_caption_of_their_own_picture(tmp_path):
    planned = plan_source(open_source("scenes:12?seed=3"))
    planned.write(tmp_path / "store")
    store = open_store(tmp_path / "store")
    negatives, captions = altered(store, "en")
    texts = store.texts()
    assert len(negatives) == texts["role"].to_pylist().count("negative")
    for negative, caption in zip(negatives, captions, strict=True):
        own = texts.slice(int(caption), 1).to_pylist()[0]
        assert (own["role"], own["language"]) == ("caption", "en")
        assert own["image"] == texts["image"][int(negative)].as_py()


def test_a_negative_of_a_long_text_alone(tmp_path):
    write(
        tmp_path / "t.csv",
        "id,caption,role,language,image\n"
        "a,too early,negative,en,x.png\n"
        "a,long,long,en,x.png\n"
        "a,lang,long,de,x.png\n"
        "a,changed,negative,en,x.png\n"
        "b,no caption of its own,negative,en,y.png\n"
        "b,text,caption,de,y.png\n",
    )
    (tmp_path / "x.png").touch()
    planned = plan_source(open_source(str(tmp_path / "t.csv")))
    planned.write(tmp_path / "store")
    store = open_store(tmp_path / "store")
    negatives, captions = altered(store, "en")
    texts = store.texts(["text"])["text"]
    assert [
        (texts[int(n)].as_py(), texts[int(c)].as_py()) for n, c in zip(negatives, captions, strict=True)
    ] == [("changed", "long")]


def test_labels_of_imagenet_are_readable(pictures, encoded):
    for k, name in enumerate(NAMES):
        target = pictures / "val" / ("n01440764" if k < 2 else "n02012849") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (pictures / "images" / name).rename(target)
    write(pictures / "LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca\nn02012849 crane\n")
    store = encoded(f"imagenet:{pictures}", text=False)
    assert store.plan.classes == ("tench", "crane")
    assert sorted(store.images(["label"])["label"].to_pylist()) == ["crane", "crane", "tench", "tench"]
    assert store.plan.splits == {"val": 4}


def test_masks_lie_on_their_upright_pictures(pictures, encoded):
    rng = np.random.default_rng(1)
    values = {name: rng.choice([0, 1, 2, 255], (30, 40)).astype(np.uint8) for name in NAMES}
    for name, mask in values.items():
        path = pictures / "masks" / f"{name[:-4]}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(path)
    write(pictures / "classes.txt", "background\ncat\ndog\n")
    store = encoded(f"segmentation:{pictures}", text=False)
    assert store.plan.masks
    assert store.plan.classes == ("background", "cat", "dog")
    names = store.images(["id"])["id"].to_pylist()
    for name, mask in zip(names, store.masks(range(4)), strict=True):
        wanted = np.rot90(values[name], -1) if name == "3.jpg" else values[name]
        np.testing.assert_array_equal(mask, wanted)


def test_pictures_behind_a_url(pictures, encoded):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    folder = f"/{secrets.token_hex(6)}/images"
    for name in NAMES:
        memory.pipe_file(f"{folder}/{name}", (pictures / "images" / name).read_bytes())
        (pictures / "images" / name).unlink()
    write(pictures / "results.token", "".join(f"{name}#0\tcaption\n" for name in NAMES))
    store = encoded(pictures / "results.token", "--image-root", f"memory:/{folder}", text=False)
    assert store["vision"].status().tolist() == [0, 0, 0, 0]


def test_a_missing_picture_is_quarantined(pictures, encoded):
    (pictures / "images" / "2.jpg").unlink()
    text = "".join(f"{name}#0\tcaption\n" for name in NAMES)
    store = encoded(write(pictures / "results.token", text), "--max-failed", "0.5")
    assert np.count_nonzero(store["vision"].status()) == 1
