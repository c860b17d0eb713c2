"""Weather: snow, frost, fog, brightness."""

import torch
from torch import Tensor

from advdpnp.base.randomness import Draw
from advdpnp.corruption.functions.noise import REFERENCE
from advdpnp.corruption.operations import filters
from advdpnp.corruption.operations.layers import layer_size
from advdpnp.corruption.operations.pixels import grey, scale_of, to_levels, to_unit
from advdpnp.corruption.operations.plasma import plasma
from advdpnp.corruption.operations.textures import frost_textures
from advdpnp.corruption.registry import declare


@declare(
    "snow",
    group="weather",
    constants=(
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    description="falling snowflakes over a whitened scene",
    reference=REFERENCE,
)
def snow(
    images: Tensor,
    draw: Draw,
    mean: float,
    deviation: float,
    enlargement: float,
    threshold: float,
    radius: float,
    sigma: float,
    mix: float,
) -> Tensor:
    """Add flakes twice: peaks of a layer of normal noise, with motion blur along a falling direction."""
    x = to_unit(images)
    scale, (height, width) = scale_of(images), images.shape[-2:]
    layer = draw.normal((1, *layer_size(images))) * deviation + mean
    layer = filters.zoom(layer, enlargement)
    layer = filters.enlarge(layer.masked_fill(layer < threshold, 0), height, width)
    angle = draw.uniform((), 7, dtype=torch.float64) * 90 - 135
    flakes = to_unit(filters.motion_blur(to_levels(layer), radius * scale, sigma * scale, angle))
    white = torch.maximum(x, grey(x) * 1.5 + 0.5)
    return to_levels(x * mix + white * (1 - mix) + flakes + flakes.flip(-2, -1))


@declare(
    "frost",
    group="weather",
    constants=((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    description="ice crystals on the lens (drawn textures, not the photographs of the official files)",
    reference=REFERENCE,
    status="ours",
)
def frost(images: Tensor, draw: Draw, image_weight: float, frost_weight: float) -> Tensor:
    """Weighted sum of the image and a random crop of one of five textures.

    The official files use photographs of frost, but the textures here are synthetic. Results are comparable
    with each other, and less so with official results.
    """
    height, width = images.shape[-2:]
    textures = frost_textures(scale_of(images)).to(images.device)
    kind = draw.integers((), len(textures), 1)
    side = textures.shape[-1]
    top = draw.integers((), max(1, side - height + 1), 2)
    left = draw.integers((), max(1, side - width + 1), 3)
    # Images with an aspect ratio above 3 are longer than a texture, which then repeats.
    rows = (top[:, None] + torch.arange(height, device=images.device)) % side
    columns = (left[:, None] + torch.arange(width, device=images.device)) % side
    crop = textures[kind[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if images.shape[1] == 1:
        crop = grey(crop)
    return to_levels(to_unit(images) * image_weight + crop * frost_weight)


@declare(
    "fog",
    group="weather",
    constants=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    description="fog that reduces contrast",
    reference=REFERENCE,
)
def fog(images: Tensor, draw: Draw, strength: float, decay: float) -> Tensor:
    """Add a plasma fractal, then rescale to the maximum of the image."""
    x = to_unit(images)
    height, width = images.shape[-2:]
    peak = x.amax((1, 2, 3), keepdim=True)
    veil = plasma(draw, max(height, width), decay)[:, None, :height, :width]
    return to_levels((x + veil * strength) * (peak / (peak + strength)))


@declare(
    "brightness",
    group="weather",
    constants=((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    description="higher value (HSV)",
    reference=REFERENCE,
)
def brightness(images: Tensor, draw: Draw, shift: float) -> Tensor:
    """Raise V of HSV and keep H and S: all channels are scaled by new V / V, and black becomes grey."""
    x = to_unit(images)
    value = x.amax(1, keepdim=True)
    raised = (value + shift).clamp(max=1)
    return to_levels(torch.where(value > 0, x * (raised / value), raised))
