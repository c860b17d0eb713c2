"""Shared foundations: errors, files, randomness, registries, statistics, plotting.

Code here must not import or refer to data sets, models, attacks, training or evaluation.
"""
