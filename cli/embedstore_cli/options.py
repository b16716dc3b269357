"""Options that several commands share."""

from __future__ import annotations

import tomllib
from typing import Annotated

import typer

from embedstore.errors import UsageError

StorePath = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="Folder or URL (s3, gs, http) of the store; several with equal cards are read as one: A+B.",
        show_default=False,
    ),
]


def _kept(store: str) -> str:
    """Refuse to write where everything is gone at the end of the command."""
    if store.lower().startswith("memory:"):
        raise UsageError(
            "a store in memory ends with the command",
            found=store,
            allowed="a folder, s3:// or gs://",
            todo="memory:// is for tests from Python",
        )
    return store


OneStore = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="Folder or URL (s3, gs) of one store.",
        show_default=False,
        callback=_kept,
    ),
]


def settings(pairs: list[str]) -> dict[str, bool | int | float | str]:
    """`NAME=VALUE` each, the value as TOML has it; what is no TOML value is taken as words."""
    found: dict[str, bool | int | float | str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError("not an option and its value", where="--set", found=pair, allowed="NAME=VALUE")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        found[name] = value if isinstance(value, bool | int | float | str) else text
    return found


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides everything random.")]
# Text, since `./user/name`, which is a folder, and `user/name`, perhaps one of the hub's, are the same path.
_FITTED = "Folder that fit wrote, or user/name on the hub."
Head = Annotated[str, typer.Argument(metavar="HEAD", help=_FITTED, show_default=False)]
HeadDir = Annotated[str, typer.Option("--head", metavar="DIR|user/name", help=_FITTED, show_default=False)]
AnyHeadDir = Annotated[
    str | None, typer.Option("--head", metavar="DIR|user/name", help=_FITTED, show_default=False)
]
ImageFeature = Annotated[
    str | None,
    typer.Option("--image", metavar="NAME", help="Image feature that is read.", show_default=False),
]
TextFeature = Annotated[
    str | None, typer.Option("--text", metavar="NAME", help="Text feature that is read.", show_default=False)
]
TextEncoder = Annotated[
    str | None,
    typer.Option(
        "--text-encoder",
        metavar="SPEC",
        help="Where the text encoder is, if not remembered.",
        show_default=False,
    ),
]
Split = Annotated[str, typer.Option(help="Split that is measured; 'all' takes every row.")]
Rows = Annotated[
    str | None,
    typer.Option(
        metavar="SUBSET|FILE",
        help="Only rows of this subset, or with an id in this file; of texts, only these count.",
        show_default=False,
    ),
]
Role = Annotated[str, typer.Option(help="Role of the texts: caption or long.")]
Language = Annotated[str, typer.Option(help="Language of the captions.")]


def shares(text: str) -> dict[str, float]:
    """`NAME=SHARE[,NAME=SHARE]`, shares above 0."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.strip().rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = 0.0
        if not equals or not name or name in found or not 0 < value < 1e12:
            raise UsageError(
                "not the parts of a mix",
                where="--mix",
                found=part,
                allowed="NAME=SHARE,NAME=SHARE, each name once, shares above 0",
            )
        found[name] = value
    return found
