from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from embedstore.documents import ProcessorCard
from embedstore.encoders.placement import placement_of
from embedstore.errors import UsageError

SIZES = [(133, 201), (250, 97), (120, 120), (131, 132)]


def card(resize: str, crop: str | None, size=(28, 28), backend="pil") -> ProcessorCard:
    return ProcessorCard(
        class_name="Any",
        backend=backend,
        size=size,
        resize=resize,
        crop=crop,
        interpolation="bilinear+antialias",
        rescale=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def hf(backend: str, **options):
    import transformers

    from embedstore.encoders.hf_processor import Preparation, describe

    kind = getattr(transformers, "BitImageProcessor" + ("Pil" if backend == "pil" else ""))
    processor = kind(**{"resample": 2, "do_normalize": False, "do_rescale": False, **options})
    own = describe(processor, name="BitImageProcessor", where="test")
    return Preparation(processor, own, own_size=None)


def plain(transform):
    """The values as they were before the transform's mean and std, 0 to 255."""
    mean, std = (np.array(x)[:, None, None] for x in (transform.card.mean, transform.card.std))
    return lambda picture: (transform(picture) * std + mean) * 255


def prepared(name: str):
    """A library's own preprocessing by name: what makes pixels 0 to 255, and its card."""
    library, _, mode = name.partition(":")
    if library in ("pil", "torchvision"):
        options = {
            "crop": {"size": {"shortest_edge": 32}, "crop_size": {"height": 27, "width": 28}},
            "exact": {"size": {"height": 28, "width": 36}, "do_center_crop": False},
        }[mode]
        made = hf(library, **options)
        return made, made.card
    if library == "timm":
        pytest.importorskip("timm")
        from embedstore.encoders.timm import transform_of

        config = {
            "input_size": (3, 28, 36) if mode == "fill" else (3, 28, 28),
            "crop_pct": 0.875,
            "crop_mode": "center" if mode == "fill" else mode,
            "interpolation": "bilinear",
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
        }
        made = transform_of(config, where="test")
    else:
        pytest.importorskip("open_clip")
        from embedstore.encoders.open_clip import _transform

        settings = {"size": (28, 28), "resize_mode": mode, "interpolation": "bilinear"}
        made = _transform(SimpleNamespace(visual=SimpleNamespace(preprocess_cfg=settings)), where="test")
    return plain(made), made.card


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "name",
    ["pil:crop", "torchvision:crop", "pil:exact", "torchvision:exact"]
    + [f"timm:{mode}" for mode in ("center", "squash", "border", "fill")]
    + [f"open_clip:{mode}" for mode in ("shortest", "longest", "squash")],
)
def test_a_mask_lies_where_the_library_puts_the_picture(name: str, size: tuple[int, int]) -> None:
    prepare, own = prepared(name)
    rows, columns = np.indices(size)
    picture = Image.fromarray(np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8))
    pixels = prepare(picture)
    found = placement_of(own, size)
    assert pixels.shape[1:] == found.size
    shown = pixels[:2, *found.inside]
    masks = [found.resize(plane)[found.seen] for plane in (rows, columns)]
    assert shown.shape[1:] == masks[0].shape
    for plane, mask in zip(shown, masks, strict=True):
        # A filter at an edge lacks one side; inside, the nearest pixel is within half a pixel and rounding.
        inner = (slice(2, -2), slice(2, -2))
        assert np.abs(plane[inner] - mask[inner]).max() < 1.2


def test_truth_table_of_sizes_and_windows() -> None:
    crop = placement_of(card("shortest_edge=32", "center=28x28"), (64, 129))
    assert (crop.resized, crop.top, crop.left) == ((32, 64), 2, 18)
    assert (crop.seen, crop.inside) == (
        (slice(2, 30), slice(18, 46)),
        (slice(0, 28), slice(0, 28)),
    )
    assert crop.box == (18 / 64, 2 / 32, 46 / 64, 30 / 32)
    border = placement_of(card("inside=28x28", "pad=0", backend="open_clip"), (40, 80))
    assert (border.resized, border.top, border.left) == ((14, 28), -7, 0)
    assert (border.seen, border.inside) == ((slice(0, 14), slice(0, 28)), (slice(7, 21), slice(0, 28)))
    # torchvision rounds half a pixel to the even number, transformers down.
    odd = [placement_of(card("exact=31x31", "center=28x28", backend=b), (9, 9)).top for b in ("pil", "timm")]
    assert odd == [1, 2]


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_nearest_pixel_is_the_one_that_holds_the_centre(count: int, wanted: int) -> None:
    found = placement_of(card(f"exact={wanted}x1", None, size=(wanted, 1)), (count, 1))
    mask = np.arange(count, dtype=np.uint8)[:, None]
    centres = [(Fraction(i) + Fraction(1, 2)) * count / wanted for i in range(wanted)]
    assert found.resize(mask)[:, 0].tolist() == [int(c) for c in centres]


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match=r"resize that is not known[\s\S]*longest_edge=9"):
        placement_of(card("longest_edge=9", "center=28x28"), (9, 9))
    with pytest.raises(UsageError, match=r"picture of 30x28[\s\S]*28x28"):
        placement_of(card("none", None), (30, 28))
    with pytest.raises(UsageError, match="another size than its picture"):
        placement_of(card("exact=28x28", None), (30, 28)).resize(np.zeros((28, 30), np.uint8))
