"""A faster copy of a model for attacks to ask: what is found is verified by the model itself.

Only ways to make, prove and drop such copies; no attack and no loop.
"""
