"""The ``streamflow`` command: one file for each subcommand."""

from __future__ import annotations

import click

from streamflow.cli.demo import demo
from streamflow.cli.worker import worker


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamflow")
def main() -> None:
    """Stream processing on Kafka: run workers, see a live demo."""


main.add_command(demo)
main.add_command(worker)
