"""``xmtl data``: look at, check and convert what is trained on."""

from __future__ import annotations

import typer

app = typer.Typer(help="Read, check, convert and look at data.", no_args_is_help=True)
