"""The committed results: what the texts say is what the verdicts say."""

import hashlib
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest

import advdpnp
from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run
from advdpnp.datasets import load_dataset
from advdpnp.eval.analysis.columns import read_leaderboard
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.report.leaderboard import tabulate_rows, to_json
from advdpnp.eval.report.markdown import to_markdown
from advdpnp.eval.store.key import short_hash
from advdpnp.eval.store.reader import find_results
from advdpnp.models.checkpoint import load_checkpoint, weights_hash

ROOT = Path(advdpnp.__file__).resolve().parent.parent
RESULTS = ROOT / "results"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return read_leaderboard(RESULTS / "cifar10" / "leaderboard.csv").set_index("model")


def test_the_readme_shows_the_numbers_of_the_leaderboard(table):
    columns = ["clean", "fgsm", "pgd-20", "cw", "autoattack", "worst_case", "corruptions"]
    rows = re.findall(
        r"^\| ([a-z-]+) \| ((?:\d+\.\d\d \| ){6}\d+\.\d\d) \| (.*)\|$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert len(rows) == len(table)
    for method, numbers, flags in rows:
        expected = table.loc[f"cifar10-{method}-s0", columns].astype(float).tolist()
        assert [float(number) for number in numbers.split(" | ")] == expected, method
        assert flags.strip() == table.loc[f"cifar10-{method}-s0", "flags"], method


@pytest.mark.parametrize(
    "folder",
    ["cifar10", "cifar10-public", "cifar10-resnet18-w16", "cifar10-tiny-resnet", "cifar10-transfer", "ed-wta"],
)
def test_leaderboards_follow_from_the_verdicts_beside_them(folder):
    stored = read_leaderboard(RESULTS / folder / "leaderboard.csv")
    rows = make_rows(find_results([RESULTS / folder]))
    frame = tabulate_rows(rows)
    pd.testing.assert_frame_equal(frame, stored)
    assert (RESULTS / folder / "leaderboard.md").read_text(encoding="utf-8") == to_markdown(frame)
    assert (RESULTS / folder / "leaderboard.json").read_text(encoding="utf-8") == to_json(frame)


def test_what_make_results_makes_again_is_not_committed():
    tracked = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode or not tracked.stdout:
        pytest.skip("needs the repository")
    paths = [ROOT / line for line in tracked.stdout.splitlines()]
    assert len(paths) < 360
    assert sum(path.stat().st_size for path in paths) < 40_000_000  # most of it are the nets, at most 2 MB each
    assert not {path.suffix for path in paths} & {".html", ".tex"}
    assert sum(path.suffix == ".png" for path in paths) <= 20


def test_every_committed_net_is_the_one_that_was_attacked(table):
    folders = ("cifar10-tiny-resnet", "cifar10-resnet18-w16", "ed-wta")
    others = [RESULTS / folder / "leaderboard.csv" for folder in folders]
    table = pd.concat([table, *(read_leaderboard(path).set_index("model") for path in others)])
    nets = sorted((RESULTS / "checkpoints").glob("*.safetensors"))
    assert len(nets) >= 9
    for path in nets:
        assert path.stat().st_size < 2_000_000
        assert weights_hash(load_checkpoint(path)[0]) == table.loc[path.stem, "weights_hash"]


@pytest.mark.slow
def test_the_stored_images_of_a_row_show_what_it_claims(capsys):
    try:
        load_dataset("cifar10", train=False)
    except AdvdpnpError:
        pytest.skip("needs CIFAR-10; ADVDPNP_DATA says where it is")
    (folder,) = (RESULTS / "cifar10").glob("cifar10-adv-dpnp-s0-*/")
    words = ["verify", str(folder), "--checkpoint", str(RESULTS / "checkpoints" / "cifar10-adv-dpnp-s0.safetensors")]
    assert run([*words, "--replay", "0", "--device", "cpu"]) == 0
    assert "301 images, " in capsys.readouterr().out  # all hold, but for those that a processor finds nearly tied


def test_what_the_stored_verdicts_answer_is_pinned():
    """Their hashes come from what was asked: a renamed key or value would orphan all verdicts ever stored."""
    lines = set()
    folders = ("cifar10", "cifar10-public", "cifar10-tiny-resnet", "cifar10-transfer")
    for unit in find_results([RESULTS / name for name in folders]):
        again = short_hash(unit.info["identity"])
        assert unit.hash == again
        lines.add(f"{unit.model.name}-{unit.model.weights_hash[:8]} {unit.label} {unit.hash} {again}")
    assert len(lines) == 1996
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    assert digest == "f872ad51eaa79320d1b12b0e20e73289a7a66e4f36e22acd02b2d28dc931e9bb"
