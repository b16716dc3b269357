"""What one encode run may be told."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from embedstore.encoders.views import RANDOM_RESIZED_CROP, parse_views
from embedstore.errors import UsageError
from embedstore.policies import parse_policy
from embedstore.sources.reading.files import at

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from embedstore.documents import EncoderCard, PolicyName

# Pictures share one budget with texts: a batch of texts may hold so many tokens for each picture.
TEXT_TOKENS_PER_PICTURE = 128


def usable_cores() -> int:
    """The processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """Options of `encode_source`; everything that decides stored numbers ends up in plan, header or card."""

    seed: int = 0
    """Of the row order of sources with random access."""
    limit: int | None = None
    """Samples taken at most."""
    policy: PolicyName = "float16"
    shard_rows: int | None = None
    """Rows of one work unit; none: chosen by size."""
    batch_size: int | None = None
    """Pictures in one forward pass; texts take `128 × batch_size` tokens. None: 32 on a CPU, 256 on a GPU."""
    device: str = "auto"
    image_size: int | None = None
    """Overrides the picture size of the checkpoint's processor, pixels."""
    max_length: int | None = None
    """Overrides the tokenizer's limit, tokens."""
    thumbnails: int = 128
    """Longer side in pixels of the kept thumbnails; 0: none."""
    views: int = 0
    """Augmented views of each picture, a feature each; 0: the picture itself."""
    view: str = RANDOM_RESIZED_CROP
    """What the views are, with options: 'random-resized-crop?scale=0.5,1&flip=0.5'."""
    view_seed: int = 0
    """Decides the views, with their numbers and the ids of the rows."""
    max_failed: float = 0.1
    """Share of the rows that may be quarantined."""
    workers: int | None = None
    """Threads or processes that decode pictures; none: one a core."""
    decode: Literal["threads", "processes"] = "threads"
    """What they are. Processes are for more cores than one interpreter keeps busy; no byte depends on it."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our column name -> the table's."""
    image_root: str | Path | None = None
    """Folder or URL that the pictures which a file names are relative to."""
    language: str | None = None
    """Language of captions that name none; none: 'en'."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("seed", 0, 2**63 - 1),
            ("limit", 1, None),
            ("shard_rows", 1, None),
            ("batch_size", 1, None),
            ("image_size", 1, 8192),
            ("max_length", 1, None),
            ("thumbnails", 0, 1024),
            ("views", 0, 256),
            ("view_seed", 0, 2**63 - 1),
            ("max_failed", 0, 1),
            ("workers", 1, 1024),
        ):
            value = getattr(self, name)
            if value is not None and (value < low or (high is not None and value > high)):
                upper = "" if high is None else f" to {high}"
                raise UsageError(
                    "option out of range",
                    where=f"--{name.replace('_', '-')}",
                    found=value,
                    allowed=f"{low}{upper or ' or more'}",
                )
        if self.decode not in ("threads", "processes"):
            raise UsageError("unknown --decode", found=self.decode, allowed="threads, processes")
        parse_policy(self.policy, where="--policy")
        parse_views(self.view, count=0, seed=self.view_seed)
        if not self.views and (self.view != RANDOM_RESIZED_CROP or self.view_seed):
            raise UsageError(
                "--view and --view-seed say what the views are, and not how many",
                found=f"{self.view}, seed {self.view_seed}",
                todo="add --views N",
            )

    @property
    def for_source(self) -> dict[str, object]:
        """The options that a source takes."""
        root = None if self.image_root is None else at(self.image_root)
        return {"columns": self.columns, "image_root": root, "language": self.language}

    @property
    def decoders(self) -> int:
        """Threads or processes that decode pictures."""
        return self.workers or usable_cores()

    def batch_for(self, card: EncoderCard) -> int:
        """Pictures in one forward pass of this encoder."""
        return self.batch_size or (32 if card.device_kind == "cpu" else 256)
