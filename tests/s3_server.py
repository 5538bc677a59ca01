"""moto's S3 on loopback in a process of its own, which can be killed: `python s3_server.py PORT DIES_AT`.

One request for an object in a hundred fails: half of them with 500, half with a body that ends too early. At
request DIES_AT (0: never) the process kills itself. `GET /counts` says what was asked.
"""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


def main(port: int, dies_at: int) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = DomainDispatcherApplication(create_backend_app)
    counts = {"asked": 0, "failed": 0, "listed": 0}
    counting = threading.Lock()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/counts":
            start_response("200 OK", [])
            return [json.dumps(counts).encode()]
        if environ["REQUEST_METHOD"] != "GET" or "list-type" in environ.get("QUERY_STRING", ""):
            counts["listed"] += environ["REQUEST_METHOD"] == "GET"
            return store(environ, start_response)  # type: ignore[no-any-return]
        with counting:
            counts["asked"] += 1
            number = counts["asked"]
            counts["failed"] += number % 100 == 50
        if number == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if number % 100 != 50:
            return store(environ, start_response)  # type: ignore[no-any-return]
        if number % 200 == 50:
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        start_response("206 Partial Content", [("Content-Length", "5000")])
        return [b"half of it"]

    make_server("127.0.0.1", port, app, threaded=True).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
