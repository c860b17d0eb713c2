"""Training methods, one file each."""

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
