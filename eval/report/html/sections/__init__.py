"""The parts of the page, in its order. A new one is a module here, a template of its key, and a line below."""

from advdpnp.eval.report.html.section import Section
from advdpnp.eval.report.html.sections import (
    about,
    agreement,
    attacks,
    classes,
    corruptions,
    epsilon_curve,
    examples,
    geometry,
    leaderboard,
    published,
    seeds,
    tradeoff,
)

SECTIONS: tuple[Section, ...] = (
    leaderboard.SECTION,
    seeds.SECTION,
    published.SECTION,
    tradeoff.SECTION,
    epsilon_curve.SECTION,
    attacks.SECTION,
    corruptions.SECTION,
    classes.SECTION,
    agreement.SECTION,
    examples.SECTION,
    geometry.SECTION,
    about.SECTION,
)

__all__ = ["SECTIONS"]
