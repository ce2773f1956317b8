"""The description of the WebSocket: a valid one, of what is really said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import aiohttp
import jsonschema
import pytest

from streamflow.web import asyncapi
from streamflow.web.messages import ClientMessage, Close, read
from streamflow.web.told import CLOSES, TOLD
from tests.support.told import as_declared
from tests.support.web_fakes import Cluster

SCHEMA = Path(__file__).parents[2] / "support" / "asyncapi-3.0.0.json"


async def test_the_document_is_served_and_asyncapi_3() -> None:
    async with (
        Cluster().run() as (served,),
        aiohttp.ClientSession() as session,
        session.get(served.url + "/v1/asyncapi.json") as response,
    ):
        assert response.status == 200
        document = await response.json()
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(document)
    # The schema lets any reference pass.
    text = json.dumps(document)
    for reference in set(json.loads(f"[{','.join(_references(text))}]")):
        at = document
        for name in reference.removeprefix("#/").split("/"):
            at = at[name]


def _references(text: str) -> list[str]:
    return [f'"{part.partition(chr(34))[0]}"' for part in text.split('"$ref": "')[1:]]


def test_every_message_of_a_client_is_described_as_it_is_read() -> None:
    names, schemas = asyncapi.client_messages()
    assert len(names) == len(get_args(ClientMessage))
    for name in names:
        schema = schemas[name]
        least = {"t": name, "id": "a", "table": "b", "topic": "c", "value": 1}
        said = {member: least[member] for member in schema["required"]}
        for one in schema.get("oneOf", [{"required": []}]):
            said |= {member: least[member] for member in one["required"]}
            read(json.dumps(said))
            jsonschema.validate(said, schema)
            for member in one["required"]:
                del said[member]
                with pytest.raises(ValueError, match="table or a topic"):
                    read(json.dumps(said))
        with pytest.raises(ValueError, match="nonsense"):
            read(json.dumps({**said, "t": "nonsense"}))
        assert schema["description"], name


def test_every_close_code_is_told_of() -> None:
    assert set(Close) <= set(CLOSES)
    assert len({message.name for message in TOLD}) == len(TOLD)


def test_what_is_not_declared_is_noticed() -> None:
    as_declared({"t": "pong"})
    for wrong in ({"t": "pong", "more": 1}, {"t": "draining"}):
        with pytest.raises(jsonschema.ValidationError):
            as_declared(wrong)
