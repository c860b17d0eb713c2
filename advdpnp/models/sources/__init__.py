"""Where models come from: one module per kind of name that ``load_model`` takes.

Each has a function that says whether a spec is of its kind, and one that loads it. Nothing here decides how a model is
evaluated.
"""
