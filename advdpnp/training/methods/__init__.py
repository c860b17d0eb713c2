"""Training methods, one module each: a loss over clean and adversarial images, registered in ``METHODS``.

Code here must not deal with devices, precision, schedules, data sets or files.
"""

from advdpnp.training.methods import adv_dpnp, ce, center, dpnp, dpp, fgsm_rs, mart, pgd_at, trades
from advdpnp.training.methods.base import METHODS, Method, Terms

__all__ = ["METHODS", "Method", "Terms"]

_registering = (
    adv_dpnp,
    ce,
    center,
    dpnp,
    dpp,
    fgsm_rs,
    mart,
    pgd_at,
    trades,
)  # importing a module registers its method
