"""The tables of the papers, fitted on a thousand captioned photographs: one store, many sweeps, one page."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from embedstore.fit import Member, SweepProgress

SIDES = ("head", "image_local", "image_cls", "text_token", "text_global", "image_pooling")
WAYS = ("text_to_image", "image_to_text")
IMAGE, TEXT = "vit-tiny-in1k", "minilm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What every fit shares. Nothing is chosen by a held-out figure: the last checkpoint is measured.

    `reduced` and `channel_dropout` are those of the second orders. `width` is that of the texts' tokens,
    which the first rows of Table 1 need.
    """

    epochs: int = 10
    batch_size: int = 100
    width: int = 384
    lr: float = 1e-3
    reduced: int = 24
    channel_dropout: float = 0.0
    seeds: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A fit: its folder's name, what the table calls it, the fields that are its own, the paper's figure."""

    name: str
    label: str
    fields: dict[str, Any]
    paper: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows that are compared, of one paper's table; `paper` says what its figures are.

    Rows named in `beside` belong to an earlier table and are shown here again.
    """

    title: str
    note: str
    rows: tuple[Row, ...]
    paper: str = ""
    beside: tuple[str, ...] = ()


def tables(configs: Path, recipe: Recipe) -> tuple[Table, ...]:
    """Every table, from the repository's folder of configurations; `UsageError` where files are missing."""
    return (
        Table(
            title="freeze-align, Table 1: which projectors",
            note="Sides as in `configs/freeze-align-table-1-row-1.toml` to `-row-7.toml`.",
            paper="ImageNet zero-shot, %",
            rows=tuple(
                Row(
                    name=f"row-{n}",
                    label=" / ".join(sides[side] for side in SIDES[1:5]),
                    fields=sides,
                    paper=figure,
                )
                for n, figure in enumerate((68.81, 68.84, 70.90, 71.85, 72.15, 75.53, 76.12), 1)
                for sides in (_sides(configs / f"freeze-align-table-1-row-{n}.toml"),)
            ),
        ),
        Table(
            title="DALIP, Table S4: weight of the first order",
            note="λ1 of 1 is the first order alone, 0 the second (`mbdc`).",
            paper="Plant mean, %",
            rows=tuple(
                _dalip(f"lambda-{weight}", f"λ1 = {weight}", recipe, figure, lambda1=weight)
                for weight, figure in ((0.0, 44.8), (0.2, 47.5), (0.4, 49.3), (0.6, 48.1), (1.0, 42.5))
            ),
        ),
        Table(
            title="DALIP, Table S3: second orders",
            note="λ1 = 0.4; `mbdc` is the same fit as above.",
            paper="Plant mean, %",
            beside=("lambda-0.4",),
            rows=tuple(
                _dalip(f"second-{kind}", kind, recipe, figure, lambda1=0.4, second=kind)
                for kind, figure in (("mp", 43.6), ("bdc", 46.9), ("kspd", 42.8))
            ),
        ),
        Table(
            title="Other heads",
            note="Each with the loss `clip` and the same recipe, which is not their authors'.",
            beside=("row-7",),
            rows=(
                Row(name="sail", label="`sail`", fields={"head": "sail"}),
                Row(name="dinotxt", label="`dinotxt`", fields={"head": "dinotxt"}),
            ),
        ),
        Table(
            title="Losses",
            note="The head of row 7; its loss is `clip`.",
            beside=("row-7",),
            rows=tuple(
                Row(name=f"loss-{loss}", label=f"`{loss}`", fields={"loss": loss})
                for loss in ("sigmoid", "sigmoid-sum", "sparc")
            ),
        ),
    )


def _sides(file: Path) -> dict[str, Any]:
    try:
        fields = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as bad:
        raise UsageError(
            f"no configuration of Table 1: {bad.strerror}", where=file, todo="name the folder with --configs"
        ) from None
    return {name: fields[name] for name in SIDES if name in fields}


def _dalip(name: str, label: str, recipe: Recipe, figure: float, **own: Any) -> Row:
    options = {"reduced": recipe.reduced, "channel_dropout": recipe.channel_dropout, "second": "mbdc"} | own
    return Row(name=name, label=label, fields={"head": "dalip", "options": options}, paper=figure)


