"""The corruption functions, one module per group; each declares itself in ``CORRUPTIONS``.

Only what a corruption does to images. Files, tables and severities of whole benchmarks are in ``advdpnp.corruption``.
"""
