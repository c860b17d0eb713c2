"""Suspicion made automatic: what is measured of every model beside the verdicts, and what its numbers give away.

``measure_answers`` needs no threat model, ``measure_search`` one; both give plain numbers, which are stored with the
verdicts. What they mean is said in ``advdpnp.eval.diagnostics.flags``.
"""

from advdpnp.eval.diagnostics.gradients import measure_search
from advdpnp.eval.diagnostics.outputs import measure_answers, training_modules
from advdpnp.eval.diagnostics.probe import Subject
from advdpnp.eval.store.diagnostics_record import (
    SANITY_SAMPLES,
    Measured,
    is_measured,
    measured_of,
    read_measured,
    write_measured,
)

__all__ = [
    "SANITY_SAMPLES",
    "Measured",
    "Subject",
    "is_measured",
    "measure_answers",
    "measure_search",
    "measured_of",
    "read_measured",
    "training_modules",
    "write_measured",
]
