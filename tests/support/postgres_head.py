"""A Postgres server: `postgres_head.py FOLDER PASSWORD` prints its URL, and ends with its standard input."""

import sys
from pathlib import Path

from quell_tuning.storage.postgres_server import PostgresServer

server = PostgresServer(Path(sys.argv[1]), sys.argv[2], port=5432)
server.init()
server.start()
print(server.url, flush=True)
sys.stdin.read()
server.stop()
