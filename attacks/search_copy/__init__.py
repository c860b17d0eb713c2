"""A faster copy of a model for attacks to query; successes are verified by the model itself.

Makes, proves and drops such copies. No attack and no loop belongs here.
"""
