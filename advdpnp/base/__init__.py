"""What every other package may use: errors, files, randomness, registries, statistics.

Nothing here knows of models, attacks, training or evaluation, and nothing here imports them.
"""
