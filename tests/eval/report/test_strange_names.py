"""Names of any kind reach tables, figures and terminals as text: no markup, formula, link or escape sequence."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from advdpnp.base.untrusted.text import csv_cell, from_csv_cell, markdown, printable, shown
from advdpnp.cli import run
from advdpnp.eval.analysis.columns import read_leaderboard
from advdpnp.eval.report.leaderboard import build_leaderboard

NAMES = (
    "[/red]x", "=1+1", "@sum", "-cmd", "$x^{$", "|b|", "[x](http://e.com)", "<script>alert(1)</script>", "![i](j)",
    r"\frac{", "a" * 255, "</style>", "'quoted", "-5", "`code`", "100%_a{b}#",
)  # fmt: skip


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, write_results: Callable[..., None]) -> Path:
    """One model."""
    out = tmp_path_factory.mktemp("few") / "results"
    write_results(out, "\N{ROCKET}", {"clean": 0.9, "fgsm": 0.5}, n=20)
    return out


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, write_results: Callable[..., None]) -> Path:
    out = tmp_path_factory.mktemp("strange") / "results"
    for name in NAMES:
        shares = {"clean": 0.9, "fgsm": 0.5, "=cmd|'x'": 0.4, "[/red]a|b_c": 0.3, "$y^{$": 0.2}
        write_results(out, name, shares, n=20, cells={("fog", 1): 0.5, ("snow", 2): 0.4})
    return out


def test_every_table_and_figure_is_written_and_reads_back(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["leaderboard", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "[/red]x" in printed
    pd.testing.assert_frame_equal(read_leaderboard(out / "leaderboard.csv"), build_leaderboard([out]))
    cells = [cell for line in (out / "leaderboard.csv").read_text().splitlines() for cell in line.split(",")]
    assert not [cell for cell in cells if re.match(r'"?[=@]|"?[-+](?!\d)', cell)]
    assert "'=1+1" in cells
    assert "-5" in cells
    text = (out / "leaderboard.md").read_text()
    for raw in (r"(?<!\\)\]\(", "<script", r"!\[", r"\$", r"(?<!\\)`code", "://"):
        assert not re.search(raw, text), raw
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows if "n | flags" in rows[0]}) <= 4
    assert "<script>alert" not in (out / "leaderboard.html").read_text()
    for kind in ("latex", "bibtex"):
        assert run(["export", kind, str(out)]) == 0
    for name in NAMES:
        assert run(["export", "model-card", str(out), "--model", name]) == 0


@pytest.mark.parametrize(("encoding", "window"), [("ascii", "TkAgg"), ("latin-1", "nonsense")])
def test_terminals_of_few_letters_show_what_they_can(few: Path, encoding: str, window: str) -> None:
    said = _advdpnp(["leaderboard", str(few)], PYTHONIOENCODING=encoding, MPLBACKEND=window, DISPLAY="")
    assert said.returncode == 0, said.stderr
    assert b"\\U0001f680" in said.stdout


def test_closed_output_is_no_fault(few: Path) -> None:
    code = "import sys; sys.stdout = None; from advdpnp.cli import run; sys.exit(run(sys.argv[1:]))"
    said = subprocess.run([sys.executable, "-c", code, "leaderboard", str(few)], capture_output=True)
    assert (said.returncode, said.stderr) == (0, b"")


def _advdpnp(words: list[str], **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "advdpnp", *words], capture_output=True, env={**os.environ, **environment}
    )


def test_signs_that_no_terminal_can_show_are_spelled_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["leaderboard", f"{tmp_path}/\x1b[31mred\u202e"]) == 2
    said = capsys.readouterr().err
    assert "\\x1b[31mred\\u202e" in said
    assert said.rstrip("\n").isprintable()


def test_escapes() -> None:
    assert printable("a\n\x1b\u202e\xa0b\ud800") == "a\\n\\x1b\\u202e b\\ud800"
    assert printable("abcdef", 4) == "abc…"
    assert shown(10**100) == "a number of 60 digits or more"
    assert len(shown(["x" * 1000])) <= 60
    assert [csv_cell(each) for each in ("=1", "+1e5", "-.5", "\t=", "a", 3, "'=1")] == [
        "'=1", "+1e5", "-.5", "\\t=", "a", 3, "''=1",
    ]  # fmt: skip
    assert [from_csv_cell(csv_cell(each)) for each in ("=1", "'=1", "-x", "it's")] == ["=1", "'=1", "-x", "it's"]
    assert markdown("a|b [x](http://e) www.e.com <b> $x$ @me `c` &#x202e;\n") == (
        r"a\|b \[x\](http&#58;//e) www&#46;e.com &lt;b> &#36;x&#36; &#64;me \`c\` &amp;#x202e;\\n"
    )
