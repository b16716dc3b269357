"""Scenes are pure functions of (seed, index, size), and every text says what its role promises.

Captions are checked by a reader of its own: it takes the words apart with regular expressions and compares
them with the scene, without the claims that they were made from.
"""

import hashlib
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.sources.base import Mask, Picture
from embedstore.sources.scenes import ScenesSource
from embedstore.sources.scenes.claims import Claim, Noun, thing_named
from embedstore.sources.scenes.describe import long_description
from embedstore.sources.scenes.draw import draw_mask, draw_picture
from embedstore.sources.scenes.tongues import TONGUES
from embedstore.sources.scenes.world import (
    COLOURS,
    GROUND_COLOURS,
    GROUND_PATTERNS,
    LIGHTS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    relation_fails,
    relation_holds,
    sample_scene,
)

seeds = st.integers(0, 2**40)
indices = st.integers(0, 50_000)
few = settings(max_examples=40, deadline=None)
many = settings(max_examples=200, deadline=None)


def texts(sample, role, language="en"):
    return [c for c in sample.captions if c.role == role and c.language == language]


def fingerprint(sample):
    pixels = hashlib.sha256(sample.picture.open().tobytes() + sample.mask.open().tobytes()).hexdigest()
    return repr((sample.id, sample.captions, sample.label, sample.split, pixels))


_NOUN = re.compile(
    rf"\b(?:an?|the) (?:({'|'.join(SIZES)}) )?(?:({'|'.join(COLOURS)}) )?"
    rf"(?:({'|'.join(TEXTURES)}) )?({'|'.join(SHAPES)})\b"
)
_GROUND = re.compile(rf"on a (?:({'|'.join(GROUND_PATTERNS)}) )?({'|'.join(GROUND_COLOURS)}) background")
_LINKS = {
    "left of": {"left of", "to the left of"},
    "right of": {"right of", "to the right of"},
    "above": {"above", "over"},
    "below": {"below", "under"},
    "inside": {"inside", "within"},
    "in front of": {"in front of", "partly covering"},
}
_PLACE = re.compile(r"(?:in|at|on) the (.+?) of the picture")
_PLACE_WORDS = {
    "top": "upper middle",
    "bottom": "lower middle",
    "left": "middle left",
    "right": "middle right",
    **{name: name for name in PLACES.values()},
}


def false_parts(text, scene):
    """What the scene contradicts in a caption; every word of it must be understood."""
    wrong = []
    rest = text.removesuffix(".").replace("The picture shows ", "").replace("One can see ", "")
    rest = rest.replace("There is ", "")
    rest = rest[0].lower() + rest[1:]
    ground = _GROUND.search(rest)
    if ground:
        wrong += ["ground pattern"] * (ground[1] not in {None, scene.ground_pattern})
        wrong += ["ground colour"] * (ground[2] != scene.ground_colour)
        rest = rest.replace(ground[0], "")
    nouns = list(_NOUN.finditer(rest))
    assert nouns, text
    things = []
    for noun in nouns:
        thing = next((t for t in scene.things if t.shape == noun[4]), None)
        things.append(thing)
        if thing is None:
            wrong.append("object")
            continue
        said = zip(noun.groups()[:3], (thing.size, thing.colour, thing.texture), strict=True)
        wrong += ["attribute" for word, fact in said if word not in {None, fact}]
    tail = rest[nouns[-1].end() :].strip(" ,")
    if tail:
        place = _PLACE.fullmatch(tail)
        assert place, text
        first = things[0]
        if first is not None:
            column = -1 if first.x < 0.42 else 1 if first.x > 0.58 else 0
            row = -1 if first.y < 0.42 else 1 if first.y > 0.58 else 0
            wrong += ["relation"] * (PLACES[column, row] != _PLACE_WORDS[place[1]])
    for (one, left), (other, right) in zip(
        zip(nouns, things, strict=True), zip(nouns[1:], things[1:], strict=True), strict=False
    ):
        link = rest[one.end() : other.start()].strip()
        if link in {",", "and"} or left is None or right is None:
            continue
        name = next(name for name, ways in _LINKS.items() if link in ways)
        apart = np.hypot(left.x - right.x, left.y - right.y)
        true = {
            "left of": left.x < right.x - 0.1,
            "right of": left.x > right.x + 0.1,
            "above": left.y < right.y - 0.1,
            "below": left.y > right.y + 0.1,
            "inside": apart + left.radius < 0.7 * right.radius,
            "in front of": apart < right.radius
            and scene.things.index(left) > scene.things.index(right)
            and apart + left.radius > right.radius,
        }[name]
        wrong += ["relation"] * (not true)
    return wrong


