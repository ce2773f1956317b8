"""The clients against workers that are killed: in Node, in a browser and in Python."""

from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
STATIC: Final = HERE.parents[1] / "streamflow" / "web" / "static"
DOCS: Final = HERE.parents[1] / "docs"
MODULE: Final = STATIC / "streamflow-client.js"
