"""Everything a person reads: the leaderboard as CSV, Markdown, LaTeX, JSON and HTML, and the figures.

Draws and formats numbers that ``analysis`` and ``diagnostics`` have computed. No model runs here.
"""
