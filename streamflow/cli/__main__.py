"""``python -m streamflow.cli``: as the command `streamflow`."""

from streamflow.cli import main

main()
