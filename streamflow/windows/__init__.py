"""Timestamp -> windows. Pure: windows know no clock and hold no state.

All times are integer milliseconds since the epoch, negative before 1970. A window is ``[start, end)``.
It closes when the watermark reaches ``end + grace``, and it expires, and is forgotten, when the
watermark reaches ``end + grace + retain``. An event for closed windows only is late.
"""

from streamflow.windows.base import Window, duration_ms
from streamflow.windows.hopping import HoppingWindow
from streamflow.windows.session import SessionWindow
from streamflow.windows.sliding import SlidingWindow
from streamflow.windows.tumbling import TumblingWindow

__all__ = ["HoppingWindow", "SessionWindow", "SlidingWindow", "TumblingWindow", "Window", "duration_ms"]
