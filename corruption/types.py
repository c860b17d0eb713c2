"""Which types there are: the benchmark's fifteen in its order, the four extra ones, and their groups."""

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
