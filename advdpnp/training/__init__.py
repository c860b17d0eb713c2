"""Training: recipes, methods, the loop and what it needs, studies.

May use attacks (for the inner maximisation), models and data sets. Nothing here evaluates or draws.
"""
