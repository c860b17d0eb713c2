"""What the abstracts of the three papers claim, beside what was measured here: writes ``results/claims.md``.

``list`` names the claims, ``measures`` judges one from stored results, ``__main__`` writes the page. Nothing here is
trained or attacked; every number is read, or follows from checkpoints in seconds.
"""
