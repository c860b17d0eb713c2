"""Common corruptions: 19 types at 5 severities, regenerated for any data set or read from the official files.

Code here may import ``advdpnp.base`` and ``advdpnp.datasets`` only. Paper: Hendrycks and Dietterich, "Benchmarking
Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019.
"""

# Importing the modules of functions registers the corruptions.
from advdpnp.corruption.apply import corrupt
from advdpnp.corruption.export import export_corruptions
from advdpnp.corruption.functions import blur, digital, geometric, noise, spatter, weather  # noqa: F401
from advdpnp.corruption.official import OfficialCorruptions, find_official
from advdpnp.corruption.registry import CORRUPTIONS, SEVERITIES, Corruption, choose_types, declare, find_corruption
from advdpnp.corruption.sheet import draw_sheet
from advdpnp.corruption.source import MODES, CorruptionSource, as_bytes, corruption_cells
from advdpnp.corruption.types import BENCHMARK, EXTRA, GROUPS, in_order

__all__ = [
    "BENCHMARK",
    "CORRUPTIONS",
    "EXTRA",
    "GROUPS",
    "MODES",
    "SEVERITIES",
    "Corruption",
    "CorruptionSource",
    "OfficialCorruptions",
    "as_bytes",
    "choose_types",
    "corrupt",
    "corruption_cells",
    "declare",
    "draw_sheet",
    "export_corruptions",
    "find_corruption",
    "find_official",
    "in_order",
]
