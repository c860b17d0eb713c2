"""The pictures of a geometry: names that do not lie on each other, and colours that tell no tale."""

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from advdpnp.eval.report.figures import geometry

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog"]


def test_names_of_points_that_lie_together_do_not_overlap():
    figure = Figure(figsize=(4, 4))
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    points = np.array([[0.5, 0.5]] * 3 + [[0.51, 0.5], [0.5, 0.52], [0.0, 0.0]])
    axes.scatter(*points.T)
    geometry._name_points(axes, points, NAMES)
    canvas.draw()
    boxes = [text.get_bbox_patch().get_window_extent(canvas.get_renderer()) for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == NAMES
    met = [(i, j) for i in range(6) for j in range(i) if boxes[i].overlaps(boxes[j])]
    assert met == []


@pytest.mark.parametrize(("spread", "span"), [(0.0005, 10.0), (0.5, None)])
def test_the_colours_of_angles_span_ten_degrees_at_least(spread, span, tmp_path, monkeypatch):
    limits = []
    original = Axes.imshow
    monkeypatch.setattr(
        Axes, "imshow", lambda self, image, **options: (
            limits.append((options["vmin"], options["vmax"], image)), original(self, image, **options)
        )[1],
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    vectors = torch.eye(6, dtype=torch.float64) + spread * torch.rand(6, 6, generator=generator, dtype=torch.float64)
    geometry._angles("net", vectors, NAMES, tmp_path / "angles.png")
    ((low, high, image),) = limits
    assert high - low == pytest.approx(span or np.nanmax(image) - np.nanmin(image))
    assert (low + high) / 2 == pytest.approx((np.nanmin(image) + np.nanmax(image)) / 2)
