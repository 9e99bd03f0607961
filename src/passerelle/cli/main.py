"""The command line: ``passerelle``."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from passerelle.cli.support import LazyGroup, use_colour
from passerelle.system import startup

# In the order of the help text. Each command is in the module of its name, under its name.
COMMANDS = (
    "up",
    "gateway",
    "proxy",
    "status",
    "events",
    "diagnose",
    "top",
    "reload",
    "scale",
    "restart",
    "instances",
    "maintenance",
    "cache",
    "certs",
    "init",
    "check",
    "fmt",
    "routes",
    "explain",
    "migrate",
    "shadow",
    "split",
    "rollout",
    "capacity",
    "keys",
    "htpasswd",
    "backup",
    "restore",
    "export",
    "import",
    "exec",
    "schema",
    "completion",
    "version",
)

# Errors of writing to stdout that are reported on one line.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@click.group(
    cls=LazyGroup,
    package="passerelle.cli",
    names=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="If CONFIG is left out, it is gateway.yaml (or passerelle.yaml) in the current folder.",
)
@click.version_option(package_name="passerelle", message="%(prog)s %(version)s")
@click.pass_context
def passerelle(ctx: click.Context) -> None:
    """API gateway, load balancer and runner for Python services.

    \b
    Examples:
      passerelle up                           run the services and the gateway of gateway.yaml
      passerelle proxy http://localhost:5000  put a gateway in front of one address, without a file
      passerelle check                        report all errors in gateway.yaml
      passerelle explain GET /user/42         show which route a request matches, and why the others do not
    """
    ctx.color = use_colour()


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process: 0 done, 1 the answer is no, 2 wrong usage (said on one line)."""
    startup.open_standard_descriptors()
    try:
        code = passerelle.main(args, prog_name="passerelle", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = context.command_path if context is not None else "passerelle"
        message = " ".join(error.format_message().split()).rstrip(".")
        see = f" (see {command} --help)" if isinstance(error, click.UsageError) else ""
        click.echo(f"{command}: {message[:1].lower()}{message[1:]}{see}", err=True)
        sys.exit(error.exit_code if isinstance(error, click.UsageError) else 1)
    except click.Abort:
        sys.exit(130)
    except OSError as error:
        if error.errno not in _NO_ROOM or error.filename is not None:
            raise
        # Otherwise flushing stdout would fail again at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        click.echo(f"passerelle: cannot write the output: {(error.strerror or '').lower()}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
