"""The commands of ``passerelle``."""
