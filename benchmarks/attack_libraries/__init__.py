"""All attacks of all libraries on one public net: what each finds, what of it holds, and what it costs.

``python -m benchmarks.attack_libraries`` runs them, one after the other, and writes a table and a figure. A run that
was stopped goes on where it was. ``quick_call`` times one small call against torchattacks,
``far_pixels`` compares C&W with the textbook's. No numbers belong here:
they are in ``results``.
"""
