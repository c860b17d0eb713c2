"""Devices without float64: nothing of that type is made on them, and the verdicts are the same."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import advdpnp
from advdpnp.base import devices
from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.run.device import choose_device

_ON_THE_DEVICE, _ON_THE_HOST = {"step", "copy_agrees"}, {"distance", "result"}
"""Functions of the search that compute on the device, and those below them that move their tensors to the CPU first."""


class RefusesFloat64(TorchDispatchMode):
    """As mps does, outside the functions that work on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(each, Tensor) and each.dtype == torch.float64 for each in tree_leaves(out)):
            frame, names = sys._getframe(), set()
            while frame is not None:
                names.add(frame.f_code.co_name)
                frame = frame.f_back  # type: ignore[assignment]
            if names & _ON_THE_DEVICE and not names & _ON_THE_HOST:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it")
        return out


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).eval()


@pytest.mark.parametrize(("attack", "norm"), [("pgd-5", "linf"), ("fab-t", "l2")])
def test_searches_make_no_float64_on_a_device_that_has_none(
    attack: str, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = net()(x).argmax(1)
    wide = advdpnp.attack(net(), x, y, attack, eps=0.1, norm=norm)
    monkeypatch.setattr(devices, "WITHOUT_FLOAT64", frozenset({"cpu"}))
    monkeypatch.setattr("advdpnp.attacks.engine.search.can_fork", lambda: False)
    monkeypatch.setattr("advdpnp.attacks.engine.precision.make_search_copy", lambda model, example: model)
    with RefusesFloat64():
        narrow = advdpnp.attack(net(), x, y, attack, eps=0.1, norm=norm)
    assert torch.equal(narrow.success, wide.success)
    assert torch.equal(narrow.x_adv, wide.x_adv)
    torch.testing.assert_close(narrow.distance, wide.distance, rtol=1e-6, atol=1e-7, check_dtype=False)
    with pytest.raises(
        AdvdpnpError, match="weights in float64, which cpu has not; use --device cpu or --dtype float32"
    ):
        advdpnp.attack(net().double(), x, y, attack, eps=0.1, norm=norm)


@pytest.mark.parametrize("name", ["mps", "xpu"])
def test_devices_that_are_not_here_are_one_sentence(name: str) -> None:
    if getattr(torch, name).is_available():
        assert choose_device(name).type == name
    else:
        with pytest.raises(AdvdpnpError, match=f"the device '{name}' cannot be used here; choose cpu"):
            choose_device(name)
