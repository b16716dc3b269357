"""The command `embedstore`: the table of commands, and how errors become exit codes."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import typer

from embedstore import __version__
from embedstore.errors import EmbedstoreError, ToldError, UsageError
from embedstore_cli.commands import (
    apply,
    bench,
    collection_study,
    compact,
    curate,
    demo,
    doctor,
    encode,
    export,
    fit,
    import_,
    info,
    onnx,
    paper_tables,
    push,
    recode,
    search,
    verify,
)
from embedstore_cli.render import fail

if TYPE_CHECKING:
    from types import FrameType

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="embedstore",
    help="Encode once, align many times: token caches of frozen encoders, and small heads fitted on them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("encode")(encode.encode)
app.command("recode")(recode.recode)
app.command("fit")(fit.fit)
app.command("apply")(apply.apply)
app.command("search")(search.search)
app.add_typer(bench.app, name="bench")
app.add_typer(curate.app, name="curate")
app.command("info")(info.info)
app.command("verify")(verify.verify)
app.command("compact")(compact.compact)
app.command("import")(import_.import_)
app.command("export")(export.export)
app.command("onnx")(onnx.onnx)
app.command("push")(push.push)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.command("paper-tables", hidden=True)(paper_tables.paper_tables)
app.command("collection-study", hidden=True)(collection_study.collection_study)


def _print_version(wanted: bool) -> None:
    if wanted:
        from embedstore.documents import FORMAT_VERSION

        typer.echo(f"embedstore {__version__} (store format {FORMAT_VERSION})")
        raise typer.Exit


@app.callback()
def options(
    *,
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(
        False, "--version", help="Show the version.", callback=_print_version, is_eager=True
    ),
    cache_gb: float | None = typer.Option(
        None, "--cache-gb", help="Most GB that remote stores may take on this machine. \\[default: 10]"
    ),
) -> None:
    """Options of every command."""
    del version
    if cache_gb is not None:
        from embedstore.store.remote.cache_folder import cache_bytes

        os.environ["EMBEDSTORE_CACHE_GB"] = str(cache_gb)
        cache_bytes()
    if debug:
        os.environ["EMBEDSTORE_DEBUG"] = "1"


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _told(error: EmbedstoreError) -> int:
    if not isinstance(error, ToldError):
        fail(str(error))
    return USAGE if isinstance(error, UsageError) else FAILED


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 failed, 2 usage, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        # Without its stand-alone mode typer gives the exit code of an interruption back.
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except EmbedstoreError as error:
        if os.environ.get("EMBEDSTORE_DEBUG"):
            raise
        code = _told(error)
    except OSError as error:
        if os.environ.get("EMBEDSTORE_DEBUG"):
            raise
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        code = FAILED
    except typer.Abort:
        code = INTERRUPTED
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        error.show()  # type: ignore[attr-defined]  # typer's own errors of usage
        code = error.exit_code
    if code == INTERRUPTED:
        fail("interrupted")
    sys.exit(code or DONE)
