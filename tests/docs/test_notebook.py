"""The notebook: it runs, and it is kept as it ran."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import advdpnp

ROOT = Path(advdpnp.__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "tutorials" / "own-net.ipynb"


def test_the_notebook_is_kept_with_its_outputs_and_small() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data", "execute_result"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert NOTEBOOK.stat().st_size < 150_000


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    pytest.importorskip("nbmake")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbmake", "--nbmake-timeout=600"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*words, str(NOTEBOOK)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "1 passed" in done.stdout
