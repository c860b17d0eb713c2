"""One measurement of a model: of its outputs, or of its gradients under a threat model."""

from typing import Any

from torch import Tensor, nn

from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import ModelError
from advdpnp.eval.diagnostics.gradients import measure_gradients
from advdpnp.eval.diagnostics.outputs import measure_outputs, training_modules
from advdpnp.eval.diagnostics.probe import ModelProbe


def measure(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    static_batch_size: int,
    seed: int,
    threat: ThreatModel | None,
) -> dict[str, Any]:
    """The numbers that flags rest on; ``{"failed": why}`` of a model that cannot be measured.

    Args:
        model: on the device of the images, in the mode in which its user left it.
        x: images in [0, 1], (n, c, h, w).
        y: labels, (n,).
        static_batch_size: rows of every model call.
        threat: whose gradients are measured; None measures the outputs.
    """
    modules = training_modules(model) if threat is None else []
    with evaluation_mode(model):
        probe = ModelProbe(model, x, y, static_batch_size, seed)
        try:
            if threat is not None:
                return measure_gradients(probe, threat)
            return {**measure_outputs(probe), "training_modules": modules}
        except ModelError as error:
            return {"failed": str(error)}
