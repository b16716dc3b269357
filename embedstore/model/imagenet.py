"""ImageNet's thousand classes by open_clip's names, for stores that label them in any of the usual ways."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from embedstore.encoders.open_clip import library
from embedstore.errors import MissingExtraError, UsageError
from embedstore.model.classes import ClassName
from embedstore.sources.imagenet import labels_of_synsets

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

IMAGENET = "imagenet"

_BRACKETED = re.compile(r"\((n\d{8})\)$")


def imagenet_templates() -> tuple[str, ...]:
    """The eighty templates of open_clip, with `{}`; `MissingExtraError` without it."""
    return tuple(template("{}") for template in library().OPENAI_IMAGENET_TEMPLATES)


def imagenet_classes(labels: Collection[str]) -> tuple[tuple[ClassName, ...], str]:
    """The thousand classes in ImageNet's order, each with the label that a store gives it; and which labels.

    `labels` are the store's: synsets, first names or all names as `imagenet:` folders have them, open_clip's
    names, or class numbers from 0; the way that knows most of them is taken. The words are open_clip's.
    `UsageError` where no way knows any, `MissingExtraError` without open_clip and timm.
    """
    synsets, words = _names()
    ways = _ways(synsets, words)
    known = {way: sum(label in places for label in labels) for way, places in ways.items()}
    way = max(known, key=known.__getitem__)
    places = ways[way]
    label_of = {k: label for label, k in places.items()}
    numbers = {synset: k for k, synset in enumerate(synsets)}
    for label in labels:
        # `imagenet:` writes `crane (n02012849)` where two synsets have the same names.
        ending = _BRACKETED.search(label)
        k = numbers.get(ending[1]) if ending and label not in places else None
        if k is not None and label_of[k] not in labels:
            label_of[k] = label
    if not any(label in labels for label in label_of.values()):
        raise UsageError(
            "no label of the store is a class of ImageNet",
            found=", ".join(sorted(labels)[:10]) or "no labels",
            allowed="synsets (n01440764), names (tench), open_clip's names, or class numbers (0 to 999)",
        )
    return tuple(ClassName(label=label_of[k], words=name) for k, name in enumerate(words)), way


def _ways(synsets: Mapping[str, str], words: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """What labels may be -> label -> class number; each has a label for every class."""
    count = Counter(words)
    listed = {
        "synsets": list(synsets),
        "first names": list(labels_of_synsets(synsets, "first").values()),
        "all names": list(labels_of_synsets(synsets, "all").values()),
        "open_clip's names": [
            name if count[name] == 1 else f"{name} ({synset})"
            for name, synset in zip(words, synsets, strict=True)
        ],
        "class numbers": [str(k) for k in range(len(words))],
    }
    return {way: {label: k for k, label in enumerate(labels)} for way, labels in listed.items()}


def _names() -> tuple[dict[str, str], tuple[str, ...]]:
    """Synset -> its names in WordNet, in the order of ImageNet, and open_clip's name of each."""
    words: tuple[str, ...] = tuple(library().IMAGENET_CLASSNAMES)
    info = _timm_info()
    synsets = {name: info.label_name_to_description(name) for name in info.label_names()}
    return synsets, words


def _timm_info() -> Any:
    try:
        from timm.data import ImageNetInfo
    except ModuleNotFoundError as absent:
        raise MissingExtraError(
            "the synsets of ImageNet need a package that is not installed",
            todo="pip install 'embedstore[open-clip]'",
        ) from absent
    return ImageNetInfo("imagenet-1k")
