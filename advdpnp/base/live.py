"""Lines that change while something runs: drawn anew on a terminal and in a notebook, repeated in a log.

The only place below the commands that writes to the screen; a caller asks for it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from advdpnp.base.untrusted.text import printable

LOG_EVERY = 30.0
"""Seconds between two lines where the output is no terminal."""
WORTH_TELLING = 10.0
"""Seconds; of less a measurement of a few calls says nothing, and the work is done as soon as the line is read."""
_NOTEBOOK_EVERY = 1.0
_NARROW = 60  # columns; below there is no room for a bar

Lines = Callable[[], Sequence[str]]
Say = Callable[[str], None]


@contextmanager
def live(lines: Lines, share: Callable[[], float | None], console: Console | None = None) -> Iterator[Say]:
    """Show lines until the block ends; yields a function that writes a sentence which stays.

    Args:
        lines: the lines now, the first of which is a title; called from another thread.
        share: how much is done, in [0, 1], for a bar beside the title; None for no bar.
        console: where to write; standard error by default.
    """
    console = console or Console(stderr=True, highlight=False)
    if console.is_jupyter:
        with _notebook(lines) as say:
            yield say
    elif console.file.isatty() and console.is_terminal and not console.is_dumb_terminal:
        with Live(get_renderable=lambda: _Drawing(lines, share), console=console, refresh_per_second=4, transient=True):
            yield lambda text: console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
    else:

        def say(text: str) -> None:
            print(printable(text), file=console.file, flush=True)

        def repeat() -> None:
            if now := lines():
                say(": ".join(now))

        with _repeating(repeat, LOG_EVERY):
            yield say


def clock_time(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class _Drawing:
    """The lines on a terminal of any width."""

    def __init__(self, lines: Lines, share: Callable[[], float | None]) -> None:
        self._lines, self._share = lines, share

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines, share = self._lines(), self._share()
        if not lines:
            return
        title: Any = Text(printable(lines[0]))
        if share is not None and options.max_width >= _NARROW:
            table = Table.grid(padding=(0, 2))
            table.add_row(title, ProgressBar(total=1.0, completed=share, width=20), f"{100 * share:.0f} %")
            title = table
        yield title
        for line in lines[1:]:
            yield Text(printable(line))


@contextmanager
def _repeating(act: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call ``act`` every so many seconds while the block runs."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(seconds):
            act()

    thread = threading.Thread(target=work, name="live", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _notebook(lines: Lines) -> Iterator[Say]:
    """One output that is replaced; it needs no widgets."""
    from IPython.display import display

    said: list[str] = []
    shown = display(_plain(""), raw=True, display_id=True)

    def draw() -> None:
        shown.update(_plain("\n".join([*said, *lines()])), raw=True)

    with _repeating(draw, _NOTEBOOK_EVERY):
        yield said.append
    shown.update(_plain("\n".join(said)), raw=True)


def _plain(text: str) -> dict[str, str]:
    return {"text/plain": text}
