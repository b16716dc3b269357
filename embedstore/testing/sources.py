"""The contract of a source as a test class: subclass it and give a fixture `source`."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.errors import UnreadableImage
from embedstore.sources.base import ROLES, UNLABELLED

if TYPE_CHECKING:
    from embedstore.sources.base import Picture, Source

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,8})*")


class SourceContract:
    """What `encode` relies on. A plug-in's test is a subclass with a pytest fixture `source`.

    Every sample of the source is looked at, so the fixture should be small: some ten to a hundred samples.
    """

    def test_every_index_below_the_length_and_no_other(self, source: Source) -> None:
        """`source[i]` answers for 0 to len-1 and raises `IndexError` at len."""
        count = len(source)
        _require(count > 0, "a source without samples is refused when it is opened")
        for index in range(count):
            source[index]
        try:
            source[count]
        except IndexError:
            return
        raise AssertionError(f"source[{count}] answers, though there are {count} samples")

    def test_the_same_sample_every_time(self, source: Source) -> None:
        """Ids, texts, labels and picture names do not change between two looks, whatever their order."""
        count = len(source)
        forwards = [_facts(source, i) for i in range(count)]
        backwards = [_facts(source, i) for i in reversed(range(count))][::-1]
        _require(forwards == backwards, "a second look gives other samples")

    def test_ids_are_unique(self, source: Source) -> None:
        """No id stands twice, and none is empty."""
        ids = [source[i].id for i in range(len(source))]
        _require(all(ids), "an empty id")
        _require(len(set(ids)) == len(ids), "an id stands twice")

    def test_every_sample_holds_something(self, source: Source) -> None:
        """A sample has a picture or a text."""
        for i in range(len(source)):
            sample = source[i]
            _require(
                sample.picture is not None or bool(sample.captions),
                f"{sample.id} has neither picture nor text",
            )

    def test_captions_are_proper(self, source: Source) -> None:
        """Roles are known, languages are tags in lower case, texts are not empty and encode to UTF-8."""
        for i in range(len(source)):
            for caption in source[i].captions:
                _require(caption.role in ROLES, f"unknown role {caption.role!r}")
                _require(bool(_LANGUAGE.fullmatch(caption.language)), f"language {caption.language!r}")
                _require(caption.text.strip() != "" and "\0" not in caption.text, f"text {caption.text!r}")
                caption.text.encode()

    def test_labels_and_classes_agree(self, source: Source) -> None:
        """Class names are unique, and a source that has classes has every label among them."""
        classes = source.classes
        _require(len(set(classes)) == len(classes), "a class name stands twice")
        for i in range(len(source)):
            label = source[i].label
            _require(not classes or label is None or label in classes, f"label {label!r} is no class")

    def test_identity_is_plain_and_free_of_paths(self, source: Source) -> None:
        """The identity holds plain values only, and nothing of this machine; so do picture names."""
        here = {str(p) for p in (Path.home(), Path.cwd(), Path(tempfile.gettempdir())) if p != Path("/")}
        values = [*source.identity, *source.identity.values()]
        pictures = (source[i].picture for i in range(len(source)))
        values += [picture.ref for picture in pictures if picture is not None]
        for value in values:
            _require(isinstance(value, (str, int, float, bool)), f"{value!r} is not a plain value")
            text = str(value)
            _require(not Path(text).is_absolute() and not any(p in text for p in here), f"{text!r} is a path")

    def test_pictures_open_as_rgb_or_say_why_not(self, source: Source) -> None:
        """A picture is RGB, or `UnreadableImage` with a short reason without a path."""
        for i in range(len(source)):
            picture = source[i].picture
            if picture is not None:
                _opens_or_says_why(picture)

    def test_masks_lie_on_their_pictures(self, source: Source) -> None:
        """A mask is `(h, w)` uint8 of its upright picture's size; its ids are classes, or `UNLABELLED`."""
        for i in range(len(source)):
            sample = source[i]
            if sample.mask is None or sample.picture is None:
                continue
            mask, (width, height) = sample.mask.open(), sample.picture.open().size
            _require(str(mask.dtype) == "uint8", f"a mask of type {mask.dtype}")
            _require(mask.shape == (height, width), f"a mask {mask.shape} on a picture {(height, width)}")
            ids = mask[mask != UNLABELLED]
            _require(not ids.size or int(ids.max()) < len(source.classes), "a mask id that is no class")


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    # Not `assert`: pytest rewrites the asserts of test files only, and -O drops them.
    if not holds:
        raise AssertionError(otherwise)


def _facts(source: Source, index: int) -> tuple[object, ...]:
    sample = source[index]
    picture = None if sample.picture is None else (sample.picture.ref, sample.picture.nbytes)
    return sample.id, picture, sample.captions, sample.label, sample.split, sample.mask is None


def _opens_or_says_why(picture: Picture) -> None:
    try:
        opened = picture.open()
    except UnreadableImage as why:
        _require(0 < len(why.problem) <= 200, "a reason is short")
        _require(not re.search(r"(^|\s)/\w", why.problem), f"a path in the reason {why.problem!r}")
        return
    _require(opened.mode == "RGB", f"a picture of mode {opened.mode}")
