"""Training: recipes, methods, the training loop, and studies.

Code here may import attacks (for the inner maximisation), models and data sets, but never evaluation or commands.
"""
