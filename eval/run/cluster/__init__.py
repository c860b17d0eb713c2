"""An evaluation on the machines of a Ray cluster; the only package that imports ray, and only when it is asked for.

``driver`` cuts the work into ``pieces`` and writes what ``worker`` finds; it alone touches the store. ``connection``
starts Ray on this machine or joins a cluster. Nothing here decides a verdict: a piece is judged as one process does.
"""
