"""``passerelle completion``: print what makes a shell complete commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
_VARIABLE = "_PASSERELLE_COMPLETE"


@click.command(short_help="Print the completion of a shell.")
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options, files, and the services and routes of gateway.yaml.

    \b
    Examples:
      eval "$(passerelle completion bash)"            in ~/.bashrc
      eval "$(passerelle completion zsh)"             in ~/.zshrc
      passerelle completion fish | source             in ~/.config/fish/config.fish
    """
    from passerelle.cli.main import passerelle

    kind = _SHELLS[shell](passerelle, {}, "passerelle", _VARIABLE)
    # Without the check of source(), which runs bash to learn its version: the shell that reads this may be on another
    # machine, and completion needs bash 4.4 in any case.
    click.echo(kind.source_template % kind.source_vars())
