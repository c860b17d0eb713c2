"""The commands that are disturbed, their undisturbed runs, and the row of a table that compares the two."""

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advdpnp.base.errors import AdvdpnpError
from benchmarks.fault_injection.commands import Command, Ended, left_over, what_is_left
from benchmarks.timing import Row


@dataclass(frozen=True)
class Job:
    """One command of the table.

    Attributes:
        words: after ``advdpnp``.
        leaves: the folder that it writes to.
        needs: folders of the undisturbed runs that it reads.
    """

    words: tuple[str, ...]
    leaves: str
    needs: tuple[str, ...] = ()


_SETTINGS = ("validation_steps=2", "attack.steps=2", "batch_size=128", "average=0.9")
TRAIN = ("train", "--recipe", "adv-dpnp", "--dataset", "digits", "--epochs", "2", "--device", "cpu",
          *(word for value in _SETTINGS for word in ("--set", value)), "--name", "net")  # fmt: skip
EVAL = ("eval", "runs/net", "--attacks", "fgsm,pgd-20,square,pyautoattack:apgd-ce", "--corruptions", "regenerated",
         "--corruption-types", "fog", "--limit", "8", "--eps", "0.2", "--device", "cpu",
         "--out", "results")  # fmt: skip
JOBS = {
    "train": Job(TRAIN, "runs"),
    "eval": Job(EVAL, "results", ("runs",)),
    "leaderboard": Job(("leaderboard", "results", "--out", "table"), "table", ("results",)),
    "corrupt": Job(("corrupt", "--dataset", "digits", "--types", "fog,snow", "--out", "corrupted"), "corrupted"),
}


class Bench:
    """Undisturbed runs, and folders in which the same commands are disturbed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.straight = root / "straight"
        self.straight.mkdir()
        self.seconds: dict[str, float] = {}
        self.expected: dict[str, dict[str, str]] = {}
        Command(["list", "attacks"], root).wait()  # the server of forks imports before anything is timed
        for name, job in JOBS.items():
            ended = Command(job.words, self.straight).wait()
            print(f"undisturbed {name}: {ended.seconds:.1f} s", file=sys.stderr, flush=True)
            if ended.code:
                raise AdvdpnpError(f"an undisturbed {name} fails: {' '.join(ended.sentences) or ended.said}")
            self.seconds[name] = ended.seconds
            self.expected[name] = what_is_left(self.straight / job.leaves)

    @contextmanager
    def folder(self, name: str, *, done: bool = False) -> Iterator[Path]:
        """A new folder with the inputs of the command; with ``done`` also with its outputs."""
        path = Path(tempfile.mkdtemp(dir=self.root))
        job = JOBS[name]
        for part in (*job.needs, *([job.leaves] if done else [])):
            shutil.copytree(self.straight / part, path / part)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def row(
        self, name: str, fault: str, ended: Sequence[Ended], codes: Sequence[int], sentence: str, folder: Path,
        last: Sequence[Command] | None = None,
    ) -> Row:  # fmt: skip
        """One row of the table: the fault is over, and the command is run again.

        Args:
            ended: the disturbed commands.
            codes: the exit codes they should have.
            sentence: pattern of the one sentence that they should print; "" if they should print none.
            last: the commands that continue, if not the same one again.
        """
        finished = [each.wait() for each in (last or [self.again(name, folder)])]
        spoken = [line for each in ended for line in each.sentences]
        talk = [line for each in (*ended, *finished) for line in each.said.splitlines() if "Traceback" in line]
        place = folder / JOBS[name].leaves
        wrong = differences(self.expected[name], what_is_left(place)) + left_over(place)
        as_expected = [each.code for each in ended] == list(codes) and not any(each.code for each in finished)
        heard = len(spoken) == (1 if sentence else 0) and all(re.search(sentence, line) for line in spoken)
        again = [line for each in finished for line in each.sentences]
        codes_seen = " and ".join(str(each.code) for each in ended)
        return {
            "case": name,
            "fault": fault,
            "ended with": f"{codes_seen}, then {' and '.join(str(each.code) for each in finished)}",
            "sentence": " / ".join(tidy(line, folder) for line in [*spoken, *again]),
            "nothing lost": "yes" if not wrong else f"no: {', '.join(wrong)}",
            "passes": "yes" if as_expected and heard and not talk and not wrong else "NO",
        }

    def start(self, name: str, folder: Path, **options: Any) -> Command:
        """The command, for the first time."""
        return Command(JOBS[name].words, folder, **options)

    def again(self, name: str, folder: Path, **options: Any) -> Command:
        """The command again; training needs --resume once it has saved anything, and only then."""
        saved = name == "train" and (folder / "runs" / "net" / "training.pt").exists()
        return Command([*JOBS[name].words, *(["--resume"] if saved else [])], folder, **options)


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Files that are missing, different or additional."""
    return [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]


def tidy(sentence: str, folder: Path) -> str:
    """The sentence without paths of this machine and random parts of file names."""
    return re.sub(r"\.[a-z0-9_]{8}\.tmp", ".tmp", sentence.replace(f"{folder}/", "")).replace("|", "/")
