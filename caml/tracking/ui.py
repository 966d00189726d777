"""The MLflow pages of a tracking store, served on this machine."""

import os
import socket
import sys

from caml.config.errors import Failure, UserError
from caml.tracking.store import database_of, holds_runs, where

HOST = "127.0.0.1"


def serve(uri: str, port: int) -> None:
    """Become the server of the pages of the store at `uri`; of a store that is a server, print the address alone.

    Raises UserError for a port that is none, or not free.
    """
    if uri.startswith("http"):
        print(f"the tracking store is a server: open {where(uri)}")
        return
    _refuse_port(port)
    database = database_of(uri)
    if database and database.exists() and not holds_runs(database.absolute()):
        raise Failure(
            f"{database} is no tracking store: move it out of the way, and `caml sync` makes it anew"
        )
    print(f"http://{HOST}:{port} (Ctrl-C ends it)", flush=True)
    arguments = ["--backend-store-uri", uri, "--host", HOST, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *arguments])


def _refuse_port(port: int) -> None:
    if not 0 < port < 65536:
        raise UserError(f"--port {port}: ports are 1 to 65535; name another one")
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"--port {port}: {error.strerror}; name another one") from None