@few
@given(seeds, indices, st.integers(32, 96))
def test_a_sample_depends_on_seed_index_and_size_alone(seed, index, size):
    first = ScenesSource(index + 1, seed, size)[index]
    again = ScenesSource(index + 9, seed, size)[index]
    assert fingerprint(first) == fingerprint(again)
    assert ScenesSource(index + 1, seed, size + 1)[index].captions == first.captions
    assert ScenesSource(index + 1, seed + 1, size)[index].captions != first.captions


def test_another_process_draws_the_same_and_imports_no_torch():
    code = (
        "import sys; from embedstore.sources.scenes import ScenesSource as S; import hashlib\n"
        "s = S.from_spec('50?seed=7&size=64')\n"
        "for i in (41, 3):\n"
        "    x = s[i]; b = x.picture.open().tobytes() + x.mask.open().tobytes()\n"
        "    h = hashlib.sha256(b).hexdigest()\n"
        "    print(repr((x.id, x.captions, x.label, x.split, h)))\n"
        "assert not {'torch', 'transformers', 'torchvision'} & set(sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    source = ScenesSource.from_spec("50?seed=7&size=64")
    assert out.stdout.splitlines() == [fingerprint(source[41]), fingerprint(source[3])]


def test_listing_draws_nothing(monkeypatch):
    for name in ("draw_picture", "draw_mask"):
        monkeypatch.setattr(f"embedstore.sources.scenes.source.{name}", lambda *_: pytest.fail("drawn"))
    sample = ScenesSource(3)[2]
    assert sample.picture.ref == "scenes/000002"
    assert sample.picture.nbytes is None
    assert isinstance(sample.picture, Picture)
    assert isinstance(sample.mask, Mask)


def test_split_shares_labels_and_identity():
    source = ScenesSource.from_spec("2500?seed=3")
    samples = [source[i] for i in range(len(source))]
    splits = Counter(s.split for s in samples)
    assert 0.77 < splits["train"] / 2500 < 0.83
    assert 0.085 < splits["val"] / 2500 < 0.115
    assert 0.085 < splits["test"] / 2500 < 0.115
    labels = Counter(s.label for s in samples)
    assert set(labels) == set(SHAPES)
    assert min(labels.values()) > 2500 / len(SHAPES) / 2
    assert len({s.id for s in samples}) == 2500
    assert source.identity == {"kind": "scenes", "count": 2500, "seed": 3, "size": 224, "revision": 1}
    assert source.shuffled
    assert source.classes == ("background", *SHAPES)
    english = Counter(c.text for s in samples for c in texts(s, "caption"))
    assert sum(n for n in english.values() if n > 1) < 0.1 * sum(english.values())


def test_a_tail_makes_later_shapes_rare_by_its_power():
    source = ScenesSource.from_spec("4000?seed=3&tail=1.2")
    labels = Counter(sample_scene(3, i, tail=1.2).main.shape for i in range(4000))
    weights = np.arange(1, 13) ** -1.2
    expected = 4000 * weights / weights.sum()
    found = np.array([labels[shape] for shape in SHAPES])
    assert (np.abs(found - expected) < 4 * np.sqrt(expected)).all()
    further = Counter(t.shape for i in range(4000) for t in sample_scene(3, i, tail=1.2).things[1:])
    assert further["square"] > 3 * further["flower"]
    assert source.identity == {
        "kind": "scenes", "count": 4000, "seed": 3, "size": 224, "tail": 1.2, "revision": 1,
    }  # fmt: skip
    even = ScenesSource.from_spec("4000?seed=3&tail=0")
    assert even.identity == ScenesSource(4000, 3).identity
    assert fingerprint(even[17]) == fingerprint(ScenesSource(4000, 3)[17])


@few
@given(seeds, indices, st.floats(0.1, 4))
def test_samples_of_a_tail_are_as_true_as_others(seed, index, tail):
    sample, scene = ScenesSource(index + 1, seed, 64, tail)[index], sample_scene(seed, index, tail=tail)
    assert sample.label == scene.main.shape
    assert sample.picture.open() == draw_picture(scene, 64)
    assert (sample.mask.open() == draw_mask(scene, 64)).all()
    for caption in texts(sample, "caption"):
        assert false_parts(caption.text, scene) == [], caption.text


def test_so_many_captions_and_no_other_text():
    whole = ScenesSource(200, 5)
    for count in (1, 2, 3):
        some = ScenesSource.from_spec(f"200?seed=5&captions={count}")
        assert some.identity["captions"] == count
        places = set()
        for i in range(200):
            english, own = texts(whole[i], "caption"), some[i].captions
            assert len(own) == len(set(own)) == count
            assert set(own) <= set(english)
            places.add(english.index(own[0]))
        assert places == {0, 1, 2, 3}


@many
@given(seeds, indices)
def test_captions_are_true_and_negatives_false_by_one_change(seed, index):
    scene, sample = sample_scene(seed, index), ScenesSource(index + 1, seed)[index]
    captions = texts(sample, "caption")
    assert len({c.text for c in captions}) >= 3
    assert all(c.category is None for c in captions)
    for caption in captions:
        assert false_parts(caption.text, scene) == [], caption.text
    negatives = texts(sample, "negative")
    assert {c.category for c in negatives} == {"attribute", "object", "relation"}
    for negative in negatives:
        assert false_parts(negative.text, scene), negative.text
        assert min(changed(negative.text, c.text) for c in captions) <= 6, negative.text
        assert set(false_parts(negative.text, scene)) == {negative.category}, negative.text


def changed(one, other):
    """How many words two texts do not share, articles aside; 0 where two words changed places."""
    left, right = (Counter(re.findall(r"[\w-]+", text.lower())) for text in (one, other))
    return sum(n for word, n in ((left - right) + (right - left)).items() if word not in {"a", "an"})


@many
@given(seeds, indices)
def test_long_descriptions_are_long_and_true(seed, index):
    scene, sample = sample_scene(seed, index), ScenesSource(index + 1, seed)[index]
    (caption,) = texts(sample, "long")
    assert len(caption.text.split()) >= 100
    assert caption.text == long_description(scene)
    named = [m.groups() for m in _NOUN.finditer(caption.text) if m[1]]
    assert named == [(t.size, t.colour, t.texture, t.shape) for t in scene.things]
    assert f"on a {scene.ground_colour} background" in caption.text
    others = {other for other in SHAPES if thing_named(scene, other) is None}
    read = caption.text.replace("square tiles", "")
    assert not others & set(re.findall(r"\w+", read))


@few
@given(seeds, indices)
def test_languages(seed, index):
    sample = ScenesSource(index + 1, seed)[index]
    for language in ("de", "fr", "es"):
        assert len({c.text for c in texts(sample, "caption", language)}) == 2
        assert not [c for c in sample.captions if c.language == language and c.role != "caption"]
    assert {c.language for c in sample.captions} == {"en", "de", "fr", "es"}
    assert all(c.text[0].isupper() and c.text.endswith(".") for c in sample.captions)


def test_agreement_in_four_languages():
    star = Noun(shape="star", colour="white", texture="striped", size="small")
    square = Noun(shape="square", colour="black", texture="plain", size="large")
    claim = Claim(
        subject=star,
        others=(square,),
        relation="left of",
        ground_colour="light blue",
        ground_pattern="grainy",
        wording=1,
    )
    assert TONGUES["en"].sentence(claim) == (
        "There is a small white striped star to the left of a large black plain square"
        " on a grainy light blue background."
    )
    assert TONGUES["de"].sentence(claim) == (
        "Das Bild zeigt einen kleinen weißen gestreiften Stern links von einem großen schwarzen"
        " einfarbigen Quadrat vor körnigem hellblauem Hintergrund."
    )
    assert TONGUES["fr"].sentence(claim) == (
        "L'image montre une petite étoile blanche rayée à gauche d'un grand carré noir uni"
        " sur un fond bleu clair granuleux."
    )
    assert TONGUES["es"].sentence(claim) == (
        "La imagen muestra una estrella blanca pequeña a rayas a la izquierda de un cuadrado negro"
        " grande liso sobre un fondo azul claro granulado."
    )
    flower = Noun(shape="flower", colour="purple", size="medium-sized")
    placed = Claim(subject=flower, place="upper left")
    assert [t.sentence(placed) for t in TONGUES.values()] == [
        "A medium-sized purple flower in the upper left of the picture.",
        "Eine mittelgroße violette Blume oben links im Bild.",
        "Une fleur violette de taille moyenne en haut à gauche de l'image.",
        "Una flor morada mediana en la parte superior izquierda de la imagen.",
    ]
    listed = Claim(subject=flower, others=(star, replace(square, colour="orange")), wording=2)
    assert TONGUES["en"].sentence(listed) == (
        "The picture shows a medium-sized purple flower, a small white striped star"
        " and a large orange plain square."
    )


def test_every_word_is_known_in_every_language():
    grounds = [(c, p) for c in GROUND_COLOURS for p in GROUND_PATTERNS]
    for tongue in TONGUES.values():
        for case in {case for _, case in tongue.frames} | {"dative" if tongue is TONGUES["de"] else "a"}:
            for shape in SHAPES:
                for colour in COLOURS:
                    for texture in TEXTURES:
                        for size in SIZES:
                            noun = Noun(shape=shape, colour=colour, texture=texture, size=size)
                            assert tongue.noun(noun, case)
        assert len({tongue.ground(c, p) for c, p in grounds}) == len(grounds)
        assert set(tongue.places) == set(PLACES.values())
        assert set(tongue.relations) == set(RELATIONS)


@many
@given(seeds, indices)
def test_no_relation_both_holds_and_fails(seed, index):
    scene = sample_scene(seed, index)
    for one in range(len(scene.things)):
        for other in range(len(scene.things)):
            if one != other:
                for name in RELATIONS:
                    assert not (
                        relation_holds(scene, one, name, other) and relation_fails(scene, one, name, other)
                    )


@few
@given(seeds, indices, st.sampled_from([64, 112, 224]))
def test_mask_and_picture_show_the_same_things(seed, index, size):
    scene = sample_scene(seed, index)
    mask, picture = draw_mask(scene, size), draw_picture(scene, size)
    assert picture.mode == "RGB"
    assert picture.size == (size, size)
    assert mask.shape == (size, size)
    assert mask.dtype == np.uint8
    areas = {SHAPES[i - 1]: int((mask == i).sum()) for i in np.unique(mask) if i}
    assert set(areas) == {t.shape for t in scene.things}
    assert max(areas, key=areas.__getitem__) == scene.main.shape
    assert areas[scene.main.shape] > 0.05 * size * size
    for thing in scene.things:
        rows, columns = np.nonzero(mask == 1 + SHAPES.index(thing.shape))
        reach = np.hypot((columns + 0.5) / size - thing.x, (rows + 0.5) / size - thing.y).max()
        assert reach <= 1.1 * thing.radius + 2 / size


@few
@given(seeds, indices)
def test_pixels_inside_a_mask_differ_from_the_ground_beneath(seed, index):
    scene = replace(sample_scene(seed, index), noise=0.0, blur=0.0, light="even")
    empty = np.asarray(draw_picture(replace(scene, things=()), 112), np.int16)
    shown = np.asarray(draw_picture(scene, 112), np.int16)
    mask = draw_mask(scene, 112)
    moved = np.abs(shown - empty).max(axis=2) > 12
    assert moved[mask > 0].mean() > 0.5
    assert moved[mask == 0].mean() < 0.03
    for thing in scene.things:
        assert moved[mask == 1 + SHAPES.index(thing.shape)].mean() > 0.3


@few
@given(seeds, indices, st.sampled_from(LIGHTS[1:]))
def test_light_darkens_the_far_side(seed, index, light):
    scene = replace(sample_scene(seed, index), things=(), ground_pattern="plain", light=light, noise=0.0)
    grey = np.asarray(draw_picture(scene, 64).convert("L"), np.float64)
    turned = {"left": grey, "right": grey[:, ::-1], "top": grey.T, "bottom": grey.T[:, ::-1]}[light]
    assert turned[:, :16].mean() > 1.2 * turned[:, -16:].mean()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "number of scenes is not a whole number"),
        ("many", "found: 'many'"),
        ("-3", "not a whole number"),
        ("2.5", "not a whole number"),
        ("0", "out of range"),
        ("99999999999", "out of range"),
        ("5?sede=1", "allowed: seed, size, tail, captions"),
        ("5?seed=", "the seed is not a whole number"),
        ("5?seed", "the seed is not a whole number"),
        ("5?size=8", "allowed: 32 to 1024"),
        ("5?size=5000", "allowed: 32 to 1024"),
        ("5?seed=1&seed=2", "given twice"),
        ("5?seed=²", "not a whole number"),
        ("5?tail=", "the tail is not a decimal number"),
        ("5?tail=1e3", "allowed: 0 to 4, such as 1.2"),
        ("5?tail=4.5", "the tail is out of range"),
        ("5?tail=-1", "not a decimal number"),
        ("5?captions=0", "allowed: 1 to 3"),
        ("5?captions=4", "allowed: 1 to 3"),
    ],
)
def test_bad_specs_are_refused_in_words(spec, words):
    with pytest.raises(UsageError) as caught:
        ScenesSource.from_spec(spec)
    assert words in str(caught.value)
    assert "scenes" in str(caught.value)


def test_specs_and_indices():
    source = ScenesSource.from_spec("500?seed=4&size=64")
    assert (source.count, source.seed, source.size) == (500, 4, 64)
    assert ScenesSource.from_spec("5") == ScenesSource(5, 0, 224)
    with pytest.raises(IndexError):
        source[500]
    with pytest.raises(IndexError):
        source[-1]
