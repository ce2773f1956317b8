"""Faust's LiveCheck on our engine."""

from __future__ import annotations

from faust.livecheck import LiveCheck as FaustLiveCheck

from streamflow.app.app import App


class LiveCheck(FaustLiveCheck, App):
    """An app that tests another one while it runs; Faust's LiveCheck says how."""
