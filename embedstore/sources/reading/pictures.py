"""Encoded pictures to upright RGB, or to one short reason why not.

Every picture of every source passes through `open_picture`, so that what a model sees depends on the bytes
alone:

- formats: JPEG, PNG, WebP, BMP, GIF and TIFF, told by their first bytes and never by the name;
- the first frame of animations and multi-picture files;
- EXIF orientation 1 to 8 applied; colour profiles ignored, as the training pipelines of the frozen models do;
- transparency over white; CMYK and YCbCr through Pillow's own conversion; 16-bit grey scaled to 8 bits with
  rounding; 32-bit integer and float pictures refused, for their range of values is not stated anywhere;
- at most `MAX_PIXELS`, decided from the header before anything is decoded.

All functions are safe to call from several threads. No warning of Pillow gets out (libtiff prints lines of
its own on stderr about damaged TIFF files). `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` stays the caller's
business: where it is set, cut pictures open.
"""

from __future__ import annotations

import io
import stat
import struct
import threading
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from re import compile as pattern
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from PIL import Image as PILImage
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from embedstore.errors import UnreadableImage, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

    from embedstore.shapes import ByteArray
    from embedstore.sources.base import Picture
    from embedstore.sources.reading.files import RemoteFile

T = TypeVar("T")

MAX_PIXELS = 178_956_970
"""The most pixels a picture may have: where Pillow itself raises, and 0.5 GB of RGB."""

MAX_FILE_BYTES = 1 << 28
"""The most bytes of an encoded picture that is read whole: out of a tar, a data set or from a URL."""

_FIRST_BYTES: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"GIF8", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
)
_UPRIGHT = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_OS_REASONS: tuple[tuple[type[OSError], str], ...] = (
    (FileNotFoundError, "file not found"),
    (NotADirectoryError, "file not found"),
    (PermissionError, "permission denied"),
    (IsADirectoryError, "not a file"),
)


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A picture in a local file. `ref` is its name inside the source; only `path` knows the machine."""

    path: Path
    ref: str

    @property
    def nbytes(self) -> int | None:
        """Size of the file in bytes; none where there is no such file."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def open(self) -> Image:
        """The decoded picture, mode RGB, upright. Raises `UnreadableImage`."""
        return open_picture(self.path)


@dataclass(frozen=True, slots=True)
class RemotePicture:
    """A picture behind a URL. `places` are tried in order; `nbytes` is what a listing said.

    A picture that is nowhere is unreadable; a server that does not answer raises `RemoteError`, which ends
    the run: the rest of the pictures is not lost to a bad network.
    """

    places: tuple[RemoteFile, ...]
    ref: str
    nbytes: int | None = None

    def open(self) -> Image:
        """The decoded picture, mode RGB, upright. Raises `UnreadableImage`, `RemoteError`."""
        for place in self.places:
            if (data := place.read_start(MAX_FILE_BYTES + 1)) is not None:
                refuse_large(len(data))
                return open_picture(data)
        raise UnreadableImage("file not found")


