"""The command line: assembles the commands and turns every error into one sentence.

Importing this module must stay cheap (``advdpnp --help`` imports no torch).
"""

import errno
import io
import itertools
import os
import re
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Abort, Exit, TyperException

from advdpnp import __version__, _without_display
from advdpnp.base.errors import AdvdpnpError, AlreadyTold
from advdpnp.base.interrupts import interruptible
from advdpnp.base.untrusted.text import printable
from advdpnp.commands import corrupt, demo, detect, doctor, evaluate, geometry, listing, study, train
from advdpnp.commands.stored import compare, export, leaderboard, migrate, seal, verify
from advdpnp.commands.support.console import first_process

app = typer.Typer(
    name="advdpnp",
    invoke_without_command=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Train adversarially robust image classifiers, evaluate any PyTorch classifier with standard attacks, and "
    "compare models on per-sample results.",
    epilog="Start with `advdpnp demo`: it trains four methods on real digits, attacks them, and shows the leaderboard.",
)

for name, function, epilog in (
    ("train", train.train, train.EPILOG),
    ("eval", evaluate.evaluate, evaluate.EPILOG),
    ("leaderboard", leaderboard.leaderboard, leaderboard.EPILOG),
    ("compare", compare.compare, compare.EPILOG),
    ("export", export.export, export.EPILOG),
    ("verify", verify.verify, verify.EPILOG),
    ("seal", seal.seal, seal.EPILOG),
    ("migrate", migrate.migrate, migrate.EPILOG),
    ("geometry", geometry.geometry, geometry.EPILOG),
    ("detect", detect.detect, detect.EPILOG),
    ("study", study.study, study.EPILOG),
    ("demo", demo.demo, demo.EPILOG),
    ("corrupt", corrupt.corrupt, corrupt.EPILOG),
    ("list", listing.list_, listing.EPILOG),
    ("doctor", doctor.doctor, doctor.EPILOG),
):
    app.command(name, epilog=epilog)(function)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"advdpnp {__version__}")
        raise typer.Exit


def _load_plugins(files: list[Path] | None) -> None:
    """Import Python files, whose decorators register attacks, methods, data sets, models or corruptions."""
    if files:
        from advdpnp.models.sources.factories import import_file

        for file in files:
            import_file(file)


@app.callback()
def _root(
    context: typer.Context,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.py",
            help="Import this file first: attacks, methods, data sets and models that it registers can then be named; "
            "before or after the command; repeatable.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit
    _load_plugins(plugin)


_STOPPED = "stopped; finished work is kept, the same command continues from there (train: --resume, once it has saved)"
_NOT_BEGUN = "stopped before anything had begun; run the same command again"
_WORKERS = ("advdpnp.training.trainer", "advdpnp.eval.run.model_run", "advdpnp.corruption.export",
            "advdpnp.eval.detection.run")  # fmt: skip
_INTERRUPTED = 130  # what typer makes of Ctrl-C


def _fail(sentence: str) -> int:
    with suppress(OSError):  # the terminal may have gone, or the disk with the log be full
        short = re.sub(r"\S{1000,}", lambda word: f"{word[0][:100]}…", sentence)  # what was typed, by mistake
        print(f"advdpnp: {printable(short)}", file=sys.stderr)
    return 2


def _stopped() -> str:
    """What an interruption leaves; until the modules that do the work have been imported, nothing."""
    loaded = [sys.modules[name] for name in _WORKERS if name in sys.modules]
    begun = any(not getattr(module.__spec__, "_initializing", False) for module in loaded)
    return _STOPPED if begun else _NOT_BEGUN


def _fail_once(sentence: str) -> int:
    """An error that all processes of a command share is printed by the first of them."""
    return _fail(sentence) if first_process() else 2


def _plugins_first(arguments: list[str]) -> list[str]:
    """The arguments with every ``--plugin FILE`` before the command, whose options are read after it is imported."""
    plugins: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest.append(word)
            break
        pair = [word, *itertools.islice(words, 1)] if word == "--plugin" else [word]
        (plugins if word.partition("=")[0] == "--plugin" else rest).extend(pair)
    return [*plugins, *rest, *words]


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 with one sentence on standard error, or 1 of ``verify``.

    Ctrl-C, SIGTERM and SIGHUP end it with such a sentence too, after all that was found has been written.
    """
    if not os.environ.get("ADVDPNP_DEBUG"):
        warnings.simplefilter("ignore")  # libraries warn their own developers
    _open_streams()
    with interruptible() as asked, _without_display():
        try:
            result: Any = app(_plugins_first(sys.argv[1:] if arguments is None else arguments), standalone_mode=False)
            code = result if isinstance(result, int) else 0
            return _fail_once(_stopped()) if code == _INTERRUPTED else code
        except AlreadyTold:
            return 2
        except AdvdpnpError as error:
            return _fail(str(error))
        except (Abort, KeyboardInterrupt):
            return _fail_once(_stopped())
        except TyperException as error:
            return _fail_once(f"{_in_words(error.format_message())}; see `advdpnp --help` and `advdpnp COMMAND --help`")
        except Exit as leave:
            return leave.exit_code
        except Exception as error:
            # A library may turn the interruption into an error of its own.
            return _fail_once(_stopped()) if asked() else _explain(error)


def _open_streams() -> None:
    """Make standard streams take any text, in whatever encoding; a closed one (``>&-``) takes it and is silent."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


_RULES = {
    "greater than or equal to ": "at least ",
    "less than or equal to ": "at most ",
    "a valid integer, unable to parse string as an integer": "an integer",
    "a valid number, unable to parse string as a number": "a number",
}  # the validator's words, and ours


def _in_words(message: str) -> str:
    """A wrong argument in this program's words: "--limit must be at least 1", "no such option: --atacks"."""
    if invalid := re.fullmatch(r"Invalid value for '([^']+)': Input should be (.+)", message.strip()):
        rule = invalid[2]
        for theirs, ours in _RULES.items():
            rule = rule.replace(theirs, ours)
        return f"{invalid[1]} must be {rule}"
    sentence = message.strip().rstrip(".").replace(". Did you mean", "; did you mean")
    return sentence[:1].lower() + sentence[1:]


def _explain(error: Exception) -> int:
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its exit
        return 2
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _fail("the disk is full; free some space and run the same command again")
    if isinstance(error, ImportError):
        broken = doctor.broken_links(Path(__file__).parent)
        what = (
            f"the parts {', '.join(broken)} of the package are missing"
            if broken
            else f"something does not import: {error}"
        )
        return _fail(f"{what}; `advdpnp doctor` says what is wrong and prints the command that fixes it")
    if isinstance(error, MemoryError):
        return _fail(f"out of memory ({error}); use a smaller --batch-size or a smaller net")
    return _unexpected(error)


def _unexpected(error: Exception) -> int:
    """A bug. The user gets one sentence; whoever fixes it sets ADVDPNP_DEBUG=1."""
    if os.environ.get("ADVDPNP_DEBUG"):
        traceback.print_exception(error)
    sentence = " ".join(str(error).split())
    return _fail(f"unexpected {type(error).__name__}: {sentence}; this is a bug, ADVDPNP_DEBUG=1 shows where")


def main() -> None:
    """Entry point of the ``advdpnp`` command."""
    sys.exit(run())
