"""The sections of the page, in order. To add one: a module here, a template named after it, and a line below.

A section formats numbers that ``eval.analysis`` has computed. Nothing here computes or reads files.
"""

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
