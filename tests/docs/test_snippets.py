"""What the pages show runs: Python and console blocks, each page in a process and a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import advdpnp

ROOT = Path(advdpnp.__file__).resolve().parent.parent
RUNNER = Path(__file__).with_name("run_page.py")
PAGES = [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if re.search(r"^```(python|console)$", page.read_text(encoding="utf-8"), re.MULTILINE)
]


def test_the_guides_show_something() -> None:
    guides = {"index", "evaluate", "attack", "train"} | {f"add-{n}" for n in ("attack", "method", "dataset", "model")}
    assert guides | {"add-corruption", "cluster", "migrate"} == {page.stem for page in PAGES}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(page)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {
        path.relative_to(tmp_path / "site").as_posix(): path.read_text(encoding="utf-8")
        for path in (tmp_path / "site").rglob("*.html")
    }
    for name, page in pages.items():
        assert not re.search(r'<(?:script|img|link)[^>]*(?:src|href)="https?:', page), name
    assert all(f'id="advdpnp.eval.api.{name}"' in pages["reference/python.html"] for name in ("evaluate", "Evaluation"))
    assert "7,819" in pages["reference/attacks.html"]  # forwards of AutoAttack on an image that it cannot break
    assert "<!-- list:" not in "".join(pages.values())
