"""What every document shares: frozen, strict JSON, a fingerprint, and differences in words."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from embedstore.errors import EmbedstoreError, MismatchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

FORMAT_VERSION = 1
MOST_DOCUMENT_BYTES = 64 << 20
NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"

Name: TypeAlias = Annotated[str, Field(pattern=NAME_PATTERN, max_length=200)]
Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Positive: TypeAlias = Annotated[int, Field(ge=1)]
Rate: TypeAlias = Annotated[float, Field(ge=0.0, lt=1.0)]


class Document(BaseModel):
    """A frozen value that reads from and writes to JSON; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> str:
        """Stable text: two spaces, fields in declared order, one newline at the end."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(
        cls, text: str | bytes, *, where: object, error: type[EmbedstoreError] = EmbedstoreError
    ) -> Self:
        """Parse `text`; an `error` that names `where` and the first wrong field otherwise."""
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as bad:
            first = bad.errors()[0]
            field = ".".join(str(p) for p in first["loc"]) or "the document"
            raise error(
                f"{cls.__name__} is not valid: {field}: {first['msg']}",
                where=where,
                found=str(first.get("input"))[:200],
            ) from None

    @property
    def exact(self) -> dict[str, Any]:
        """Everything but what was measured, whose last digits depend on the machine."""
        return self.model_dump(mode="json", context=WITHOUT_MEASURED)

    @property
    def fingerprint(self) -> str:
        """sha256 over the canonical JSON of all that is `exact`."""
        canonical = json.dumps(self.exact, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def measured_apart(self, _theirs: Self) -> dict[str, tuple[str, str]]:
        """`field -> (ours, theirs)` in words, of measured fields that differ by more than rounding."""
        return {}


def without_unset(fields: dict[str, Any], later: Collection[str]) -> dict[str, Any]:
    """Serialised fields without those of `later` that are not set."""
    return {name: value for name, value in fields.items() if value is not None or name not in later}


# Context of a serialisation that leaves out what a document has measured.
WITHOUT_MEASURED: dict[str, Any] = {"measured": False}
DERIVED_FIELDS = frozenset({"arrays", "units", "plan_fingerprint"})


def differing_fields(ours: Document, theirs: Document) -> dict[str, tuple[Any, Any]]:
    """Flattened `field.path -> (ours, theirs)` of everything in which two documents differ.

    What was measured differs where it does so by more than rounding, and is told in words.
    """

    def flat(value: Any, path: str) -> dict[str, Any]:
        if isinstance(value, dict) and value:
            return {k: v for key, sub in value.items() for k, v in flat(sub, f"{path}.{key}").items()}
        return {path.lstrip("."): value}

    a, b = flat(ours.exact, ""), flat(theirs.exact, "")
    fields = {k: (a.get(k), b.get(k)) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)}
    return fields | _measured_apart(ours, theirs, "")


def _measured_apart(ours: Document, theirs: Any, path: str) -> dict[str, tuple[Any, Any]]:
    if type(ours) is not type(theirs):
        return {}
    found: dict[str, tuple[Any, Any]] = {
        f"{path}{name}": values for name, values in ours.measured_apart(theirs).items()
    }
    for name, value in ours:
        if isinstance(value, Document):
            found |= _measured_apart(value, getattr(theirs, name), f"{path}{name}.")
    return found


def refuse_differences(
    stored: Document,
    wanted: Document,
    *,
    what: str,
    where: object,
    todo: str,
    error: type[EmbedstoreError] = MismatchError,
) -> None:
    """Raise `error` that lists every differing field, or return where there is none."""
    fields = differing_fields(stored, wanted)
    if fields:
        # What follows from other fields only hides the one that the user can change.
        telling = {k: v for k, v in fields.items() if k not in DERIVED_FIELDS}
        fields = telling or fields
        lines = "; ".join(f"{k}: stored {a!r}, now {b!r}" for k, (a, b) in fields.items())
        raise error(f"{what} differs from the stored one", where=where, found=lines, todo=todo)


D = TypeVar("D", bound=Document)


def read_bounded(path: Path, error: type[EmbedstoreError] = EmbedstoreError) -> bytes:
    """The bytes of a document; `error` where it cannot be read or is larger than any document may be."""
    try:
        size = path.stat().st_size
        if size > MOST_DOCUMENT_BYTES:
            raise error("the document is too large", where=path.name, found=f"{size} bytes")
        return path.read_bytes()
    except OSError as bad:
        raise error(f"cannot be read: {bad.strerror}", where=path.name) from None


def load_document(kind: type[D], path: Path, error: type[EmbedstoreError] = EmbedstoreError) -> D:
    """Read one JSON document from a local file."""
    return kind.from_json(read_bounded(path, error), where=path.name, error=error)


def parse_named(text: str) -> tuple[str | None, str]:
    """Split `[NAME=]SPEC`: NAME is `[A-Za-z0-9_.-]+` before the first `=` that precedes any of `: / ?`.

    An encoder that makes several features may have several names, with commas between them.
    """
    stop = min((i for i in (text.find(c) for c in ":/?") if i >= 0), default=len(text))
    at = text.find("=")
    if not 0 <= at < stop:
        return None, text
    name, spec = text[:at], text[at + 1 :]
    if not name or any(not (c.isascii() and (c.isalnum() or c in "_.-,")) for c in name):
        raise UsageError("bad feature name", where=text, found=name, allowed="letters, digits, '_', '.', '-'")
    return name, spec
