"""What RobustBench publishes of the same data and threat models."""

from advdpnp.eval.report.html.section import section_of_grids
from advdpnp.eval.report.robustbench import published_grids

SECTION = section_of_grids(
    "published",
    "Published",
    "Beside published models",
    "Other people's numbers, over other numbers of images: nothing here is tested or marked as best.",
    lambda context: published_grids(context.everything),
)
