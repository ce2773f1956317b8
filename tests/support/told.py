"""Holds what workers say to what they are declared to say."""

from __future__ import annotations

from typing import Any

import jsonschema

from streamflow.web.told import TOLD

_VALIDATORS = {
    message.name: jsonschema.Draft202012Validator({**message.schema(), "additionalProperties": False})
    for message in TOLD
}


def as_declared(said: dict[str, Any]) -> dict[str, Any]:
    """``said``; fails where it is no message of `told`, or has other members."""
    _VALIDATORS[said["t"]].validate(said)
    return said
