"""A process that uses an embedded server as it is told, line by line: so that tests can kill it.

``python -m tests.support.embedded_user URL`` prints the server's process id when it has it. Each line on its
standard input is the name of a counter; the answer is its new value. At the end of the input it leaves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import redis

from streamflow.transports.redis_streams.embedded.server import EmbeddedServer


def main(arguments: Sequence[str]) -> None:
    server = EmbeddedServer.of_url(arguments[0])
    server.acquire()
    try:
        client = redis.Redis(unix_socket_path=str(server.socket))
        print(client.info("server")["process_id"], flush=True)
        for line in sys.stdin:
            print(client.incr(line.strip()), flush=True)
        client.close()
    finally:
        server.release()


if __name__ == "__main__":
    main(sys.argv[1:])
