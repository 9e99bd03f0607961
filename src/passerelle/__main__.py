"""``python -m passerelle``, the same as ``passerelle``."""

from passerelle.cli.main import main

main()
