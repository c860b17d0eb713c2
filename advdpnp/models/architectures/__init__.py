"""Network bodies by name, one module per family; each registers itself in ``MODELS``.

No heads, no weights and no loading: those are in ``advdpnp.models``.
"""
