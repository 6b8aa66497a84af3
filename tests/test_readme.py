"""The README is true: what it names exists, what it tells to type is a command."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = TEXT[TEXT.index("## The tree") : TEXT.index("Imports go one way")]


@pytest.mark.parametrize("path", re.findall(r"^  (\S+)", TREE, flags=re.M))
def test_every_path_of_the_tree_exists(path):
    assert (ROOT / "xmtl_ray" / path).exists()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(\w+/[\w/]+\.py)`", TEXT)) | {"../docs/report.png"}))
def test_every_file_it_names_exists(path):
    assert (ROOT / "xmtl_ray" / path).exists()


DOCS = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("line", re.findall(r"^(?:\$ )?(xmtl [^#\n]*)", TEXT + DOCS, flags=re.M))
def test_every_command_parses(line):
    """Options exist and recipes with their settings make a config."""
    import typer

    from xmtl_ray.cli.main import app
    from xmtl_ray.config.load import load_any

    verb, *arguments = shlex.split(line)[1:]
    if verb in {"train", "run", "finetune"}:
        load_any(arguments[0], [argument for argument in arguments[1:] if argument != "--dry-run"])
        return
    context = typer.main.get_command(app)
    command = context.commands[verb]
    if verb in {"data", "evaluate"}:
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context(verb, arguments)


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", TEXT, flags=re.M))
def test_every_make_target_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M)
