"""``passerelle htpasswd``: make a line for a file of users and passwords."""

from __future__ import annotations

import sys

import click


@click.command(short_help="Make a line for a file of users and passwords.")
@click.argument("name", metavar="NAME")
@click.option("--bcrypt", "with_bcrypt", is_flag=True, help="Use bcrypt instead of argon2id, for other programs.")
def htpasswd(name: str, with_bcrypt: bool) -> None:
    """Print a line for the file of `basic` (`auth: [basic]`): the user NAME and the hash of a password.

    The password is asked for twice, or is the first line of standard input.

    \b
    Examples:
      passerelle htpasswd ada >> users.htpasswd
    """
    from passerelle.http.htpasswd import BCRYPT_LONGEST, LONGEST, make_hash, name_objection, normalized

    name = normalized(name)
    if objection := name_objection(name):
        raise click.UsageError(objection)
    password = normalized(_password()).encode()
    if not password or len(password) > LONGEST or b"\0" in password:
        raise click.UsageError(f"a password has 1 to {LONGEST} octets, without NUL")
    if with_bcrypt and len(password) > BCRYPT_LONGEST:
        raise click.UsageError(f"bcrypt ignores all but the first {BCRYPT_LONGEST} octets; use a shorter password")
    try:
        click.echo(f"{name}:{make_hash(password, with_bcrypt=with_bcrypt)}")
    except ImportError as error:
        package = "argon2-cffi" if error.name == "argon2" else error.name
        raise click.ClickException(f"it needs {package}: pip install 'passerelle[passwords]'") from None


def _password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return password
    try:
        return sys.stdin.buffer.readline(16_384).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise click.UsageError("the password is not UTF-8") from None
