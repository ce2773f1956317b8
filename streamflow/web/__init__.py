"""Tables over HTTP and WebSocket, and the console."""

from streamflow.web.rights import Caller, caller_of
from streamflow.web.server import WebServer, create_web_app
from streamflow.web.settings import WebSettings

__all__ = ["Caller", "WebServer", "WebSettings", "caller_of", "create_web_app"]
