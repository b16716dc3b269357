"""Pictures opened and prepared ahead of the model, in order: by threads, or by processes for many cores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from embedstore.encoders.base import RowPreparation
from embedstore.encoders.device import one_openmp_thread
from embedstore.encoders.draft import draft_edge
from embedstore.errors import UnreadableImage
from embedstore.sources.reading.pictures import SmallPicture, thumbnail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from PIL.Image import Image

    from embedstore.encode.options import EncodeOptions
    from embedstore.encode.plan import PlannedSource
    from embedstore.encoders.base import ImageEncoder
    from embedstore.shapes import Float32Array
    from embedstore.sources.base import Picture

T = TypeVar("T")

READ_AHEAD_BYTES = 512 << 20
"""Prepared pixels kept ready at most, whatever was asked for; a few pictures a worker in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One decoded row: pixels, or the reason why there are none."""

    row: int
    id: str
    pixels: Float32Array | None
    thumbnail: bytes | None
    reason: str | None


class Decoders(ABC):
    """Workers that decode for one encode at a time; used as a context, which ends them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._waiting: deque[Future[Any]] = deque()

    def settle(self, seconds: float) -> None:
        """Wait until every row that was begun is prepared, `seconds` at most.

        For a model on the processor: workers that take its cores in the middle of a batch cost more than
        their own time, since its threads wait for each other at every layer.
        """
        wait(self._waiting, timeout=seconds)

    @abstractmethod
    def prepared(
        self,
        planned: PlannedSource,
        encoder: ImageEncoder,
        rows: Iterable[int],
        *,
        thumbnails: int,
        ahead: int,
    ) -> Iterator[Prepared]:
        """The `rows` of the images table in the order asked for, at most `ahead` of them before their turn.

        `thumbnails`: longer side in pixels, 0 for none. What comes out does not depend on the workers.
        """

    def depth(self, encoder: ImageEncoder, ahead: int) -> int:
        """`ahead`, or fewer where the pixels of so many would take more than `READ_AHEAD_BYTES`."""
        return max(2 * self.count, min(ahead, READ_AHEAD_BYTES // pixel_bytes(encoder)))

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *error: object) -> None:
        """End the workers."""


class ThreadDecoders(Decoders):
    """Threads: decoding and resizing let go of the interpreter, so a few of them keep as many cores busy."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._pool = ThreadPoolExecutor(count, "decode", initializer=one_openmp_thread)

    def prepared(
        self,
        planned: PlannedSource,
        encoder: ImageEncoder,
        rows: Iterable[int],
        *,
        thumbnails: int,
        ahead: int,
    ) -> Iterator[Prepared]:
        """As of `Decoders`."""

        def work(row: int) -> Prepared:
            id_, picture = picture_for(encoder, planned, row)
            return prepare(row, id_, picture, encoder.prepare, thumbnails)

        depth = self.depth(encoder, ahead)
        return in_order(lambda row: self._pool.submit(work, row), rows, depth, self._waiting)

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def open_decoders(options: EncodeOptions) -> Decoders:
    """The workers that the options ask for."""
    if options.decode == "processes":
        from embedstore.encode.decoding_processes import ProcessDecoders

        return ProcessDecoders(options.decoders)
    return ThreadDecoders(options.decoders)


def picture_for(encoder: ImageEncoder, planned: PlannedSource, row: int) -> tuple[str, Picture]:
    """Id and picture of a row of the images table, to be opened as the encoder's card says."""
    id_, picture = planned.picture(row)
    least = draft_edge(encoder.card)
    return id_, SmallPicture(picture, least) if least else picture


def prepare(
    row: int, id_: str, picture: Picture, to_pixels: Callable[[Image], Float32Array], thumbnails: int
) -> Prepared:
    """Open one picture and prepare it, or tell why that cannot be done."""
    try:
        image = picture.open()
        small = thumbnail(image, thumbnails) if thumbnails else None
        # What is drawn at random for a picture depends on its id alone.
        of_row = to_pixels.of_row if isinstance(to_pixels, RowPreparation) else None
        pixels = to_pixels(image) if of_row is None else of_row(image, id_)
        return Prepared(row=row, id=id_, pixels=pixels, thumbnail=small, reason=None)
    except UnreadableImage as bad:
        return Prepared(row=row, id=id_, pixels=None, thumbnail=None, reason=bad.problem)


def in_order(
    begin: Callable[[int], Future[T]], rows: Iterable[int], ahead: int, waiting: deque[Future[T]]
) -> Iterator[T]:
    """Results in order, with at most `ahead` under way, which `waiting` holds."""
    try:
        for row in rows:
            waiting.append(begin(row))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        waiting.clear()


def pixel_bytes(encoder: ImageEncoder) -> int:
    """Bytes of one prepared picture, in all its views."""
    processor = encoder.card.processor
    views = encoder.prepare.count if isinstance(encoder.prepare, RowPreparation) else 1
    return views * 3 * 4 * (processor.size[0] * processor.size[1] if processor is not None else 1)
