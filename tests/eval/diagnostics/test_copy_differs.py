"""A search whose copy of the model has other gradients than the model runs on the model, and the row says so."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

import advdpnp


class TwoFaced(nn.Module):
    """Stored weights for images of whole 255ths, derived ones (their opposite) for all others.

    A copy made and proven on the images of a data set takes its gradients from the stored weights alone.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.Softplus(), nn.Flatten(), nn.Linear(512, 10))

    def forward(self, x: Tensor) -> Tensor:
        moved = bool((255 * x - (255 * x).round()).abs().max() > 1e-3)
        weights = {name: weight * (1 - 2 * moved) for name, weight in self.net.named_parameters()}
        logits: Tensor = functional_call(self.net, weights, (x,))
        return logits


def test_the_row_names_the_attacks_that_ran_on_the_model_itself() -> None:
    x = torch.randint(0, 256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(0)) / 255
    model = TwoFaced().eval()
    with torch.no_grad():
        y = model(x).argmax(1)
    row = advdpnp.evaluate(model, x, y, eps="4/255", attacks=["fgsm", "pgd-5"]).row.iloc[0]
    assert "copy-differs" in row["flags"].split("; ")
    assert "copy-differs: pgd-5 ran on the model itself" in row["flag_details"]
    honest = advdpnp.evaluate(model.net, x, y, eps="4/255", attacks=["fgsm", "pgd-5"]).row.iloc[0]
    assert "copy-differs" not in honest["flags"]
