"""Writes the reference of HTTP and WebSocket: ``python docs/reference/write_reference.py``.

``http.md`` is made from the routes, their schemas and the problems, and what stands between the two marks in
``websocket.md`` from the message types and from what workers are declared to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from streamflow.web.asyncapi import client_messages
from streamflow.web.http.openapi import EVERYWHERE, document
from streamflow.web.problems import TITLES
from streamflow.web.told import CLOSES, TOLD

HERE = Path(__file__).parent
BEGIN = "<!-- made by write_reference.py: from here -->"
END = "<!-- made by write_reference.py: to here -->"

HTTP_HEAD = """# HTTP

<!-- made by write_reference.py: change the routes in streamflow/web/http, not this page -->

Any worker answers for any key; what is shown is committed. Answers are JSON unless a route says otherwise,
errors `application/problem+json` with a `code`. Offsets and positions are decimal strings, times RFC 3339.
Tokens, where the app has any, come as `Authorization: Bearer <token>`. The same as OpenAPI 3.1:
`/v1/openapi.json`.
"""


def http_page() -> str:
    described = document("")
    parts = [HTTP_HEAD, "| method | path | what |\n| --- | --- | --- |"]
    for path, method, operation in _operations(described):
        parts.append(
            f"| {method.upper()} | [`{path}`](#{operation['operationId']}) | {_cell(operation['summary'])} |"
        )
    for path, method, operation in _operations(described):
        parts.append("\n" + "\n".join(_operation(path, method, operation)))
    parts.append("\n## Schemas")
    for name, schema in sorted(described["components"]["schemas"].items()):
        parts.append(f'\n### <a id="schema-{name}"></a>{name}\n\n' + "\n".join(_members(schema)))
    parts.append("\n## Problems\n\n| code | what |\n| --- | --- |")
    parts += [f"| `{code}` | {_cell(title)} |" for code, title in sorted(TITLES.items())]
    return "\n".join(parts) + "\n"


def _operations(described: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'## <a id="{operation["operationId"]}"></a>{method.upper()} `{path}`\n'
    yield operation["summary"] + ("" if operation.get("security") != [] else " Needs no token.")
    if operation.get("deprecated"):
        yield "\nDeprecated."
    if operation["parameters"]:
        yield "\n| parameter | in | type | what |\n| --- | --- | --- | --- |"
        for each in operation["parameters"]:
            kind = _type(each["schema"])
            default = each["schema"].get("default")
            tail = f" Default: `{default}`." if default is not None else ""
            yield f"| `{each['name']}` | {each['in']} | {kind} | {_cell(each['description'] + tail)} |"
    for content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"\nTakes `{content[0]}`: {_type(content[1].get('schema', {}))}."
    for media, content in operation["responses"]["200"]["content"].items():
        yield f"\nAnswers `{media}`" + (f": {_type(content['schema'])}." if "schema" in content else ".")
    problems = [
        status for status in operation["responses"] if status != "200" and int(status) not in EVERYWHERE
    ]
    if problems:
        yield f"\nProblems: {', '.join(problems)}."


def websocket_part() -> str:
    names, schemas = client_messages()
    parts = [BEGIN, "", "### From the client"]
    for name in names:
        parts.append(
            f"\n#### `{name}`\n\n{schemas[name]['description']}\n\n" + "\n".join(_members(schemas[name]))
        )
    parts.append("\n### From the worker")
    for message in TOLD:
        parts.append(f"\n#### `{message.name}`\n\n{message.text}\n\n" + "\n".join(_members(message.schema())))
    parts.append("\n### Close codes\n\n| code | why |\n| --- | --- |")
    parts += [f"| {int(code)} | {_cell(text)} |" for code, text in sorted(CLOSES.items())]
    return "\n".join([*parts, "", END])


def websocket_page(before: str) -> str:
    """``before`` with what stands between the marks made anew."""
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + websocket_part() + tail


def _members(schema: Mapping[str, Any]) -> Iterator[str]:
    members = {name: each for name, each in schema.get("properties", {}).items() if name != "t"}
    if not members:
        yield "No members." if schema.get("type") == "object" else f"{_type(schema)}."
        return
    yield "| member | type | what |\n| --- | --- | --- |"
    for name, each in members.items():
        notes = [each.get("description", "")]
        if name not in schema.get("required", ()):
            default = each.get("default")
            notes.append("Optional." if default is None else f"Default: `{str(default).lower()}`.")
        yield f"| `{name}` | {_type(each)} | {_cell(' '.join(filter(None, notes)))} |"


def _type(schema: Mapping[str, Any]) -> str:
    """In words, and with a link where it is a schema of the page."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#schema-{name})"
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(map(_type, schema[union]))
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kinds = schema.get("type", "any JSON")
    named = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    if named == "array":
        return f"array of {_type(schema['items'])}" if schema.get("items") else "array"
    if named == "object" and schema.get("properties"):
        return "{" + ", ".join(f"`{name}`" for name in schema["properties"]) + "}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{named} from {low:g} to {high:g}"
    return f"{named}, {low:g} or more" if low is not None else named


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    (HERE / "http.md").write_text(http_page(), encoding="utf-8")
    page = HERE / "websocket.md"
    page.write_text(websocket_page(page.read_text(encoding="utf-8")), encoding="utf-8")
