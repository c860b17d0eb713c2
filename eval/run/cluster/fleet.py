"""How far an evaluation on a cluster is."""

from dataclasses import dataclass

from advdpnp.base.live import clock_time


@dataclass(frozen=True)
class Fleet:
    """How far an evaluation on a cluster is.

    Attributes:
        pieces: how many are done.
        running: how many are at work.
        lost: how many went with their worker and run again.
        workers: how many are ready.
        samples_per_second: that are decided, lately; None until it is known.
        seconds_left: for the models that have begun; None until it is known.
        models_left: how many have not begun.
    """

    pieces: int
    running: int
    lost: int
    workers: int
    samples_per_second: float | None
    seconds_left: float | None
    models_left: int

    def in_words(self) -> str:
        """One line."""
        parts = [f"{self.pieces:,} pieces done", f"{self.running} of {self.workers} workers busy"]
        if self.lost:
            parts.append(f"{self.lost} lost and run again")
        if self.samples_per_second is not None:
            parts.append(f"{self.samples_per_second:,.1f} samples per second")
        if self.models_left:
            parts.append(f"{self.models_left} models to come")
        if self.seconds_left is not None:
            parts.append(f"about {clock_time(self.seconds_left)} left")
        return ", ".join(parts)
