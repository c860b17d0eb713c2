"""Attacks on margins at a fraction of AutoAttack's price: MM, MALT's order of targets, PMA, and ensembles of them.

They use the Auto-PGD of the folder above. What is not about the choice of losses and targets does not belong here.
"""
