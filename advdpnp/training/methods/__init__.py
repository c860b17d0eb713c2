"""Training methods, one module each: a loss over clean and adversarial images, registered in ``METHODS``.

Code here must not deal with devices, precision, schedules, data sets or files.
"""

from advdpnp.training.methods import ce, center, fgsm_rs, mart, pgd_at, trades
from advdpnp.training.methods.base import METHODS, Method, Terms
from advdpnp.training.methods.prototypes import adv_dpnp, dpnp, dpp, ed_wta

__all__ = ["METHODS", "Method", "Terms"]

_registering = (
    adv_dpnp,
    ce,
    center,
    dpnp,
    dpp,
    ed_wta,
    fgsm_rs,
    mart,
    pgd_at,
    trades,
)  # importing a module registers its method
