"""An evaluation on a large cluster, simulated.

Pieces, workers and the driver in virtual time; nothing is attacked, and Ray is not used.
"""
