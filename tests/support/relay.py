"""A relay of TCP connections to a port of this machine, which can lose the answer to one request."""

import socket
import threading
from contextlib import suppress
from typing import Self


class Relay:
    """Hands on what clients and server say.

    Attributes:
        port: to connect to, on 127.0.0.1.
        lose: the next request that contains it reaches the server, but its connection ends before the answer comes.
        lost: how many answers were.
    """

    def __init__(self, server: int) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.port = int(self._listener.getsockname()[1])
        self.lose: bytes | None = None
        self.lost = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                self._sockets += [client, server]
                threading.Thread(target=self._requests, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        answers = threading.Thread(target=self._answers, args=(client, server), daemon=True)
        answers.start()
        with suppress(OSError):
            while said := client.recv(65536):
                if self.lose is not None and self.lose in said:
                    self.lose = None
                    self.lost += 1
                    client.shutdown(socket.SHUT_WR)  # the driver sees the end of the connection, the server does not
                server.sendall(said)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while said := server.recv(65536):
                client.sendall(said)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
