"""What a route of the HTTP API is declared by: its path, parameters, schemas and what can go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    text: str
    schema: Schema
    where: str = "query"


@dataclass(frozen=True, slots=True)
class Route:
    """``name`` is that of the handler in `Api`; ``answer`` names a schema, or is a media type.

    ``problems`` are the statuses of problem+json besides 401, 403, 429 and 500, which every route can answer.
    """

    name: str
    path: str
    summary: str
    answer: str
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[int, ...] = ()
    is_open: bool = False  # without a token
    method: str = "get"
    takes: str = ""  # the schema of its body
    is_deprecated: bool = False
    group: str = "api"  # whose handler it is: see `server.create_web_app`

    @property
    def pattern(self) -> str:
        """The path as aiohttp matches it: a key may be empty, and hold anything but a bare slash."""
        return self.path.replace("{key}", "{key:[^/]*}")


TEXT: Final[Schema] = {"type": "string"}
TIME: Final[Schema] = {"type": "string", "description": "RFC 3339 with a zone, or epoch milliseconds"}


def object_schema(properties: Mapping[str, Schema], *, required: tuple[str, ...] | None = None) -> Schema:
    """``required``: by default all of them."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
    }


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}
