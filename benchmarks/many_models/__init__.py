"""Leaderboards of hundreds of models: time, memory, and the size of the page."""
