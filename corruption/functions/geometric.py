"""Elastic transform: a random affine map, then a random displacement of every pixel."""

import torch
from torch import Tensor

from advdpnp.base.randomness import Draw
from advdpnp.corruption.functions.noise import REFERENCE
from advdpnp.corruption.operations import filters
from advdpnp.corruption.operations.layers import layer_size
from advdpnp.corruption.operations.pixels import BENCHMARK_SIZE, scale_of, to_levels, to_unit
from advdpnp.corruption.registry import declare


def affine_positions(draw: Draw, height: int, width: int, reach: float) -> tuple[Tensor, Tensor]:
    """Source positions of all pixels under the affine map that moves three points by up to ``reach`` pixels.

    Returns:
        Rows and columns, float64, shape (n, height, width).
    """
    device = draw.key.device
    centre = torch.tensor((width // 2, height // 2), dtype=torch.float64, device=device)
    side = min(height, width) // 3
    corners = torch.tensor(((1, 1), (1, -1), (-1, -1)), dtype=torch.float64, device=device)
    before = centre + side * corners  # (3, 2), x first
    after = before + (draw.uniform((3, 2), 0, dtype=torch.float64) * 2 - 1) * reach
    # The source of p = after_0 + s (after_1 - after_0) + t (after_2 - after_0) is the same combination of `before`.
    one, two = (after[:, 1] - after[:, 0]).unbind(1), (after[:, 2] - after[:, 0]).unbind(1)
    area = (one[0] * two[1] - one[1] * two[0])[:, None, None]
    x = torch.arange(width, dtype=torch.float64, device=device)[None, None, :] - after[:, 0, 0, None, None]
    y = torch.arange(height, dtype=torch.float64, device=device)[None, :, None] - after[:, 0, 1, None, None]
    s = (x * two[1][:, None, None] - y * two[0][:, None, None]) / area
    t = (y * one[0][:, None, None] - x * one[1][:, None, None]) / area
    (x_0, y_0), (x_1, y_1), (x_2, y_2) = before.tolist()
    return y_0 + s * (y_1 - y_0) + t * (y_2 - y_0), x_0 + s * (x_1 - x_0) + t * (x_2 - x_0)


@declare(
    "elastic_transform",
    group="digital",
    constants=((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    description="random affine map and smooth random displacements",
    reference=REFERENCE,
)
def elastic_transform(images: Tensor, draw: Draw, alpha: float, sigma: float, affine: float) -> Tensor:
    """Affine map, then displacements: uniform noise, smoothed by a Gaussian of sigma, times alpha.

    The three constants are multiples of the image's side.
    """
    x = to_unit(images)
    height, width = images.shape[-2:]
    side = BENCHMARK_SIZE * scale_of(images)
    x = filters.sample_linear(x, *affine_positions(draw, height, width, affine * side), "mirror")
    if not alpha:
        return to_levels(x)
    noise = draw.uniform((2, *layer_size(images)), 1) * 2 - 1
    field = filters.gaussian_filter(noise, sigma * BENCHMARK_SIZE, boundary="reflect", truncate=3)
    across, down = filters.enlarge(field * (alpha * side), height, width).unbind(1)
    rows = torch.arange(height, device=images.device)[:, None] + down
    columns = torch.arange(width, device=images.device) + across
    return to_levels(filters.sample_linear(x, rows, columns, "reflect"))
