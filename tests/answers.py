"""An HTTP server that gives prepared answers, right or wrong, on a real port."""

import contextlib
import http.server
import threading
from typing import NamedTuple


class Asked(NamedTuple):
    """One request, as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answers:
    """Give each request the next answer, the last one for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def next(self):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextlib.contextmanager
def answering(*answers):
    """Serve `answers`, each a body, or a status and a body; give the address and what was asked."""
    prepared = Answers(*answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            prepared.asked.append(Asked(self.command, self.path, dict(self.headers), body))
            answer = prepared.next()
            status, content = answer if isinstance(answer, tuple) else (200, answer)
            if status is None:  # hang up
                return
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do_PUT = _answer  # noqa: N815 - the names http.server looks for

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", prepared
        finally:
            server.shutdown()
            thread.join()
