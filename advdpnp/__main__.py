"""``python -m advdpnp``."""

from advdpnp.cli import main

main()
