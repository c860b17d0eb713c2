"""Backbones, one module per family; each registers itself in ``MODELS``.

Heads, checkpoints and loading belong in ``advdpnp.models``.
"""
