"""Row order, tables and identity of a plan."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image

from embedstore.encode.plan import plan_source
from embedstore.errors import SourceError
from embedstore.sources.base import Caption, Sample


@dataclass(frozen=True)
class Dot:
    ref: str
    nbytes: int | None = 1

    def open(self):
        return Image.new("RGB", (8, 8))


@dataclass(frozen=True)
class Grey:
    def open(self):
        return np.full((4, 4), 2, np.uint8)


@dataclass
class Listed:
    """A source that is a list."""

    samples: list[Sample]
    shuffled: bool = True
    classes: tuple[str, ...] = ()
    identity: dict = field(default_factory=lambda: {"kind": "listed"})
    dropped: dict = field(default_factory=dict)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def sample(k, **changes):
    made = Sample(
        id=f"s{k}",
        picture=Dot(f"p{k}.png"),
        captions=(Caption(text=f"one {k}"), Caption(text=f"zwei {k}", language="de")),
        label=f"class{k // 10}",
        split="train" if k % 2 else "test",
    )
    return replace(made, **changes)


def listed(n=40, **options):
    return Listed([sample(k) for k in range(n)], **options)


def test_a_source_sorted_by_class_is_mixed_in_every_block():
    rows = list(plan_source(listed(40)).image_rows())
    for first in range(0, 40, 10):
        assert len({row["label"] for row in rows[first : first + 10]}) >= 3


def test_streams_keep_their_order():
    planned = plan_source(listed(shuffled=False))
    assert [row["id"] for row in planned.image_rows()] == [f"s{k}" for k in range(40)]
    assert planned.plan.order == "source"


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    assert plan_source(listed()).plan == plan_source(listed()).plan
    assert plan_source(listed()).plan != plan_source(listed(), seed=1).plan
    assert sorted(plan_source(listed(), seed=1).order) == list(range(40))


def test_texts_stand_in_the_order_of_their_images():
    planned = plan_source(listed())
    ids = [row["id"] for row in planned.image_rows()]
    texts = list(planned.text_rows())
    assert [t["image"] for t in texts] == sorted(t["image"] for t in texts)
    assert [t["id"] for t in texts[:4]] == [f"{ids[0]}#0", f"{ids[0]}#1", f"{ids[1]}#0", f"{ids[1]}#1"]


def test_pictures_are_found_by_row():
    planned = plan_source(listed())
    for row, line in enumerate(planned.image_rows()):
        id_, picture = planned.picture(row)
        assert (id_, picture.ref) == (line["id"], line["picture"])


def test_counts_splits_languages_and_roles():
    samples = [sample(k) for k in range(6)]
    samples[0] = replace(
        samples[0], split=None, captions=(Caption(text="x", role="negative", category="object"),)
    )
    plan = plan_source(Listed(samples)).plan
    assert (plan.images, plan.texts) == (6, 11)
    assert plan.splits == {"test": 2, "train": 3}
    assert plan.languages == {"de": 5, "en": 6}
    assert plan.roles == {"caption": 10, "negative": 1}


def test_samples_without_a_picture_have_texts_only():
    samples = [sample(0), sample(1, picture=None), sample(2)]
    planned = plan_source(Listed(samples, shuffled=False))
    assert planned.plan.images == 2
    assert [row["id"] for row in planned.image_rows()] == ["s0", "s2"]
    assert [row["image"] for row in planned.text_rows()] == [0, 0, None, None, 1, 1]
    assert planned.picture(1)[0] == "s2"


def test_masks_are_png_of_class_ids():
    planned = plan_source(
        Listed([sample(0), sample(1, mask=Grey())], shuffled=False, classes=("background", "a"))
    )
    (row,) = planned.mask_rows()
    assert planned.plan.masks
    assert row["image"] == 1
    assert row["png"].startswith(b"\x89PNG")


def test_limit_takes_the_first_of_the_planned_order():
    whole, part = plan_source(listed()), plan_source(listed(), limit=7)
    assert list(part.order) == list(whole.order[:7])
    assert part.plan.limit == 7


@pytest.mark.parametrize(
    "change",
    [
        {"label": "other"},
        {"split": "val"},
        {"id": "other"},
        {"captions": (Caption(text="other"),)},
        {"captions": (Caption(text="one 3"), Caption(text="zwei 3", language="nl"))},
        {"picture": Dot("other.png")},
        {"picture": Dot("p3.png", nbytes=2)},
        {"mask": Grey()},
    ],
)
def test_any_change_of_a_sample_changes_the_identity(change):
    changed = Listed([sample(k, **(change if k == 3 else {})) for k in range(5)])
    assert plan_source(changed).plan.source_sha256 != plan_source(listed(5)).plan.source_sha256


def test_two_samples_with_one_id_are_refused():
    with pytest.raises(SourceError, match=r"two samples share an id\n  found: s1"):
        plan_source(Listed([sample(1), sample(1)]))


def test_an_empty_source_is_refused():
    with pytest.raises(SourceError, match="the source has no samples"):
        plan_source(Listed([]))
