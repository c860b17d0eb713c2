"""Leaderboards of hundreds of models: time, memory, and the size of the page.

No net runs: the models are copies of stored results under other names, so reading, tables and the page are measured.
"""
