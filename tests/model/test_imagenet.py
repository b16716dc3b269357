from __future__ import annotations

import pytest

from embedstore.errors import MissingExtraError, UsageError

open_clip = pytest.importorskip("open_clip", reason="needs embedstore[open-clip]")

from embedstore.model.imagenet import imagenet_classes, imagenet_templates  # noqa: E402 - behind the skip

# Number, synset, WordNet's names and open_clip's, of the classes that are easily mistaken.
KNOWN = [
    (0, "n01440764", "tench, Tinca tinca", "tench"),
    (134, "n02012849", "crane", "crane bird"),
    (517, "n03126707", "crane", "construction crane"),
    (657, "n03773504", "missile", "missile"),
    (744, "n04008634", "projectile, missile", "missile"),
    (999, "n15075141", "toilet tissue, toilet paper, bathroom tissue", "toilet paper"),
]


@pytest.mark.parametrize(
    ("way", "labels"),
    [
        ("synsets", [synset for _, synset, _, _ in KNOWN]),
        (
            "first names",
            ["tench", "crane (n02012849)", "crane (n03126707)", "missile", "projectile", "toilet tissue"],
        ),
        (
            "all names",
            [
                "tench, Tinca tinca",
                "crane (n02012849)",
                "crane (n03126707)",
                "missile",
                *(k[2] for k in KNOWN[4:]),
            ],
        ),
        (
            "open_clip's names",
            [
                "tench",
                "crane bird",
                "construction crane",
                "missile (n03773504)",
                "missile (n04008634)",
                "toilet paper",
            ],
        ),
        ("class numbers", [str(k) for k, *_ in KNOWN]),
    ],
)
def test_labels_of_every_kind_are_the_same_classes(way, labels) -> None:
    classes, found = imagenet_classes(labels)
    assert found == way
    assert len(classes) == len({c.label for c in classes}) == 1000
    assert [classes[k].label for k, *_ in KNOWN] == labels
    assert [classes[k].words for k, *_ in KNOWN] == [words for *_, words in KNOWN]
    assert tuple(c.words for c in classes) == open_clip.IMAGENET_CLASSNAMES


def test_labels_of_the_imagenet_source_are_known_whatever_its_mapping(tmp_path) -> None:
    """A mapping with one name each, as keras has it, gives other labels where two names are equal."""
    from PIL import Image

    from embedstore.sources.imagenet import ImagenetSource

    for synset in ("n02012849", "n03126707", "n03710637", "n03710721"):
        (tmp_path / synset).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / synset / "a.png")
    (tmp_path / "imagenet_class_index.json").write_text(
        '{"134": ["n02012849", "crane"], "517": ["n03126707", "crane"],'
        ' "638": ["n03710637", "maillot"], "639": ["n03710721", "maillot"]}'
    )
    labels = ImagenetSource(tmp_path).classes
    classes, _ = imagenet_classes(labels)
    assert [classes[k].label for k in (134, 517, 638, 639)] == list(labels)
    assert len({c.label for c in classes}) == 1000


def test_labels_of_another_data_set_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no label[\s\S]*blue, red[\s\S]*n01440764"):
        imagenet_classes({"red", "blue"})


def test_the_templates_are_open_clips_with_a_place_for_the_class() -> None:
    templates = imagenet_templates()
    assert len(templates) == 80
    assert all(t.count("{}") == 1 for t in templates)
    assert [t.replace("{}", "cat") for t in templates] == [
        t("cat") for t in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]


@pytest.mark.parametrize("name", ["open_clip", "timm.data"])
def test_an_absent_library_is_told_with_its_extra(monkeypatch, name) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingExtraError, match=r"embedstore\[open-clip\]"):
        imagenet_classes({"tench"})
