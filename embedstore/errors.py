"""Every error this library raises on purpose.

EmbedstoreError
├── UsageError              an option or argument that no run could accept
│   ├── UnknownNameError    a name that is in no registry; says the nearest one
│   └── MissingExtraError   an optional dependency is absent; says the install line
├── SourceError             a source that cannot be read or planned
│   └── UnreadableImage     one picture; the row is quarantined, the run goes on
├── EncoderError            a model that cannot be loaded or gives what its card does not say
├── StoreError              a store that is not what it should be
│   ├── StoreNotFoundError
│   ├── FormatVersionError  written by a newer version
│   ├── CorruptStoreError   a checksum, a size or a table that does not agree
│   ├── MismatchError       plan, card or header differ; lists the fields
│   ├── IncompleteError     work that is not finished yet is asked for
│   ├── StorageValueError   NaN, infinity, overflow, a wrong shape or dtype
│   ├── DiskFullError       no space is left; what is finished stays
│   └── RemoteError         a URL that cannot be reached, read or written
├── HubError                a model hub that cannot be reached, or that refuses
├── HeadError               a head that does not fit its features or its config
├── TooManyFailedError      more rows quarantined than `--max-failed` allows
├── EngineError             workers of a run that die, or that cannot be had
└── ToldError               what another process of the run has told already
"""

from __future__ import annotations


class EmbedstoreError(Exception):
    """Say where something went wrong, what was found, what is allowed and what to do.

    Only `problem` is required; the message is built from the parts that are given.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: object = None,
        found: object = None,
        allowed: object = None,
        todo: str | None = None,
    ) -> None:
        self.problem, self.where, self.found, self.allowed, self.todo = problem, where, found, allowed, todo
        head = f"{where}: {problem}" if where is not None else problem
        parts = [head]
        if found is not None:
            parts.append(f"found: {found}")
        if allowed is not None:
            parts.append(f"allowed: {allowed}")
        if todo is not None:
            parts.append(f"what to do: {todo}")
        super().__init__("\n  ".join(parts))


class UsageError(EmbedstoreError):
    """An option or argument that no run could accept."""


class UnknownNameError(UsageError):
    """A name that is in no registry."""


class MissingExtraError(UsageError):
    """An optional dependency is absent."""


class SourceError(EmbedstoreError):
    """A source that cannot be read or planned."""


class UnreadableImage(SourceError):  # noqa: N818 - an outcome of one row, not a failure of the run
    """One picture that cannot be decoded; `problem` is the reason kept in the quarantine."""


class EncoderError(EmbedstoreError):
    """A model that cannot be loaded, or that gives what its card does not say."""


class StoreError(EmbedstoreError):
    """A store that is not what it should be."""


class StoreNotFoundError(StoreError):
    """There is no store at this place."""


class FormatVersionError(StoreError):
    """The store was written by a newer version of the format."""


class CorruptStoreError(StoreError):
    """A checksum, a size or a table does not agree with the rest of the store."""


class MismatchError(StoreError):
    """A plan, card or header differs from the one that is stored."""


class IncompleteError(StoreError):
    """Work that is not finished yet was asked for."""


class StorageValueError(StoreError):
    """NaN, infinity, overflow, or a wrong shape or dtype was to be stored."""


class DiskFullError(StoreError):
    """No space is left on the disk; the store is as valid as before, and the same command goes on."""


class RemoteError(StoreError):
    """A URL that cannot be reached, read or written; what is finished there stays."""


class HeadError(EmbedstoreError):
    """A head that does not fit its features or its configuration."""


class HubError(EmbedstoreError):
    """A model hub that cannot be reached or that refuses; what is there stays as it is."""


class TooManyFailedError(EmbedstoreError):
    """More rows were quarantined than the stated share allows."""


class EngineError(EmbedstoreError):
    """Workers of a run die, or cannot be had; the store is as valid as before."""


class ToldError(EmbedstoreError):
    """Another process of the run has told what went wrong: this one ends without a word."""
