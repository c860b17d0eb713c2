"""Ways to make a results folder say something else, and what notices each: ``leaderboard``, ``verify`` or a replay.

Every forger here knows the format: checksums, hashes, counts and images fit what was changed, and no honest table lies
beside. ``python -m benchmarks.tampering`` runs all of them.
"""
