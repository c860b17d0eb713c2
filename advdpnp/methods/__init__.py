"""Training methods, one file each."""

from advdpnp.methods import adv_dpnp, ce, dpnp, pgd_at  # noqa: F401  (importing them registers them)
from advdpnp.methods.base import METHODS, Method, Terms

__all__ = ["METHODS", "Method", "Terms"]
