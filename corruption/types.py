"""Which types there are: the benchmark's fifteen in its order, the four extra ones, and their groups."""

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
"""The types whose mean over five severities each (75 cells) is the reported number."""

EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Reported apart."""

GROUPS = {
    "noise": BENCHMARK[:3],
    "blur": BENCHMARK[3:7],
    "weather": BENCHMARK[7:11],
    "digital": BENCHMARK[11:],
}
"""The benchmark's types by group, as its authors group them."""


def in_order(names: Iterable[str]) -> list[str]:
    """Types as tables and pictures list them: the benchmark's order, the extra ones, then a user's own by name."""
    usual = BENCHMARK + EXTRA
    return sorted(set(names), key=lambda name: (usual.index(name) if name in usual else len(usual), name))
