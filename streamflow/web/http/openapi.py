"""The OpenAPI 3.1 document, made from `routes`."""

from __future__ import annotations

from typing import Any, Final

from streamflow.web.http.formats import ARROW, CSV, NDJSON
from streamflow.web.http.route import Parameter, Route
from streamflow.web.http.routes import ROUTES, SCHEMAS
from streamflow.web.problems import PROBLEM_TYPE

EVERYWHERE: Final = (401, 403, 429, 500)
REASONS: Final = {
    400: "A parameter is wrong.",
    401: "A valid token is needed.",
    403: "Not allowed.",
    404: "There is no such table, row, topic or dead letter.",
    406: "Arrow without pyarrow in the worker.",
    409: "It can't be done with this table, key or topic.",
    413: "The request is too large.",
    429: "Too many wrong tokens came from this address; `Retry-After` says when to try again.",
    500: "Something went wrong in this worker.",
    503: "Not now; `Retry-After` says when to try again.",
}


def document(version: str) -> dict[str, Any]:
    """The whole description of the HTTP API; the WebSocket at ``/v1/ws`` is none of OpenAPI's concepts."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "streamflow",
            "version": version,
            "description": "Tables of a stream-processing app. Any worker answers for any key. "
            "What is shown is checkpointed and never taken back.",
        },
        "paths": _paths(),
        "components": {
            "schemas": {**SCHEMAS},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # The empty alternative: a worker on loopback may run without tokens.
        "security": [{"token": []}, {}],
    }


def _paths() -> dict[str, dict[str, Any]]:
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = _operation(route)
    return paths


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [_parameter(parameter) for parameter in route.parameters],
        "responses": {"200": {"description": route.summary, "content": _content(route)}},
    }
    for status in sorted({*route.problems, *EVERYWHERE}):
        operation["responses"][str(status)] = {
            "description": REASONS[status],
            "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    if route.takes:
        schema = {"$ref": f"#/components/schemas/{route.takes}"}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
        if route.name == "publish":
            event = {"$ref": "#/components/schemas/Event"}
            operation["requestBody"]["content"][NDJSON] = {"schema": event}
    if route.is_deprecated:
        operation["deprecated"] = True
    if route.is_open:
        operation["security"] = []
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "description": parameter.text,
        "required": parameter.where == "path",
        "schema": parameter.schema,
    }


def _content(route: Route) -> dict[str, Any]:
    if "/" in route.answer:
        return {route.answer: {}}
    content: dict[str, Any] = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{route.answer}"}}
    }
    if route.answer == "Rows":
        content[NDJSON] = {"schema": {"$ref": "#/components/schemas/Row"}}
        content[CSV] = {"schema": {"type": "string"}}
        content[ARROW] = {}
    return content
