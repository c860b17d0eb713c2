"""The leaderboard as one self-contained HTML page: tables, charts and examples that need no network and no server.

A part of the page is a ``Section``: a function that gathers what it shows, and a template of the same name. To add one,
write both and name it in ``eval/report/html/sections/__init__.py``.
"""

from advdpnp.eval.report.html.page import to_html

__all__ = ["to_html"]
