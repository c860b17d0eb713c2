"""A results folder, copies of it that are tampered with, and what notices each."""

import contextlib
import io
import shutil
import tempfile
from pathlib import Path

from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run as run_cli
from advdpnp.eval.report.leaderboard import build_leaderboard
from benchmarks.tampering.way import Way
from benchmarks.tampering.ways import ATTACKS, EPS

SAMPLES = 24
_TELLING = (
    "advdpnp:", "    ", "model.json says", "measured again", "was changed", "damaged", "contradict", "no verdicts",
    "not the first", "is missing", "are missing", "does not tell", "not searched",
)  # fmt: skip
_TRAIN = ("train", "--recipe", "pgd-at", "--dataset", "digits", "--epochs", "3", "--device", "cpu", "--name", "net",
          "--architecture", "pixels", "--set", "attack.steps=3", "--set", "batch_size=128")  # fmt: skip


def build(root: Path) -> None:
    """A linear net on real digits, evaluated under four attacks and corruptions, every image stored."""
    _quiet([*_TRAIN, "--out", str(root / "runs")])
    _quiet(
        ["eval", str(root / "runs" / "net"), "--attacks", ",".join(ATTACKS), "--eps", EPS, "--limit", str(SAMPLES),
         "--corruptions", "regenerated", "--corruption-types", "fog", "--save-adversarials", "--device", "cpu",
         "--out", str(root / "results")]
    )  # fmt: skip


def _quiet(words: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = run_cli(words)
    return code, said.getvalue()


class Bench:
    """The honest results, and copies of them that are tampered with."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / "results").exists():
            build(root)
        for path in (root / "results").glob("*.*"):
            path.unlink()  # no honest table lies beside
        self.honest = self._shown(root / "results")
        code, said = self.verify(root / "results", "all")
        if code:
            raise AdvdpnpError(f"honest results do not hold: {said}")

    def _shown(self, results: Path) -> tuple[set[str], set[str]]:
        """Flags and marks of the table."""
        frame = build_leaderboard([results])
        return {code for text in frame["flags"] for code in text.split("; ") if code}, set(frame["samples"])

    def verify(self, results: Path, replay: str) -> tuple[int, str]:
        """The command, its exit code and what it says."""
        return _quiet(
            ["verify", str(results), "--checkpoint", str(self.root / "runs" / "net"), "--device", "cpu", "--seed", "1",
             "--dataset", "digits", "--replay", replay]
        )  # fmt: skip

    def row(self, way: Way) -> dict[str, str]:
        """What notices a way."""
        with tempfile.TemporaryDirectory(dir=self.root) as place:
            results = Path(place) / "results"
            shutil.copytree(self.root / "results", results)
            way.do(next(results.glob("net-*")))
            by_table, by_replay = self._leaderboard(results), ""
            code, said = self.verify(results, "0")
            by_verify = _first(said) if code else "-"
            if by_table == by_verify == "-":
                code, said = self.verify(results, "all")
                by_replay = _first(said) if code else "-"
        found = (by_table, by_verify, by_replay)
        bug = any("this is a bug" in each for each in found)
        noticed = any(each not in ("-", "") for each in found)
        verdict = "BUG" if bug else "noticed" if noticed else way.why_not or "NOT NOTICED"
        part = way.name.partition(":")[0] if ":" in way.name else "the folder"
        return {
            "part": part,
            "way": way.name,
            "leaderboard": by_table,
            "verify": by_verify,
            "replay": by_replay,
            "outcome": verdict,
        }

    def _leaderboard(self, results: Path) -> str:
        try:
            flags, samples = self._shown(results)
        except AdvdpnpError as error:
            return f"refused: {_short(str(error))}"
        except Exception as error:
            return f"this is a bug: {type(error).__name__}: {_short(str(error))}"
        new = [*sorted(flags - self.honest[0]), *sorted(samples - self.honest[1])]
        return f"flagged: {', '.join(new)}" if new else "-"


def _first(said: str) -> str:
    """The first sentence that says what is wrong."""
    body = said.partition("\nchecked: ")[0].splitlines()
    return _short(next((line for words in _TELLING for line in body if words in line), "noticed"))


def _short(text: str) -> str:
    words = " ".join(text.split()).replace("|", "/")
    for part in words.split():
        if "/" in part and len(part) > 30:
            words = words.replace(part, part.rpartition("/")[2])
    return words if len(words) < 110 else words[:107] + "..."
