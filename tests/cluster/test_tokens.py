"""Ray's token: the file of it is its owner's alone, and what it is taken from is Ray's own order."""

import os
import subprocess
import sys

import pytest

from xmtl_ray.cluster import tokens


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without a token, and no variable that names one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (tokens.TOKEN, tokens.TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_new_token_is_readable_by_its_owner_alone(home):
    """Mode 0600 in a folder of 0700, whatever the umask; made once, so that a second cluster has the same."""
    before = os.umask(0)
    try:
        tokens.make()
    finally:
        os.umask(before)
    file = home / ".ray" / "auth_token"
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    token = tokens.read()
    assert token is not None and len(token) == 64
    tokens.make()
    assert tokens.read() == token


def test_a_token_that_ray_made_for_everybody_to_read_is_closed(home):
    """Ray's own command leaves 0644 under the usual umask: the control. Afterwards it is 0600, and the same token."""
    made = subprocess.run(
        [sys.executable, "-c", "from ray._private.authentication.authentication_token_setup import "
         "generate_and_save_token as make; import os; os.umask(0o022); make()"],
        env=os.environ | {"HOME": str(home)}, check=True, capture_output=True,
    )  # fmt: skip
    assert made.returncode == 0
    file = home / ".ray" / "auth_token"
    before = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o644
    tokens.make()
    assert file.stat().st_mode & 0o777 == 0o600 and file.read_text() == before


def test_where_it_comes_from_is_told_without_it(home, monkeypatch):
    """The variable goes before the file that another names, and both before the home's."""
    assert tokens.source() is None and tokens.read() is None
    tokens.make()
    assert tokens.source() == str(home / ".ray" / "auth_token")
    other = home / "other"
    other.write_text("b" * 64 + "\n")
    monkeypatch.setenv(tokens.TOKEN_PATH, str(other))
    assert str(other) in str(tokens.source()) and tokens.read() == "b" * 64
    monkeypatch.setenv(tokens.TOKEN, "c" * 64)
    assert tokens.source() == tokens.TOKEN and tokens.read() == "c" * 64
