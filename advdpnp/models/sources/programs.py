"""Programs: files that hold a net's code beside its weights, of TorchScript or ``torch.export``.

To load one is to run it, with all that it may do; so such a file must be named as what it is.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advdpnp.base.errors import AdvdpnpError, describe
from advdpnp.models.sources.request import Found, Request, quiet

_TORCHSCRIPT, _EXPORT = "torchscript:", "export:"


def is_program(spec: str) -> bool:
    """Whether a spec reads ``torchscript:FILE`` or ``export:FILE``."""
    return spec.startswith((_TORCHSCRIPT, _EXPORT))


def load_program(request: Request) -> Found:
    """The program of a file that ``torch.jit.save`` or ``torch.export.save`` wrote."""
    request.refuse_weights()
    request.refuse_normalisation()
    kind, _, name = request.spec.partition(":")
    path = Path(name)
    if not path.is_file():
        raise AdvdpnpError(f"there is no file {path}; check the path after {kind}:")
    read, saved = (_torchscript, "torch.jit.save") if kind == "torchscript" else (_exported, "torch.export.save")
    try:
        with quiet("torch.export"), warnings.catch_warnings():  # it logs what it then raises
            warnings.simplefilter("ignore")  # TorchScript is deprecated, but files of it remain
            model = read(path)
    except Exception as error:  # errors of many types on other or damaged files
        why = describe(error).partition(". Please check the warnings above")[0]  # which are not shown
        raise AdvdpnpError(f"{path} cannot be read as a program of {saved} ({why}); check what wrote it") from error
    return Found(model, path.stem, kind)


def _torchscript(path: Path) -> nn.Module:
    module: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return module


def _exported(path: Path) -> nn.Module:
    module: Any = torch.export.load(path).module()
    for method in ("train", "eval"):  # they would raise, though there is no mode left to choose
        module.__dict__.pop(method, None)
    return _Exported(module)


class _Exported(nn.Module):
    """An exported program, whose errors about the size of a batch say what to do."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, x: torch.Tensor) -> Any:
        try:
            return self.program(x)
        except (AssertionError, RuntimeError) as error:
            if "size()[0]" not in str(error) and "shape[0]" not in str(error):
                raise
            raise AdvdpnpError(
                "the program was exported for batches of one size; export it with dynamic_shapes="
                '({0: torch.export.Dim("batch")},)'
            ) from error
