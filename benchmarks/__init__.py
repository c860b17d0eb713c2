"""Measurements on real input, against other packages and nets."""
