"""Folders named by synset, in the published layouts, with the mapping files written by hand."""

from __future__ import annotations

import json

import pytest

from embedstore.errors import SourceError, UsageError
from embedstore.sources import open_source
from embedstore.sources.imagenet import NO_SYNSET
from embedstore.testing.sources import SourceContract

MAPPING = """\
n01440764 tench, Tinca tinca
n01443537 goldfish, Carassius auratus
n02012849 crane
n03126707 crane
n03710637 maillot
n03710721 maillot, tank suit
"""
FILES = [
    "train/n03126707/n03126707_1.JPEG",
    "train/n01440764/n01440764_10026.JPEG",
    "train/n01440764/n01440764_9.JPEG",
    "val/n02012849/ILSVRC2012_val_00000293.JPEG",
    "val/n03710721/ILSVRC2012_val_00000007.JPEG",
    "val/n03710637/ILSVRC2012_val_00000008.JPEG",
]


@pytest.fixture
def imagenet(tmp_path, draw):
    draw(tmp_path, *FILES)
    (tmp_path / "LOC_synset_mapping.txt").write_text(MAPPING)
    return tmp_path


class TestContract(SourceContract):
    @pytest.fixture
    def source(self, imagenet):
        (imagenet / "train/n01440764/n01440764_10026.JPEG").write_bytes(b"")
        return open_source(f"imagenet:{imagenet}")


def facts(source):
    return [(source[i].id, source[i].label, source[i].split) for i in range(len(source))]


def test_labels_are_readable_and_unique_in_the_order_of_imagenet(imagenet):
    source = open_source(f"imagenet:{imagenet}")
    assert facts(source) == [
        ("train/n01440764/n01440764_10026.JPEG", "tench", "train"),
        ("train/n01440764/n01440764_9.JPEG", "tench", "train"),
        ("train/n03126707/n03126707_1.JPEG", "crane (n03126707)", "train"),
        ("val/n02012849/ILSVRC2012_val_00000293.JPEG", "crane (n02012849)", "val"),
        ("val/n03710637/ILSVRC2012_val_00000008.JPEG", "maillot", "val"),
        ("val/n03710721/ILSVRC2012_val_00000007.JPEG", "maillot, tank suit", "val"),
    ]
    assert source.classes == (
        "tench",
        "crane (n02012849)",
        "crane (n03126707)",
        "maillot",
        "maillot, tank suit",
    )
    assert source[5].picture.open().size == (6, 4)
    assert source.identity == {"kind": "imagenet", "names": "first"}
    assert source.dropped == {"other files": 1, NO_SYNSET: 0}


def test_all_names_or_the_synset(imagenet):
    assert open_source(f"imagenet:{imagenet}?names=all")[0].label == "tench, Tinca tinca"
    source = open_source(f"imagenet:{imagenet}?names=synset&splits=val")
    assert source.classes == ("n02012849", "n03710637", "n03710721")
    assert {split for _, _, split in facts(source)} == {"val"}
    assert source.identity == {"kind": "imagenet", "names": "synset", "splits": "val"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("synset_words.txt", MAPPING),
        ("words.txt", MAPPING.replace(" ", "\t", 1).replace("\nn01443537 ", "\n\nn01443537\t")),
        (
            "imagenet_class_index.json",
            json.dumps(
                {
                    str(k): [line.split(" ", 1)[0], line.split(" ", 1)[1].replace(" ", "_")]
                    for k, line in enumerate(MAPPING.splitlines())
                }
            ),
        ),
        ("mine.txt", MAPPING),
    ],
)
def test_every_mapping_file(tmp_path, draw, name, text):
    draw(tmp_path, "n01440764/images/x.png", "n03126707/y.webp")
    (tmp_path / name).write_text(text)
    source = open_source(f"imagenet:{tmp_path}" + ("?synsets=mine.txt" if name == "mine.txt" else ""))
    assert facts(source) == [
        ("n01440764/images/x.png", "tench", None),
        ("n03126707/y.webp", "crane (n03126707)", None),
    ]


