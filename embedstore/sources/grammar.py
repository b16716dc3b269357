"""What the word SOURCE means on a command line: `kind:rest`, or a path whose kind is detected."""

from __future__ import annotations

import inspect
import os
import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

from embedstore.errors import SourceError, UsageError
from embedstore.registry import Registry
from embedstore.sources.reading.files import is_url
from embedstore.sources.reading.patterns import is_pattern
from embedstore.sources.sniffing import kind_of_file
from embedstore.sources.wording import split_options

if TYPE_CHECKING:
    from embedstore.sources.base import Source

SOURCES = Registry(
    "source kind",
    {
        "folder": "embedstore.sources.folder:FolderSource",
        "table": "embedstore.sources.table:TableSource",
        "webdataset": "embedstore.sources.webdataset.source:WebDatasetSource",
        "hf": "embedstore.sources.hf.source:HfSource",
        "laion": "embedstore.sources.laion:LaionSource",
        "scenes": "embedstore.sources.scenes:ScenesSource",
        "coco": "embedstore.sources.coco:CocoSource",
        "karpathy": "embedstore.sources.karpathy:KarpathySource",
        "flickr": "embedstore.sources.flickr:FlickrSource",
        "imagenet": "embedstore.sources.imagenet:ImagenetSource",
        "dci": "embedstore.sources.dci:DciSource",
        "sugarcrepe": "embedstore.sources.sugarcrepe:SugarCrepeSource",
        "xtd": "embedstore.sources.xtd:XtdSource",
        "segmentation": "embedstore.sources.segmentation:SegmentationSource",
    },
    group="embedstore.sources",
)
"""A kind is a class with `from_spec(rest, **options)`; it takes the options its `__init__` or it names."""

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
DATASET_FILES = ("dataset_info.json", "dataset_dict.json", "state.json")
_LOOK_AT = 10_000
TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
_KIND = re.compile(r"([A-Za-z][A-Za-z0-9_-]*):(?!//)(.*)", re.DOTALL)


def open_source(spec: str, **options: object) -> Source:
    """Open the source that `spec` names: `folder:PATH`, `table:PATH`, `scenes:500?seed=0`, or a path.

    A path is a folder, a table or tar shards by its ending, or a data set by what lies in it; so is a URL
    (`s3://`, `gs://`, `http(s)://`, `memory://`). `options` that are None or empty count as not given; others
    must be known to the kind: `columns` (our name -> theirs), `image_root` (Path), `language` (of captions
    that name none). Raises `UsageError`, `UnknownNameError` or `SourceError`.
    """
    kind, rest = split_spec(spec)
    made_by = SOURCES.load(kind)
    given = {name: value for name, value in options.items() if value is not None and value != {}}
    known = _options_of(made_by)
    for name in given:
        if name not in known:
            raise UsageError(
                f"option {name!r} has no meaning for the source kind {kind!r}",
                allowed=", ".join(sorted(known)) or "no options",
            )
    return cast("Source", made_by.from_spec(rest, **given))


def split_spec(spec: str) -> tuple[str, str]:
    """`(kind, rest)` of a SOURCE; looks at the disk where no kind is written."""
    if not spec:
        raise UsageError("no source is given", allowed="a path, or kind:rest as in scenes:500?seed=0")
    if is_url(spec):
        return _kind_of_url(spec), spec
    there = Path(spec).expanduser().exists()
    written = _KIND.fullmatch(spec)
    if written is None or (there and written[1] not in SOURCES):
        return _kind_of_path(Path(spec).expanduser(), spec), spec
    if there:
        raise UsageError(
            "this is the name of a file as well as a source kind",
            found=spec,
            todo=f"write ./{spec} for the file",
        )
    return written[1], written[2]


def _kind_of_url(spec: str) -> str:
    # By the spelling alone: nothing is asked of a server before the kind is known.
    place = split_options(spec, None)[0].lower()
    if place.endswith(TAR_ENDINGS):
        return "webdataset"
    return "table" if place.endswith(TABLE_ENDINGS) and not is_pattern(place) else "folder"


def _kind_of_path(path: Path, spec: str) -> str:
    if not path.exists():
        place = split_options(spec, None)[0]
        if place.lower().endswith(TAR_ENDINGS) and (is_pattern(place) or Path(place).exists()):
            return "webdataset"
        kind = kind_of_file(Path(place).expanduser()) if Path(place).expanduser().is_file() else None
        if kind is not None:
            return kind
        raise SourceError("there is no such file or folder", found=spec)
    if path.is_dir():
        return _kind_of_folder(path)
    if path.suffix.lower() in TABLE_ENDINGS:
        return "table"
    if path.name.lower().endswith(TAR_ENDINGS):
        return "webdataset"
    kind = kind_of_file(path)
    if kind is not None:
        return kind
    raise SourceError(
        "cannot tell what kind of source this is",
        found=spec,
        allowed=f"a folder of pictures, a table ({', '.join(TABLE_ENDINGS)}), tar shards, a saved data set, "
        "or a caption file of COCO, Karpathy or Flickr",
        todo="name the kind: KIND:PLACE",
    )


def _kind_of_folder(path: Path) -> str:
    if any((path / name).is_file() for name in DATASET_FILES):
        return "hf"
    from embedstore.sources.folder import EXTENSIONS

    with os.scandir(path) as entries:
        names = [e.name.lower() for e in islice(entries, _LOOK_AT) if not e.name.startswith(".")]
    tars = [name for name in names if name.endswith(TAR_ENDINGS)]
    return "webdataset" if tars and not any(n.endswith(EXTENSIONS) for n in names) else "folder"


def _options_of(made_by: type) -> set[str]:
    known: set[str] = set()
    for function in (made_by.__init__, made_by.from_spec):  # type: ignore[attr-defined, misc]  # every kind has it
        parameters = inspect.signature(function).parameters.values()
        known |= {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return known
