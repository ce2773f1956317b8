"""Tables over HTTP and WebSocket, and the dashboard."""

from streamflow.web.server import WebServer, create_web_app
from streamflow.web.settings import WebSettings

__all__ = ["WebServer", "WebSettings", "create_web_app"]