def test_the_archive_of_kaggle_with_its_flat_validation_set(tmp_path, draw):
    root = "ILSVRC/Data/CLS-LOC"
    draw(tmp_path, f"{root}/train/n01440764/a.JPEG", f"{root}/test/ILSVRC2012_test_1.JPEG")
    draw(tmp_path, f"{root}/val/ILSVRC2012_val_1.JPEG", f"{root}/val/ILSVRC2012_val_2.JPEG")
    (tmp_path / "LOC_synset_mapping.txt").write_text(MAPPING)
    source = open_source(f"imagenet:{tmp_path}")
    assert [name for name, _, _ in facts(source)] == ["train/n01440764/a.JPEG"]
    assert source.dropped[NO_SYNSET] == 3
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        "ILSVRC2012_val_1,n01443537 85 1 499 272 n01443537 1 1 2 2 \nILSVRC2012_val_2,n02012849 0 0 9 9 \n"
    )
    source = open_source(f"imagenet:{tmp_path}")
    assert facts(source) == [
        ("train/n01440764/a.JPEG", "tench", "train"),
        ("val/ILSVRC2012_val_1.JPEG", "goldfish", "val"),
        ("val/ILSVRC2012_val_2.JPEG", "crane (n02012849)", "val"),
    ]
    assert source.dropped[NO_SYNSET] == 1
    (tmp_path / "LOC_val_solution.csv").write_text("ILSVRC2012_val_1,n999 85 1 499 272 \n")
    with pytest.raises(SourceError, match="not a picture and a known synset") as caught:
        open_source(f"imagenet:{tmp_path}")
    assert "LOC_val_solution.csv, line 1" in str(caught.value)


def test_folders_that_the_mapping_does_not_name_and_links(imagenet, draw, tmp_path_factory):
    outside = draw(tmp_path_factory.mktemp("outside"), "x.png")
    draw(imagenet, "train/n9/a.png", "top.png")
    (imagenet / "train/n01440764/link.png").symlink_to(outside / "x.png")
    source = open_source(f"imagenet:{imagenet}")
    assert len(source) == len(FILES)
    assert source.dropped[NO_SYNSET] == 2
    assert source.dropped["links that leave the folder"] == 1


@pytest.mark.parametrize(
    ("name", "text", "what", "where"),
    [
        ("words.txt", "n01440764\n", "not a synset and its names", "words.txt, line 1"),
        ("words.txt", "n1 a\nn1 b\n", "a synset stands twice", "words.txt, line 2"),
        ("words.txt", "n1 a\0b\n", "not a synset and its names", "words.txt, line 1"),
        ("words.txt", "\n", "no synsets in this file", "words.txt"),
        (
            "words.txt",
            "n7 seven\n",
            "no pictures in folders that the synset mapping names",
            "n01440764/x.png",
        ),
        ("imagenet_class_index.json", '{"0": "tench"}', "not a synset and its name", "json, 0"),
        ("imagenet_class_index.json", '{"0": ["n1", "a\\u0000"]}', "a NUL character", "json, 0"),
        ("imagenet_class_index.json", '{"0": ["n1", "\\ud800"]}', "a lone surrogate", "json, 0"),
        ("imagenet_class_index.json", '{"0": ["n1", " "]}', "an empty synset or name", "json, 0"),
        ("imagenet_class_index.json", "[]", "not a JSON object", "json"),
        ("notes.txt", "", "no file says what the synsets are", "folder:FOLDER"),
    ],
)
def test_mappings_that_are_refused(tmp_path, draw, name, text, what, where):
    draw(tmp_path, "n01440764/x.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError) as caught:
        open_source(f"imagenet:{tmp_path}")
    assert what in str(caught.value)
    assert where in str(caught.value)


def test_what_is_not_there(imagenet, tmp_path):
    with pytest.raises(SourceError, match="no split 'test'"):
        open_source(f"imagenet:{imagenet}?splits=test")
    with pytest.raises(SourceError, match="there is no such file"):
        open_source(f"imagenet:{imagenet}?synsets=other.txt")
    with pytest.raises(UsageError, match="bad value of option 'names'"):
        open_source(f"imagenet:{imagenet}?names=some")
    with pytest.raises(SourceError, match="not a folder"):
        open_source(f"imagenet:{imagenet / 'LOC_synset_mapping.txt'}")
