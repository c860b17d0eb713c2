"""Image operations that corruption functions use: filters, edges, colours, noise layers, textures.

Code here must not define corruptions or severities, and takes all random numbers from its ``draw`` argument.
"""
