"""``python -m passerelle``, the same as ``passerelle``."""

from passerelle.cli import main

main()
