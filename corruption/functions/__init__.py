"""The corruption functions, one module per group; each registers its functions in ``CORRUPTIONS``.

Only what a corruption does to images belongs here; files and sources of images are in ``advdpnp.corruption``.
"""
