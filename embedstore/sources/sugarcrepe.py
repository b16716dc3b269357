"""The source `sugarcrepe:PATH`: captions and altered captions, a json file for each kind of change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embedstore.errors import SourceError
from embedstore.sources.reading.files import at as file_at
from embedstore.sources.reading.json_stream import At, an_object, json_parts, text_of
from embedstore.sources.samples.grouping import check_language
from embedstore.sources.samples.listed import Columns, ListedSource, NearPlaces, names_in, place_of, stem
from embedstore.sources.wording import split_options

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.sources.reading.files import File
    from embedstore.sources.reading.rows import Rows


class SugarCrepeSource(ListedSource):
    """Pictures, their captions, and for each caption the altered ones (role `negative`) with their category.

    `path` is a json file or a folder of them: `add_att.json`, `replace_obj.json`, ... An item, in a list or
    under any key, has `filename`, `caption` and `negative_caption`; its category is its own `category` where
    it has one, else the name of the file. A picture that several items name is one sample. A caption stands
    once, however many items alter it, and its negatives follow it directly: that order ties them
    (`store.selection.altered`).
    """

    def __init__(
        self, path: Path | File, *, image_root: Path | File | None = None, language: str = "en"
    ) -> None:
        path, language = file_at(path), check_language(language)
        alone = path.is_file()
        files = [path] if alone else [path.child(name) for name in names_in(path, ".json")]
        if not files:
            raise SourceError("no json files in this folder", found=path)
        pictures: dict[str, _Picture] = {}
        for file in files:
            _read(file, pictures)
        super().__init__(
            _rows(pictures),
            NearPlaces(path.parent if alone else path, image_root, _NEAR),
            where=path.name,
            language=language,
            identity={"kind": "sugarcrepe"},
        )

    @classmethod
    def from_spec(cls, rest: str, **options: Any) -> SugarCrepeSource:
        """The source of `sugarcrepe:PATH`."""
        place, _ = split_options(rest, {})
        return cls(place_of(place, "file or folder"), **options)


_NEAR = ("images", "val2017", "images/val2017", "coco/images/val2017", "../val2017", "../images/val2017")


_FORM = '{"0": {"filename", "caption", "negative_caption"}, ...}'


@dataclass
class _Picture:
    """Captions of one picture: text to where it stood first, and its negatives with category and place."""

    captions: dict[str, tuple[At, list[tuple[str, str, At]]]] = field(default_factory=dict)


def _read(path: File, pictures: dict[str, _Picture]) -> None:
    items = 0
    for at, value in json_parts(path):
        item = an_object(value, at)
        category = text_of(item, "category", at) if "category" in item else stem(path.name)
        texts = [text_of(item, key, at).strip() for key in ("filename", "caption", "negative_caption")]
        if not all(texts):
            raise SourceError("an empty text", where=at, found=texts)
        name, caption, negative = texts
        known = pictures.setdefault(name, _Picture()).captions.setdefault(caption, (at, []))
        # An item that stands twice counts twice, as in the benchmark's own accuracy.
        known[1].append((negative, category, at))
        items += 1
    if not items:
        raise SourceError("no items in this file", where=path.name, allowed=_FORM)


def _rows(pictures: dict[str, _Picture]) -> Rows:
    columns, places = Columns("image", "caption", "role", "category"), list[At]()
    for name, picture in pictures.items():
        for caption, (at, negatives) in picture.captions.items():
            columns.add(image=name, caption=caption, role="caption", category=None)
            places.append(at)
            for negative, category, where in negatives:
                columns.add(image=name, caption=negative, role="negative", category=category)
                places.append(where)
    return columns.rows(lambda row: str(places[row]))
