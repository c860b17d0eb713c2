"""Recipes of the training methods and budgets of the data sets, as YAML files.

Only data lives here; the code that reads and merges recipes is in ``advdpnp.training.recipe``.
"""
