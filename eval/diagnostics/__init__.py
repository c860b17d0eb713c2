"""Automatic checks: measurements of every model besides the verdicts, and the flags that follow from its numbers.

``measure_outputs`` needs no threat model, ``measure_gradients`` one; both give plain numbers, which are stored with the
verdicts; ``measure`` makes one of them. What they mean is said in ``advdpnp.eval.diagnostics.flags``.
"""

from advdpnp.eval.diagnostics.gradients import measure_gradients
from advdpnp.eval.diagnostics.measure import measure
from advdpnp.eval.diagnostics.outputs import measure_outputs, training_modules
from advdpnp.eval.diagnostics.probe import ModelProbe
from advdpnp.eval.store.diagnostics_record import SANITY_SAMPLES, DiagnosticRecord, diagnostics_of
from advdpnp.eval.store.index import write_diagnostics
from advdpnp.eval.store.reader import has_diagnostics

__all__ = [
    "SANITY_SAMPLES",
    "DiagnosticRecord",
    "ModelProbe",
    "diagnostics_of",
    "has_diagnostics",
    "measure",
    "measure_gradients",
    "measure_outputs",
    "training_modules",
    "write_diagnostics",
]
