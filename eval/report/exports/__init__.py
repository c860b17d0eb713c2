"""What one takes away from stored results: LaTeX tables, BibTeX, a model card, a record for RobustBench, images.

Each module makes one of them from rows or a leaderboard; ``advdpnp export`` prints or writes it. Nothing is attacked
or measured here.
"""
