from __future__ import annotations

import csv

import pytest

from embedstore.bench import measure_retrieval, measure_zeroshot
from embedstore.bench.clip_csv import append_csv, check_table, csv_rows
from embedstore.documents import BenchReport
from embedstore.errors import UsageError


def read(path):
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_rows_of_two_tasks_stand_in_one_table_by_the_names_there(store, head_dir, encoder, tmp_path) -> None:
    table = tmp_path / "results.csv"
    retrieval = measure_retrieval(store, head_dir, device="cpu").report
    zeroshot = measure_zeroshot(store, head_dir, device="cpu").report
    for report in (retrieval, zeroshot):
        append_csv(csv_rows([report], dataset="scenes", pretrained="mine"), table)
    first, second = read(table)
    assert {
        k: first[k] for k in ("dataset", "model", "pretrained", "task", "language", "model_fullname")
    } == {
        "dataset": "scenes",
        "model": f"{retrieval.image_card.model}+{retrieval.text_card.model}",
        "pretrained": "mine",
        "task": "zeroshot_retrieval",
        "language": "en",
        "model_fullname": f"{retrieval.image_card.model}+{retrieval.text_card.model} mine",
    }
    for k in (1, 5, 10):
        by_text, by_image = (
            retrieval.metrics[way][f"recall@{k}"] for way in ("text_to_image", "image_to_text")
        )
        assert float(first[f"image_retrieval_recall@{k}"]) == by_text.value
        assert float(first[f"text_retrieval_recall@{k}"]) == by_image.value
    figures = zeroshot.metrics["image_to_class"]
    assert second["task"] == "zeroshot_classification"
    assert [float(second[name]) for name in ("acc1", "acc5", "mean_per_class_recall")] == [
        figures[name].value for name in ("top-1", "top-5", "mean-per-class")
    ]
    assert (first["acc1"], second["image_retrieval_recall@5"]) == ("", "")


def report(**metrics):
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    return BenchReport(
        task="multilingual",
        metrics={group: dict.fromkeys(names, figure) for group, names in metrics.items()},
        store_fingerprint="0" * 64,
    )


def test_parts_by_language_are_rows_of_their_own() -> None:
    rows = csv_rows(
        [
            report(
                **{
                    "text_to_image/de": ["recall@1", "mean_rank"],
                    "image_to_class/en": ["top-1"],
                    "image_to_class/average": ["top-1"],
                }
            )
        ],
        dataset="d",
        pretrained="p",
    )
    assert [(row["task"], row["language"]) for row in rows] == [
        ("zeroshot_retrieval", "de"),
        ("zeroshot_classification", "en"),
    ]
    assert rows[0]["image_retrieval_recall@1"] == rows[1]["acc1"] == "0.5"


def test_what_was_measured_twice_is_one_row() -> None:
    english = report(**{"image_to_class/en": ["top-1"]})
    zeroshot = report(image_to_class=["top-1"]).model_copy(update={"task": "zeroshot"})
    (row,) = csv_rows([english, zeroshot], dataset="d", pretrained="p")
    assert (row["task"], row["language"], row["acc1"]) == ("zeroshot_classification", "en", "0.5")


@pytest.mark.parametrize(
    ("task", "group", "metric", "names"),
    [
        ("negatives", "image_to_text", "accuracy", ("image_caption_selection", "acc")),
        ("probe", "linear/all", "top-1", ("linear_probe", "lp_acc1")),
    ],
)
def test_other_tasks_have_their_names_there(task, group, metric, names) -> None:
    measured = report(**{group: [metric], f"{group}/part": [metric]}).model_copy(update={"task": task})
    (row,) = csv_rows([measured], dataset="d", pretrained="p")
    assert (row["task"], row[names[1]]) == (names[0], "0.5")


def test_what_has_no_name_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no such figures[\s\S]*found: patches[\s\S]*zeroshot"):
        csv_rows([report(patches=["mean-iou"])], dataset="d", pretrained="p")


@pytest.mark.parametrize(
    "content", ["image,caption\na,b\n", "dataset,model,task\nd,m\n", "dataset,model,task\nd,m,t,x\n"]
)
def test_another_table_is_left_as_it_is(content, tmp_path) -> None:
    table = tmp_path / "other.csv"
    table.write_text(content)
    with pytest.raises(UsageError, match="not a table of CLIP_benchmark"):
        append_csv([{"dataset": "d"}], table)
    with pytest.raises(UsageError, match="not a table of CLIP_benchmark"):
        check_table(table)
    assert table.read_text() == content


def test_an_empty_file_is_begun_and_one_without_a_folder_is_refused(tmp_path) -> None:
    table = tmp_path / "new.csv"
    table.touch()
    append_csv([{"dataset": "d", "acc1": "0.5"}], table)
    assert read(table)[0]["acc1"] == "0.5"
    with pytest.raises(UsageError, match="cannot write"):
        append_csv([{"dataset": "d"}], tmp_path / "none" / "new.csv")
