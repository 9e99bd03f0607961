"""The commands of ``passerelle``: one module for each, listed in :data:`passerelle.cli.main.COMMANDS`."""
