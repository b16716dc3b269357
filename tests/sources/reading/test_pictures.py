"""Pictures of any mode and orientation to upright RGB, and the reasons why some cannot be read."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from embedstore.errors import UnreadableImage, UsageError
from embedstore.sources.base import Picture
from embedstore.sources.reading.pictures import MAX_PIXELS, BytesPicture, FilePicture, open_picture, thumbnail

FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]


def encoded(image, fmt="PNG", **options):
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def quadrants():
    """16×8, a different colour in every quadrant, so that every orientation looks different."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:4, :8], pixels[:4, 8:] = (250, 10, 10), (10, 250, 10)
    pixels[4:, :8], pixels[4:, 8:] = (10, 10, 250), (250, 250, 250)
    return pixels


def noise(mode="RGB", size=(40, 30)):
    rng = np.random.default_rng(3)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)


def reason(data):
    with pytest.raises(UnreadableImage) as caught:
        open_picture(data)
    return caught.value.problem


def outcome(data):
    """The mode of the opened picture, or why there is none."""
    try:
        return open_picture(data).mode
    except UnreadableImage as why:
        return why.problem


# How the stored pixels come from the upright ones, from the definition of the EXIF tag.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(fmt, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](quadrants())))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(fmt, {})
    opened = open_picture(encoded(stored, fmt, exif=exif, **options))
    assert opened.size == (16, 8)
    assert np.abs(np.asarray(opened).astype(int) - quadrants()).max() <= 6
    assert opened.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(open_picture(encoded(noise(), exif=exif))), np.asarray(noise()))


