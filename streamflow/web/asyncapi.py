"""The AsyncAPI 3.0 document of the WebSocket, made from the message types and from `told`."""

from __future__ import annotations

import json
from inspect import cleandoc
from typing import Any, Final, get_args

import msgspec

from streamflow.web.messages import SUBPROTOCOL, ClientMessage
from streamflow.web.told import CLOSES, TOLD

CHANNEL: Final = "live"
_MESSAGES: Final = "#/components/messages/"


def document(version: str) -> dict[str, Any]:
    """The whole description of ``/v1/ws``; `openapi.document` is that of HTTP."""
    said, schemas = client_messages()
    told = {message.name: message.text for message in TOLD}
    texts = {**{name: schemas[name].get("description", "") for name in said}, **told}
    schemas |= {message.name: dict(message.schema()) for message in TOLD}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "streamflow live",
            "version": version,
            "description": f"Tables of a stream-processing app as they change. Subprotocol `{SUBPROTOCOL}`. "
            "The snapshot of a subscription, folded with the changes behind it, equals the table at its "
            "`position`. Close codes: " + " ".join(f"{code}: {text}" for code, text in CLOSES.items()),
        },
        "defaultContentType": "application/json",
        "channels": {
            CHANNEL: {
                "address": "/v1/ws",
                "messages": {name: {"$ref": f"{_MESSAGES}{name}"} for name in texts},
            }
        },
        "operations": {
            "say": _operation("receive", "What a client may say.", said),
            "tell": _operation("send", "What a worker says.", list(told)),
        },
        "components": {
            "messages": {
                name: {
                    "name": name,
                    "summary": text,
                    "payload": {"$ref": f"#/components/schemas/{name}"},
                }
                for name, text in texts.items()
            },
            "schemas": schemas,
        },
    }


def client_messages() -> tuple[list[str], dict[str, Any]]:
    """The names of what clients may say, and a JSON Schema of each by its name."""
    types = get_args(ClientMessage)
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    names = {struct.__name__: str(struct.__struct_config__.tag) for struct in types}
    # The schemas go by the messages' names, and so do references to them.
    text = json.dumps(components)
    for struct, name in names.items():
        text = text.replace(f'"#/components/schemas/{struct}"', f'"#/components/schemas/{name}"')
    schemas = {names.get(struct, struct): schema for struct, schema in json.loads(text).items()}
    for schema in schemas.values():
        schema["description"] = cleandoc(schema.get("description", "")).replace("``", "`")
    schemas["subscribe"]["oneOf"] = [{"required": ["table"]}, {"required": ["topic"]}]
    return list(names.values()), schemas


def _operation(action: str, summary: str, names: list[str]) -> dict[str, Any]:
    channel = f"#/channels/{CHANNEL}"
    return {
        "action": action,
        "summary": summary,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in names],
    }
