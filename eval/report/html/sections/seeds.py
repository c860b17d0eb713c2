"""Several seeds of one method, and how methods differ over them."""

from advdpnp.eval.report.html.section import section_of_grids
from advdpnp.eval.report.tables import seed_grids

SECTION = section_of_grids(
    "seeds",
    "Seeds",
    "Several seeds",
    "The spread between trainings of one recipe says what a difference between two nets is worth.",
    lambda context: seed_grids(context.frame),
)
