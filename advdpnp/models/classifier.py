"""Any net as a classifier: float32 images in [0, 1] go in, logits (n, classes) come out."""

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError

DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}

InputRange = tuple[float, float]
"""The values that a net expects for black and for white."""

_logger = logging.getLogger("advdpnp")
_said: set[str] = set()


class Classifier(nn.Module):
    """A net of any kind behind one door.

    Images are scaled to ``input_range`` and cast to the precision of the weights. Outputs with ``.logits``, mappings
    with "logits", and tuples whose first member is the logits, are unwrapped. One logit z becomes the two logits
    (0, z), so that class 1 is predicted where z > 0. Half-precision logits are returned in float32, which holds them
    exactly; float64 logits stay float64. Outputs of any other kind are passed on, for the caller to refuse.

    Args:
        net: a module, or a function of images; see ``_Function``. Its attribute ``image_dtype``, if there is one, says
            in which precision it takes images.
        input_range: what the net expects instead of [0, 1]; (0, 1) is the same as None.
    """

    def __init__(self, net: Callable[..., Any], input_range: InputRange | None = None) -> None:
        super().__init__()
        self.net = net if isinstance(net, nn.Module) else _Function(net)
        self.input_range = None if input_range == (0, 1) else input_range
        self.dtype = getattr(self.net, "image_dtype", None) or dtype_of(self.net)
        self._needed = self.input_range is not None or self.dtype != torch.float32

    @property
    def simplest(self) -> nn.Module:
        """The net itself if, as far as its calls have shown, it needs nothing around it."""
        return self if self._needed else self.net

    def forward(self, x: Tensor) -> Any:
        """Logits (n, classes) of images (n, c, h, w) in [0, 1], float32 or of the net's own precision."""
        if self.input_range is not None:
            low, high = self.input_range
            x = x * (high - low) + low
        answer = self.net(x.to(self.dtype))
        logits = _unwrapped(answer, type(self.net).__name__)
        if isinstance(logits, Tensor) and (logits.shape == (len(x),) or logits.shape[1:] == (1,)):
            logits = logits.reshape(len(x), 1)
            _say_once("the net returns one logit z: it is evaluated as the two logits (0, z), class 1 where z > 0")
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        if logits is not answer:
            self._needed = True
        half = isinstance(logits, Tensor) and logits.dtype in (torch.float16, torch.bfloat16)
        return logits.float() if half else logits


def as_classifier(model: Callable[..., Any], input_range: InputRange | None = None) -> Classifier:
    """``model`` behind the door of ``Classifier``; one that is already keeps its own unless another range is given.

    Args:
        model: a module or a function that maps images to logits, or to something that contains them.
        input_range: (0, 255), (-1, 1) or the like if the model expects other values than [0, 1].

    Raises:
        AdvdpnpError: it cannot be called, or the range is empty or not finite.
    """
    if not callable(model):
        raise AdvdpnpError(
            f"the model must be a torch.nn.Module or a function of images, not {type(model).__name__}; load_model "
            "loads files"
        )
    if input_range is not None:
        input_range = check_input_range(input_range)
    if not isinstance(model, Classifier):
        return Classifier(model, input_range)
    return model if input_range is None else Classifier(model.net, input_range)


def check_input_range(values: Any) -> InputRange:
    """Two finite numbers, the first below the second.

    Raises:
        AdvdpnpError: they are something else.
    """
    try:
        low, high = map(float, values.split(",") if isinstance(values, str) else values)
    except (TypeError, ValueError):
        low = high = 0.0
    if not (-1e6 < low < high < 1e6):
        raise AdvdpnpError(f"the input range {values!r} is not two numbers, the smaller first; write 0,255 or -1,1")
    return low, high


def to_dtype(model: nn.Module, name: str | None) -> nn.Module:
    """The model with weights of another precision, changed in place; None changes nothing.

    Raises:
        AdvdpnpError: no such precision.
    """
    if name is None:
        return model
    if name not in DTYPES:
        raise AdvdpnpError(f"there is no dtype called '{name}'; choose one of {', '.join(DTYPES)}")
    return model.to(DTYPES[name])


def dtype_of(model: nn.Module) -> torch.dtype:
    """Precision of the first floating-point weight, in which images are given to the net; float32 without any."""
    weights = (weight.dtype for weight in (*model.parameters(), *model.buffers()) if weight.is_floating_point())
    return next(weights, torch.float32)


def dtype_name(model: nn.Module) -> str:
    """The precisions of all floating-point parameters, "float32" or "bfloat16+float32"."""
    found = {str(weight.dtype).removeprefix("torch.") for weight in model.parameters() if weight.is_floating_point()}
    return "+".join(sorted(found)) or "float32"


class _Function(nn.Module):
    """A function as a module.

    The nets that it uses (as a method of one, in a closure or an attribute, as an argument of ``functools.partial``, or
    as a global) become its submodules: they are moved, hashed and put into eval mode. Others stay as they are.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function, self.image_dtype = function, getattr(function, "image_dtype", None)
        unique = {id(net): net for net in _nets_of(function)}
        self.nets = nn.ModuleList(unique.values())

    def forward(self, x: Tensor) -> Any:
        return self.function(x)

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a copy of a function would still use the original's nets")


def _nets_of(function: Any) -> Iterator[nn.Module]:
    if isinstance(function, functools.partial):
        for value in (function.func, *function.args, *function.keywords.values()):
            yield from [value] if isinstance(value, nn.Module) else _nets_of(value)
        return
    if isinstance(owner := getattr(function, "__self__", None), nn.Module):
        yield owner
    function = getattr(function, "__func__", function)
    values = [*getattr(function, "__dict__", {}).values()]
    if inspect.isfunction(function):
        used = inspect.getclosurevars(function)
        values += [*used.nonlocals.values(), *used.globals.values(), *(function.__defaults__ or ())]
    yield from (value for value in values if isinstance(value, nn.Module))


def _unwrapped(output: Any, kind: str) -> Any:
    if isinstance(output, Tensor):
        return output
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        _say_once(f"{kind} returns a {type(output).__name__}: its .logits are evaluated")
        return logits
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        _say_once(f'{kind} returns a {type(output).__name__}: its "logits" are evaluated')
        return output["logits"]
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        _say_once(f"{kind} returns a {type(output).__name__} of {len(output)}: its first member is evaluated as logits")
        return output[0]
    return output


def _say_once(sentence: str) -> None:
    if sentence not in _said:
        _said.add(sentence)
        _logger.warning(sentence)
