"""``passerelle schema``: print the JSON Schema of the configuration."""

from __future__ import annotations

import click

from passerelle.cli.support import print_json


@click.command(short_help="Print the JSON Schema of the configuration.")
def schema() -> None:
    """Print the JSON Schema of the configuration file.

    Editors use it to complete and validate the file: save it, and put the comment below on the first line of
    gateway.yaml.

    \b
    Examples:
      passerelle schema > passerelle.schema.json
      # yaml-language-server: $schema=passerelle.schema.json
    """
    from passerelle.config.schema import json_schema

    print_json(json_schema())
