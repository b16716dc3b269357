"""The worked examples of CONTRIBUTING.md run, each as a test file of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^## (Add [^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = dict(SECTION.findall(TEXT))


def test_every_kind_of_plug_in_has_an_example():
    kinds = ["Add an encoder", "Add a source", "Add a head", "Add a loss", "Add a bench task"]
    assert list(EXAMPLES) == kinds


@pytest.mark.slow
def test_the_examples_pass_their_own_tests(tmp_path):
    for title, code in EXAMPLES.items():
        (tmp_path / f"test_{title.split()[-1]}.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
