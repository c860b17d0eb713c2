"""Methods whose classes have prototypes, and the terms of their losses: DPP, DPNP, Adv-DPNP and +-ED-WTA.

Code here must not deal with devices, precision, schedules, data sets or files.
"""
