"""What attacks cost and what they miss: robust accuracy less AutoAttack's, against forwards and backwards.

``python -m benchmarks.price.search`` makes the verdicts that no evaluation has stored yet, and
``python -m benchmarks.price`` the table and the figure from verdicts alone. Attacks themselves do not belong here.
"""
