"""Studies as YAML files: which values of a recipe they vary, and how they compare the models.

Only data lives here; the code that reads a study is in ``advdpnp.training.study``.
"""
