"""What is asked to end ends in one sentence, whoever asks and whatever a library makes of it."""

import os
import signal

import pytest

import advdpnp.commands.listing
from advdpnp.base.interrupts import deferred_interrupts, interruptible
from advdpnp.cli import run

ASKING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ASKING)
def test_a_signal_that_asks_to_end_is_one_sentence(number, capsys, monkeypatch):
    monkeypatch.setattr(advdpnp.commands.listing, "catalogue", lambda kind: send(number))
    before = signal.getsignal(number)
    assert run(["list", "attacks"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("advdpnp: stopped;")
    assert said.count("\n") == 1
    assert signal.getsignal(number) is before


def test_a_library_that_makes_another_error_of_an_interruption_is_seen_through(capsys, monkeypatch):
    def interrupted(kind):
        try:
            send(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("numpy failed to import") from None

    monkeypatch.setattr(advdpnp.commands.listing, "catalogue", interrupted)
    assert run(["list", "attacks"]) == 2
    assert "stopped;" in capsys.readouterr().err


def test_of_several_processes_that_are_stopped_one_speaks(capsys, monkeypatch):
    monkeypatch.setattr(advdpnp.commands.listing, "catalogue", lambda kind: send(signal.SIGTERM))
    monkeypatch.setenv("RANK", "1")
    assert run(["list", "attacks"]) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", ASKING)
def test_the_first_signal_is_kept_for_later_and_the_second_acts(number):
    with interruptible() as at_once, deferred_interrupts() as later:
        send(number)
        assert later()
        assert not at_once()
        with pytest.raises(KeyboardInterrupt):
            send(number)
        assert at_once()


def test_what_the_caller_ignores_stays_ignored():
    """nohup ignores SIGHUP, and shells ignore SIGINT for what runs in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as at_once, deferred_interrupts() as later:
            send(signal.SIGHUP)
            assert not at_once()
            assert not later()
    finally:
        signal.signal(signal.SIGHUP, before)