@dataclass(slots=True)
class PaperTables:
    """One run: encode, fit seed by seed and table by table, measure, write the page after each seed.

    `data` holds `flickr8k-1k/captions.csv` (columns image, caption, split) with pictures in `images/`, and
    `vit-tiny-in1k`, a transformers folder. `out` keeps the store, the heads and their reports: what is there
    is not made again. `UsageError` without the data, `MissingExtraError` without MiniLM.
    """

    data: Path
    out: Path
    page: Path
    configs: Path
    recipe: Recipe = field(default_factory=Recipe)
    device: str = "auto"
    say: Callable[[str], None] = print

    @property
    def store(self) -> Path:
        """The encoded pictures and captions."""
        return self.out / "flickr8k-1k.store"

    def run(self) -> dict[str, Any]:
        """Everything; the figures by row, as they stand in the page."""
        from embedstore.bench.report import write_text
        from embedstore.recipes.paper_page import paper_page

        found = tables(self.configs, self.recipe)
        self.encode()
        figures: dict[str, dict[str, list[float]]] = {}
        for seed in range(self.recipe.seeds):
            for table in found:
                self.fit(table, seed)
                for row in table.rows:
                    of_row = figures.setdefault(row.name, {way: [] for way in WAYS})
                    for way, value in self.measured(row, seed).items():
                        of_row[way].append(value)
            write_text(paper_page(found, figures, self.recipe), self.page)
            self.say(f"{self.page}: {seed + 1} of {self.recipe.seeds} seeds")
        return {"page": str(self.page), "recall@1": figures}

    def encode(self) -> None:
        """The store; a finished one is left as it is."""
        from embedstore.encode import EncodeOptions, encode_source

        captions, vit = self.data / "flickr8k-1k" / "captions.csv", self.data / IMAGE
        for needed in (captions, vit / "config.json"):
            if not needed.exists():
                raise UsageError(
                    "the data is not here", where=needed, todo="name the folder that holds flickr8k-1k"
                )
        self.out.mkdir(parents=True, exist_ok=True)
        self.say(f"encode {captions} with {IMAGE} and {TEXT}")
        encode_source(
            str(captions),
            self.store,
            image_encoders=[f"{IMAGE}=hf:{vit}"],
            text_encoders=[f"{TEXT}=demo:minilm"],
            options=EncodeOptions(device=self.device),
        )

    def member(self, row: Row, seed: int) -> Member:
        """One fit of a sweep."""
        from embedstore.fit import Member, fit_config

        recipe = self.recipe
        config = fit_config(
            image=IMAGE,
            text=TEXT,
            split="train",
            width=recipe.width,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            seed=seed,
            **row.fields,
        )
        return Member(name=f"{row.name},seed={seed}", config=config, varied={"fit": row.name, "seed": seed})

    def fit(self, table: Table, seed: int) -> None:
        """The rows of a table with one seed, in as few passes as their features allow."""
        from embedstore.errors import HeadError
        from embedstore.fit import fit_sweep

        members = [self.member(row, seed) for row in table.rows]
        told = 0

        def tell(at: SweepProgress) -> None:
            nonlocal told
            if at.epoch != told:
                told = at.epoch
                self.say(f"  epoch {at.epoch}: {at.heads} heads, {at.seconds:.0f} s")

        self.say(f"fit {table.title}, seed {seed}")
        result = fit_sweep(self.store, members, self.out / "heads", device=self.device, on_progress=tell)
        for member in result.failed:
            raise HeadError(f"{member.name} failed", where="paper-tables", found=member.error)

    def measured(self, row: Row, seed: int) -> Mapping[str, float]:
        """Recall@1 of both directions on split test, as shares; from its report where there is one."""
        from embedstore.bench import bench_retrieval
        from embedstore.bench.report import write_report
        from embedstore.documents import BenchReport, HeadConfig, load_document

        name = f"{row.name},seed={seed}"
        head, file = self.out / "heads" / name, self.out / "reports" / f"{name}.json"
        fingerprint = load_document(HeadConfig, head / "head.json").fingerprint
        report = load_document(BenchReport, file) if file.exists() else None
        if report is None or report.head_sha256 != fingerprint:
            report = bench_retrieval(self.store, head, split="test", device=self.device)
            file.parent.mkdir(exist_ok=True)
            write_report(report, file)
        return {way: report.metrics[way]["recall@1"].value for way in WAYS}


def rows_of(table: Table, every: Sequence[Table]) -> Iterator[Row]:
    """The rows that a table shows: those of other tables first."""
    known = {row.name: row for other in every for row in other.rows}
    for name in table.beside:
        yield known[name]
    yield from table.rows
