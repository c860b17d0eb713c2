"""Calls of an attack's own code. A mistake in it becomes one sentence that names the attack."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advdpnp.attacks.protocol import Attack, Loss, prepared
from advdpnp.attacks.rows import Rows
from advdpnp.base.devices import OUT_OF_MEMORY
from advdpnp.base.errors import AdvdpnpError, first_line
from advdpnp.base.randomness import Draw


def start(attack: Attack, x: Tensor, y: Tensor, logits: Tensor, draw: Draw) -> Any:
    """The attack's first state.

    Raises:
        AdvdpnpError: its code fails, or the state is no dataclass of rows.
    """
    with _blaming(attack, "start"):
        state = attack.start(x, y, logits, draw)
    if not isinstance(state, Rows) or len(state) != len(x):
        raise AdvdpnpError(
            f"the attack '{attack.name}' returns {_kind(state)} from start; return a subclass of State "
            "with one row per image"
        )
    _check_fields(attack, state, len(x), "start")
    return state


def ask(attack: Attack, state: Any, x: Tensor) -> tuple[Tensor, Loss | None]:
    """The attack's queries, (n, c, h, w), and its loss.

    Args:
        x: the clean images, (n, c, h, w).

    Raises:
        AdvdpnpError: its code fails, or the queries are no images of the shape of the clean ones.
    """
    with _blaming(attack, "ask"):
        asked = attack.ask(state)
    if not isinstance(asked, tuple) or len(asked) != 2 or not (asked[1] is None or callable(asked[1])):
        what = ", ".join(map(_kind, asked)) if isinstance(asked, tuple) else _kind(asked)
        raise AdvdpnpError(
            f"the attack '{attack.name}' returns {what} from ask; return two things: the images, and the loss to "
            "differentiate (a function of the logits) or None"
        )
    queries, loss = asked
    if not isinstance(queries, Tensor) or queries.shape != x.shape or not queries.is_floating_point():
        raise AdvdpnpError(
            f"the attack '{attack.name}' returns {_kind(queries)} from ask; return float images of shape "
            f"{tuple(x.shape)}"
        )
    return queries.detach().to(x.dtype), None if loss is None else partial(_loss, attack, loss)


def _loss(attack: Attack, loss: Loss, logits: Tensor) -> Tensor:
    with _blaming(attack, "its loss"):
        values = loss(logits)
    if not isinstance(values, Tensor):
        raise AdvdpnpError(
            f"the loss of the attack '{attack.name}' returns {_kind(values)}; return a tensor with one value per image"
        )
    return values


def tell(attack: Attack, state: Any, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> Any:
    """The attack's next state.

    Raises:
        AdvdpnpError: its code fails, or it returns another kind of state.
    """
    with _blaming(attack, "tell"):
        following = attack.tell(state, logits, gradient, misclassified)
    if type(following) is not type(state):
        raise AdvdpnpError(
            f"the attack '{attack.name}' returns {_kind(following)} from tell; return the next {type(state).__name__}"
        )
    _check_fields(attack, following, len(logits), "tell")
    return following


def prepare(attack: Attack, state: Any) -> Any:
    """The state, prepared for the next iterations if the attack does that.

    Raises:
        AdvdpnpError: its code fails, or it returns another kind of state.
    """
    with _blaming(attack, "prepare"):
        ready = prepared(attack, state)
    if type(ready) is not type(state):
        raise AdvdpnpError(
            f"the attack '{attack.name}' returns {_kind(ready)} from prepare; return a {type(state).__name__}"
        )
    _check_fields(attack, ready, len(state), "prepare")
    return ready


def check_unchanged(attack: Attack, state: Any, x: Tensor, y: Tensor) -> None:
    """Check that the attack left the images and the goals in its state as it got them. It makes the host wait.

    Raises:
        AdvdpnpError: it changed them.
    """
    for name, own, kept in (("x", state.x, x), ("y", state.y, y)):
        if not (isinstance(own, Tensor) and torch.equal(own.to(kept), kept)):
            what = "the clean images" if name == "x" else "the labels (or targets)"
            raise AdvdpnpError(
                f"the attack '{attack.name}' changes '{name}' of its state, which holds {what}; give its State a field "
                "of its own for what it changes"
            )


def _check_fields(attack: Attack, state: Any, rows: int, method: str) -> None:
    for name in state._names():
        value = getattr(state, name)
        listed = isinstance(value, Draw | Rows) or (isinstance(value, Tensor) and value.dim() > 0)
        if not listed or len(value.key if isinstance(value, Draw) else value) != rows:
            raise AdvdpnpError(
                f"the attack '{attack.name}' returns a state from {method} whose '{name}' is {_kind(value)}; make it a "
                f"tensor with one row for each of its {rows} rows"
            )
    if state.done.dtype != torch.bool:
        raise AdvdpnpError(
            f"the attack '{attack.name}' returns a state from {method} whose 'done' is {_kind(state.done)}; "
            "make it bool"
        )


def check_queries(attack: Attack, queries: Tensor) -> None:
    """Check that queries are finite; else it is the attack's mistake, and not the model's, that there is no answer.

    Raises:
        AdvdpnpError: they are not.
    """
    if not bool(torch.isfinite(queries).all()):
        raise queries_not_finite(attack)


def queries_not_finite(attack: Attack) -> AdvdpnpError:
    """The error about an attack that queries images with NaN or infinite values."""
    return AdvdpnpError(f"the attack '{attack.name}' queries images that contain NaN or infinite values; fix its code")


@contextmanager
def _blaming(attack: Attack, method: str) -> Iterator[None]:
    try:
        yield
    except (*OUT_OF_MEMORY, AdvdpnpError):
        raise
    except (Exception, SystemExit) as error:
        raise AdvdpnpError(
            f"the attack '{attack.name}' fails in {method}: {type(error).__name__}: {first_line(error)}; fix its code"
        ) from error


def _kind(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