def test_damaged_exif_leaves_the_pixels_alone():
    data = encoded(noise(), "JPEG")
    broken = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\xff\xff"
    with_exif = data[:2] + b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken + data[2:]
    assert np.array_equal(np.asarray(open_picture(with_exif)), np.asarray(open_picture(data)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_opaque_modes_keep_their_colours(mode):
    image = noise(mode)
    assert np.array_equal(np.asarray(open_picture(encoded(image))), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_print_and_video_modes(mode):
    flat = Image.new("RGB", (8, 8), (200, 100, 50))
    if mode == "LAB":
        assert reason(encoded(Image.new("LAB", (8, 8)), "TIFF")) == "unsupported pixel mode LAB"
        return
    opened = open_picture(encoded(flat.convert(mode), "TIFF" if mode == "YCbCr" else "JPEG", quality=100))
    assert opened.mode == "RGB"
    assert np.abs(np.asarray(opened).astype(int) - (200, 100, 50)).max() <= 4


@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_over_white(fmt):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = 0, 128, 255
    data = encoded(
        Image.fromarray(pixels, "RGBA"), fmt, **({"lossless": True, "exact": True} if fmt == "WEBP" else {})
    )
    over = [255 * (255 - a) / 255 + np.array([200, 0, 0]) * a / 255 for a in (0, 128, 255)]
    assert np.abs(np.asarray(open_picture(data))[0] - np.array(over)).max() <= 1


def test_grey_with_alpha_and_palette_transparency_lie_over_white():
    grey = Image.merge("LA", [Image.new("L", (2, 1), 100), Image.new("L", (2, 1), 0)])
    assert np.asarray(open_picture(encoded(grey))).tolist() == [[[255, 255, 255]] * 2]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    for transparency in (0, b"\x00\xff"):
        opened = open_picture(encoded(palette, transparency=transparency))
        assert np.asarray(opened).tolist() == [[[255, 255, 255], [200, 100, 50]]]
    rgb = Image.new("RGB", (1, 1), (1, 2, 3))
    assert np.asarray(open_picture(encoded(rgb, transparency=(1, 2, 3)))).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(fmt):
    levels = np.array([[0, 128, 129, 257, 32768, 65407, 65535]], np.uint16)
    opened = np.asarray(open_picture(encoded(Image.fromarray(levels), fmt)))
    assert opened[0, :, 0].tolist() == np.rint(levels[0] / 257).astype(int).tolist()
    assert (opened == opened[..., :1]).all()


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_pictures_without_a_stated_range_are_refused(dtype, mode):
    data = encoded(Image.fromarray(np.ones((4, 4), dtype)), "TIFF")
    assert reason(data) == f"unsupported pixel mode {mode}"


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(fmt):
    frames = [Image.new("RGB", (12, 12), colour) for colour in ("red", "blue", "lime")]
    data = encoded(frames[0], fmt, save_all=True, append_images=frames[1:])
    assert np.abs(np.asarray(open_picture(data)).astype(int) - (255, 0, 0)).max() <= 3


def test_a_phone_picture_with_several_frames():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert np.abs(np.asarray(open_picture(data)).astype(int) - (255, 0, 0)).max() <= 3


def test_colour_profiles_are_ignored():
    plain, profiled = encoded(noise()), encoded(noise(), icc_profile=b"not even a profile")
    opened = open_picture(profiled)
    assert np.array_equal(np.asarray(opened), np.asarray(open_picture(plain)))
    assert opened.info == {}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated(fmt, share):
    data = encoded(noise(), fmt)
    assert reason(data[: int(len(data) * share)]) == "truncated file"


@pytest.mark.parametrize("fmt", FORMATS)
def test_any_cut_and_any_flipped_byte_gives_a_picture_or_a_reason(fmt):
    data = encoded(noise(size=(9, 7)), fmt)
    rng = np.random.default_rng(0)
    outcomes = set()
    for trial in range(120):
        hostile = bytearray(data)
        hostile[int(rng.integers(len(data)))] = int(rng.integers(256))
        outcomes.add(outcome(bytes(hostile[: len(data) if trial % 2 else int(rng.integers(len(data)))])))
    assert not any("/" in one for one in outcomes)
    assert {"truncated file", "damaged file"} & outcomes
    assert "" not in outcomes


def png_header(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def test_bombs_are_refused_from_the_header():
    assert (
        reason(png_header(50_000, 50_000)) == f"decompression bomb: 50000×50000 pixels, allowed {MAX_PIXELS}"
    )
    # Pillow would warn here, between its two limits; the file is merely cut.
    assert reason(png_header(10_000, 10_000)) == "truncated file"


def test_a_limit_of_pillow_that_somebody_lowered(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    frames = [Image.new("L", (40, 40), 0), Image.new("L", (40, 40), 90)]
    assert open_picture(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).size == (40, 40)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty file"),
        (b"\0", "not an image of a known format"),
        (b"<html>", "not an image of a known format"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 50, "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image of a known format"),
        (b"\xff\xd8\xff" + b"\0" * 50, "damaged file"),
    ],
)
def test_what_is_no_picture(data, why):
    assert reason(data) == why


def test_files(tmp_path):
    whole = tmp_path / "a.jpg"
    whole.write_bytes(encoded(noise(), "PNG"))  # the name may lie about the format
    picture = FilePicture(whole, "a.jpg")
    assert isinstance(picture, Picture)
    assert picture.nbytes == whole.stat().st_size
    assert np.array_equal(np.asarray(picture.open()), np.asarray(noise()))
    assert pickle.loads(pickle.dumps(picture)) == picture  # noqa: S301 - our own bytes
    (tmp_path / "empty.png").touch()
    assert reason(tmp_path / "empty.png") == "empty file"
    assert reason(tmp_path / "none.png") == "file not found"
    assert FilePicture(tmp_path / "none.png", "none.png").nbytes is None
    assert reason(whole / "b.png") == "file not found"
    assert reason(tmp_path) == "not a file"
    assert FilePicture(tmp_path, "x").nbytes is None
    assert reason(tmp_path / ("x" * 300 + ".png")) == "cannot be read: File name too long"
    assert reason(tmp_path / "a\0.png") == "file not found"


def test_a_named_pipe_does_not_block(tmp_path):
    os = pytest.importorskip("os")
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path / "pipe.png") == "not a file"


def test_a_file_one_may_not_read(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(noise()))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(type(tmp_path), "open", refuse)
    assert reason(tmp_path / "a.png") == "permission denied"


def test_memory_that_runs_out_is_not_a_broken_picture(monkeypatch):
    def fail(self):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(MemoryError):
        open_picture(encoded(noise(), "BMP"))


def test_bytes_picture():
    data = encoded(noise())
    picture = BytesPicture(data, "row 3")
    assert isinstance(picture, Picture)
    assert (picture.nbytes, picture.ref) == (len(data), "row 3")
    assert np.array_equal(np.asarray(picture.open()), np.asarray(noise()))


def test_threads_see_the_same_pixels_and_filters_are_left_as_they_were():
    before = list(warnings.filters)
    whole, cut = encoded(noise(), "JPEG"), encoded(noise(), "TIFF")[:200]
    expected = np.asarray(open_picture(whole))

    def work(i):
        if i % 3 == 0:
            return reason(cut) != ""
        return np.array_equal(np.asarray(open_picture(whole)), expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))
    assert list(warnings.filters) == before


def test_thumbnails_are_small_jpegs_and_always_the_same_bytes():
    picture = noise(size=(300, 120))
    data = thumbnail(picture, 128)
    assert data == thumbnail(picture.copy(), 128)
    small = Image.open(io.BytesIO(data))
    assert (small.format, small.mode, small.size) == ("JPEG", "RGB", (128, 51))
    assert not small.getexif()


@pytest.mark.parametrize(
    ("size", "small"), [((20, 10), (20, 10)), ((5000, 1), (128, 1)), ((1, 5000), (1, 128))]
)
def test_thumbnails_are_never_enlarged_nor_empty(size, small):
    assert Image.open(io.BytesIO(thumbnail(Image.new("RGB", size), 128))).size == small


@pytest.mark.parametrize("side", [0, -1, 5000])
def test_thumbnail_sizes_out_of_range(side):
    with pytest.raises(UsageError, match="1 to 4096"):
        thumbnail(noise(), side)
