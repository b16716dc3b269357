"""The papers' tables: every row is a fit that can be built, and the page says where the order differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedstore.errors import UsageError
from embedstore.fit import fit_config
from embedstore.fit.record import head_record
from embedstore.recipes import paper_tables
from embedstore.recipes.paper_page import paper_page
from embedstore.recipes.paper_tables import WAYS, PaperTables, Recipe, Row, Table, rows_of, tables
from embedstore.testing.stores import write_random_store

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def every():
    return tables(CONFIGS, Recipe())


def test_the_rows_are_those_of_the_issue(every):
    shown = {table.title.split(":")[0]: [row.name for row in rows_of(table, every)] for table in every}
    assert shown == {
        "freeze-align, Table 1": [f"row-{n}" for n in range(1, 8)],
        "DALIP, Table S4": [f"lambda-{x}" for x in (0.0, 0.2, 0.4, 0.6, 1.0)],
        "DALIP, Table S3": ["lambda-0.4", "second-mp", "second-bdc", "second-kspd"],
        "Other heads": ["row-7", "sail", "dinotxt"],
        "Losses": ["row-7", "loss-sigmoid", "loss-sigmoid-sum", "loss-sparc"],
    }
    names = [row.name for table in every for row in table.rows]
    assert len(set(names)) == len(names) == 20


def test_every_row_is_a_head_that_can_be_built(every, tmp_path):
    store = write_random_store(tmp_path / "store", images=20)
    width = store["words"].card.width
    for table in every:
        for row in table.rows:
            head_record(store, fit_config(image="vision", text="words", width=width, **row.fields))
    assert every[0].rows[0].fields["image_local"] == "mlp"
    assert every[1].rows[1].fields["options"] == {
        "reduced": 24, "channel_dropout": 0.0, "second": "mbdc", "lambda1": 0.2,
    }  # fmt: skip


def figures(**means):
    return {name: {way: [mean - 0.01, mean + 0.01] for way in WAYS} for name, mean in means.items()}


def test_the_page_tells_figures_places_and_pairs_in_another_order():
    row = {"fields": {}}
    table = Table(
        title="T",
        note="n",
        paper="P",
        rows=(
            Row(name="a", label="A", paper=50.0, **row),
            Row(name="b", label="B", paper=40.0, **row),
            Row(name="c", label="C", paper=30.0, **row),
        ),
    )
    page = paper_page([table], figures(a=0.30, b=0.40, c=0.2), Recipe())
    assert "over 2 seeds" in page
    assert "| A | 30.0 ± 1.4 | 30.0 ± 1.4 | 30.0 ± 1.4 | 2 | 1 | 50 |" in page
    assert "2 of 3 pairs stand in the paper's order. It differs here:" in page
    assert "- B is above A here, by 10.0 points (clearly); there it is 10 below." in page
    same = paper_page([table], figures(a=0.30, b=0.22, c=0.2), Recipe())
    assert "3 of 3 pairs stand in the paper's order: it is the same." in same
    near = paper_page([table], figures(a=0.30, b=0.31, c=0.2), Recipe())
    assert "by 1.0 points (within the noise)" in near


def test_what_is_missing_is_told_before_any_work(tmp_path, every):
    run = PaperTables(data=tmp_path, out=tmp_path / "out", page=tmp_path / "p.md", configs=CONFIGS)
    with pytest.raises(UsageError, match="the data is not here"):
        run.run()
    with pytest.raises(UsageError, match=r"no configuration of Table 1(?s:.*)--configs"):
        tables(tmp_path, Recipe())


def test_a_run_fits_measures_writes_and_goes_on(tmp_path, monkeypatch):
    found = (
        Table(
            title="T",
            note="n",
            rows=(Row(name="a", label="A", fields={}), Row(name="b", label="B", fields={"head": "sail"})),
        ),
    )
    monkeypatch.setattr(paper_tables, "tables", lambda *_: found)
    monkeypatch.setattr(paper_tables, "IMAGE", "vision")
    monkeypatch.setattr(paper_tables, "TEXT", "words")
    monkeypatch.setattr(
        PaperTables, "encode", lambda self: self.store.exists() or write_random_store(self.store, images=60)
    )
    told = []
    run = PaperTables(
        data=tmp_path,
        out=tmp_path / "out",
        page=tmp_path / "page.md",
        configs=CONFIGS,
        recipe=Recipe(epochs=1, width=12, batch_size=20, seeds=2),
        device="cpu",
        say=told.append,
    )
    first = run.run()
    assert {name: len(of_row[WAYS[0]]) for name, of_row in first["recall@1"].items()} == {"a": 2, "b": 2}
    assert any("epoch 1" in line for line in told)
    page = run.page.read_text()
    assert "| A | " in page
    assert "over 2 seeds" in page
    told.clear()
    assert run.run() == first
    assert not any("epoch" in line for line in told)
    assert run.page.read_text() == page
