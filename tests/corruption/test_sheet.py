"""The sheet of one image under everything."""

import numpy as np
import pytest
import torch
from PIL import Image

from advdpnp.base.errors import AdvdpnpError
from advdpnp.corruption import SEVERITIES, choose_types, corrupt, draw_sheet
from advdpnp.corruption.sheet import _line


def test_a_line_holds_the_clean_image_and_what_an_evaluation_sees(make_images):
    image = make_images(1, 3, 32)[0]
    line = _line(image, "fog", 3, 17)
    cells = [image, *(corrupt(image[None], "fog", s, seed=3, sample=torch.tensor([17]))[0] for s in SEVERITIES)]
    assert line.shape == (34, 6 * 34, 3)
    for place, cell in enumerate(cells):
        assert np.array_equal(line[:32, 34 * place : 34 * place + 32], cell.permute(1, 2, 0).numpy())
    assert (line[32:] == 255).all()


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 48, 32)])
@pytest.mark.parametrize("names", [("fog",), choose_types("all")])
def test_a_picture_of_any_number_of_types(tmp_path, channels, height, width, names):
    draw_sheet(torch.full((channels, height, width), 100, dtype=torch.uint8), tmp_path / "sheet.png", names=names)
    with Image.open(tmp_path / "sheet.png") as picture:
        assert min(picture.size) > 100
        assert len(set(picture.convert("L").tobytes())) > 10


def test_unknown_types_are_not_drawn(tmp_path):
    with pytest.raises(AdvdpnpError, match="fogg"):
        draw_sheet(torch.zeros(3, 32, 32, dtype=torch.uint8), tmp_path / "sheet.png", names=["fogg"])
    assert not list(tmp_path.iterdir())


def test_a_sheet_needs_a_type_and_takes_a_path_as_text(tmp_path):
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    with pytest.raises(AdvdpnpError, match="nothing to draw"):
        draw_sheet(image, tmp_path / "sheet.png", names=[])
    draw_sheet(image, str(tmp_path / "sheet.png"), names=["fog"])
    assert (tmp_path / "sheet.png").exists()