def refuse_large(nbytes: int) -> None:
    """`UnreadableImage` where an encoded picture that is read whole has over `MAX_FILE_BYTES`."""
    if nbytes > MAX_FILE_BYTES:
        raise UnreadableImage(f"a file of over {MAX_FILE_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class BytesPicture:
    """A picture whose encoded bytes are in memory."""

    data: bytes
    ref: str

    @property
    def nbytes(self) -> int:
        """Size of the encoded picture in bytes."""
        return len(self.data)

    def open(self) -> Image:
        """The decoded picture, mode RGB, upright. Raises `UnreadableImage`."""
        return open_picture(self.data)


_least: ContextVar[int] = ContextVar("least", default=0)


@contextmanager
def decoded_small(least: int) -> Iterator[None]:
    """Within this, JPEG pictures are decoded at 1/2, 1/4 or 1/8 where no side is then under `least` pixels.

    The decoder leaves out high frequencies in place of a filter that averages: faster, and not the same
    pixels. Holds for the thread that asks; 0: every picture as it is.
    """
    token = _least.set(least)
    try:
        yield
    finally:
        _least.reset(token)


@dataclass(frozen=True, slots=True)
class SmallPicture:
    """A picture that is opened within `decoded_small(least)`."""

    picture: Picture
    least: int

    @property
    def ref(self) -> str:
        """As of the picture."""
        return self.picture.ref

    @property
    def nbytes(self) -> int | None:
        """As of the picture."""
        return self.picture.nbytes

    def open(self) -> Image:
        """The decoded picture, mode RGB, upright. Raises `UnreadableImage`."""
        with decoded_small(self.least):
            return self.picture.open()


def open_picture(data: bytes | Path) -> Image:
    """Decode encoded bytes or a file to an upright picture of mode RGB, 8 bits, without metadata.

    Raises `UnreadableImage` whose `problem` is short, stable and free of paths: "file not found",
    "permission denied", "not a file", "empty file", "not an image of a known format", "truncated file",
    "damaged file", "decompression bomb: W×H pixels, allowed N", "unsupported pixel mode M".
    """
    return _read(data, _upright_rgb)


def as_opened(picture: Image) -> Image:
    """A picture that is open already, of any mode, as `open_picture` would have given it; it stays as it is.

    Raises `UnreadableImage` for modes without a stated range.
    """
    with _no_pillow_warnings():
        return _upright_rgb(picture)


def stored_numbers(data: bytes | Path) -> ByteArray:
    """The numbers of a grey or palette picture as they are stored `(h, w)`, neither turned nor converted.

    Raises `UnreadableImage` as `open_picture` does, and for pictures in colour or of more than 8 bits.
    """
    return _read(data, _numbers)


def stored_geometry(data: bytes | Path) -> tuple[tuple[int, int], int]:
    """Width and height as stored, pixels, and EXIF orientation 1 to 8, from the header alone."""
    return _read(data, lambda picture: (picture.size, _orientation(picture)))


def turned_upright(numbers: ByteArray, orientation: int) -> ByteArray:
    """Numbers `(h, w)` of stored pixels, turned and mirrored as `open_picture` does with the pixels."""
    turn = _UPRIGHT.get(orientation)
    return numbers if turn is None else np.asarray(PILImage.fromarray(numbers).transpose(turn))


def _read(data: bytes | Path, take: Callable[[Image], T]) -> T:
    if not isinstance(data, Path):
        return _decode(io.BytesIO(data), take)
    try:
        # A named pipe would block for ever, so the kind of file is asked before it is opened.
        if not stat.S_ISREG(data.stat().st_mode):
            raise UnreadableImage("not a file")
        with data.open("rb") as file:
            return _decode(file, take)
    except OSError as bad:
        raise UnreadableImage(_os_reason(bad)) from None
    except ValueError:  # a NUL byte in the name
        raise UnreadableImage("file not found") from None


def thumbnail(picture: Image, longer_side: int) -> bytes:
    """A small JPEG of an RGB picture: the same bytes for the same picture and Pillow version.

    `longer_side` in pixels, 1 to 4096; a picture that is smaller is not enlarged. Averaged by a whole number
    first, a third of the time of one filter over everything. Quality 85, no metadata.
    """
    if not 1 <= longer_side <= 4096:
        raise UsageError("thumbnail size out of range", found=longer_side, allowed="1 to 4096 pixels")
    width, height = picture.size
    scale = min(1.0, longer_side / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = (
        picture.resize(size, PILImage.Resampling.HAMMING, reducing_gap=1.0)
        if size != picture.size
        else picture
    )
    out = io.BytesIO()
    small.convert("RGB").save(out, "JPEG", quality=85, subsampling="4:2:0", exif=b"", icc_profile=None)
    return out.getvalue()


def _os_reason(bad: OSError) -> str:
    for kind, reason in _OS_REASONS:
        if isinstance(bad, kind):
            return reason
    return f"cannot be read: {bad.strerror}"


def _decode(file: IO[bytes], take: Callable[[Image], T]) -> T:
    first = file.read(16)
    if not first:
        raise UnreadableImage("empty file")
    file.seek(0)
    opener = _opener(first)
    if opener is None:
        raise UnreadableImage("not an image of a known format")
    with _no_pillow_warnings():
        try:
            # The format's class, not `Image.open`: that one warns about large pictures before their size
            # can be asked, and tries formats that hand the bytes to other programs.
            with opener(file) as picture:
                _refuse_bomb(picture.size)
                return take(picture)
        except (UnreadableImage, MemoryError):
            raise
        except PILImage.DecompressionBombError:
            raise UnreadableImage(f"decompression bomb: allowed {MAX_PIXELS} pixels") from None
        except Exception as bad:  # noqa: BLE001 - decoders raise anything on hostile bytes
            raise UnreadableImage(_decoder_reason(bad, file)) from None


def _opener(first: bytes) -> type[ImageFile] | None:
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        return WebPImageFile
    return next((opener for magic, opener in _FIRST_BYTES if first.startswith(magic)), None)


def _refuse_bomb(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"decompression bomb: {width}×{height} pixels, allowed {MAX_PIXELS}")


def _decoder_reason(bad: Exception, file: IO[bytes]) -> str:
    if isinstance(bad, OSError) and bad.errno is not None:
        return _os_reason(bad)
    # Pillow wraps the errors of parsing a header; these three kinds come from reading past its end.
    past_end = isinstance(bad.__cause__ or bad, (EOFError, IndexError, struct.error))
    if past_end or "truncated" in str(bad).lower() or _webp_is_cut(file):
        return "truncated file"
    return "damaged file"


def _webp_is_cut(file: IO[bytes]) -> bool:
    # libwebp does not say why it failed; the size in the RIFF header does.
    file.seek(0)
    first = file.read(12)
    if _opener(first) is not WebPImageFile:
        return False
    return file.seek(0, io.SEEK_END) < 8 + int.from_bytes(first[4:8], "little")


def _numbers(picture: Image) -> ByteArray:
    picture.load()
    if picture.mode not in ("L", "P", "1"):
        raise UnreadableImage(f"not 8 bits a pixel of grey or palette: mode {picture.mode}")
    # Pillow hands a picture of one bit over as True and False.
    return np.array(picture, dtype=np.uint8)


def _upright_rgb(picture: Image) -> Image:
    least = _least.get()
    if least and isinstance(picture, JpegImageFile):
        picture.draft(None, (least, least))
    picture.load()
    turn = _UPRIGHT.get(_orientation(picture))
    rgb = _to_rgb(picture)
    upright = rgb.transpose(turn) if turn is not None else rgb
    upright.info = {}  # nobody after us may turn it again or apply a profile
    return upright


def _orientation(picture: Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - damaged metadata says nothing about the pixels, which are whole
        return 1


def _to_rgb(picture: Image) -> Image:
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.uint32)
        return PILImage.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F", "LAB"):
        raise UnreadableImage(f"unsupported pixel mode {picture.mode}")
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        over = picture.convert("RGBA")
        return PILImage.alpha_composite(PILImage.new("RGBA", over.size, "white"), over).convert("RGB")
    return picture.convert("RGB")


_OURS = ("ignore", None, Warning, pattern(r"PIL\.(?#while embedstore decodes)"), 0)
_lock = threading.Lock()
_decoding = 0


@contextmanager
def _no_pillow_warnings() -> Iterator[None]:
    # `warnings.catch_warnings` swaps the process-wide list and is not safe in threads. One entry of our own,
    # for Pillow's modules alone, put there by the first thread that decodes and taken by the last, is.
    global _decoding  # noqa: PLW0603 - the list of filters is global to the process as well
    filters = cast("list[Any]", warnings.filters)
    with _lock:
        _decoding += 1
        if _OURS not in filters:
            filters.insert(0, _OURS)
    try:
        yield
    finally:
        with _lock:
            _decoding -= 1
            current = cast("list[Any]", warnings.filters)
            if _decoding == 0 and _OURS in current:
                current.remove(_OURS)
