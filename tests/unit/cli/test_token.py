"""The command that makes a token."""

from __future__ import annotations

import json

from click.testing import CliRunner

from streamflow.cli.token import command
from streamflow.errors import ConfigurationError
from streamflow.web.tokens import HashedToken


def test_a_token_and_its_hash_are_made() -> None:
    said = json.loads(CliRunner().invoke(command, ["--name", "shop", "--json"]).stdout)
    assert HashedToken.of(said["entry"]).is_of(said["token"])
    assert HashedToken.of(said["entry"]).name == "shop"
    text = CliRunner().invoke(command, ["--name", "shop"]).stdout
    assert "sf_" in text
    assert "scrypt:" in text
    assert "web_rights" in text


def test_a_token_that_there_is_already_is_hashed_and_not_said() -> None:
    done = CliRunner().invoke(command, ["--existing", "--json"], input="from before\n")
    said = json.loads(done.stdout)
    assert HashedToken.of(said["entry"]).is_of("from before")
    assert "from before" not in done.output
    assert "token" not in said


def test_a_name_that_can_be_none_is_told() -> None:
    done = CliRunner().invoke(command, ["--name", "a b"])
    assert isinstance(done.exception, ConfigurationError)
    assert "name of a token" in str(done.exception)
