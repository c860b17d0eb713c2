"""The types of corruptions: the benchmark's fifteen in its order, the four extra ones, and their groups."""

from collections.abc import Iterable

BENCHMARK = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The reported number is the mean over these types at five severities (75 cells)."""

EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Reported separately."""

GROUPS = {
    "noise": BENCHMARK[:3],
    "blur": BENCHMARK[3:7],
    "weather": BENCHMARK[7:11],
    "digital": BENCHMARK[11:],
}
"""The benchmark's types by its authors' groups."""


def in_order(names: Iterable[str]) -> list[str]:
    """Types in the order of tables and figures: the benchmark's, the extra ones, then other types by name."""
    usual = BENCHMARK + EXTRA
    return sorted(set(names), key=lambda name: (usual.index(name) if name in usual else len(usual), name))
