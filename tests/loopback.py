"""A web server on this machine that behaves, and misbehaves, as servers do: for tests of downloads."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Serves `files` (name to content); `behaviour` (name to word) says what goes wrong.

    truncate     announces all and ends in the middle, whatever is asked for
    cut          the same, but the first time only
    corrupt      one byte is another
    stall        sends half and then nothing
    silent       takes the call and says nothing
    no range     sends all, whatever part is asked for
    no length    does not say how much comes, and ends in the middle
    encoded      calls the file packed for the transfer (Content-Encoding: gzip)
    404, 500     that status
    http...      leads there
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.behaviour: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Name and headers of every request."""
        self.closing = threading.Event()
        self.scheme = "http"

    @property
    def url(self) -> str:
        """Address of the folder with all files."""
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/"

    def asked(self, name: str) -> int:
        """How often a file was asked for."""
        return sum(asked == name for asked, _ in self.requests)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is what the tests are about: not a word on stderr."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.requests.append((name, dict(self.headers.items())))
        word = self.server.behaviour.get(name, "")
        if word == "cut":
            self.server.behaviour[name] = ""
        if word == "silent":
            self.server.closing.wait()
        elif word.startswith("http"):
            self.send_response(302)
            self.send_header("Location", word)
            self.end_headers()
        elif word.isdigit() or name not in self.server.files:
            self.send_error(int(word or 404))
        else:
            self._send(self.server.files[name], word)

    def _send(self, content: bytes, word: str) -> None:
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if self.headers.get("Range") and self.headers.get("If-Range") == tag and word != "no range":
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if word != "no length":
            self.send_header("Content-Length", str(len(content) - start))
        if word == "encoded":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if word == "corrupt":
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        whole = word not in ("truncate", "cut", "stall", "no length")
        end = len(content) if whole else start + (len(content) - start) // 2
        with suppress(ConnectionError):
            self.wfile.write(content[start:end])
            self.wfile.flush()
            if word == "stall":
                self.server.closing.wait()


@contextmanager
def serving(files: dict[str, bytes], certificate: Path | None = None) -> Iterator[Server]:
    """A running server; with a certificate (see `make_certificate`) it speaks https."""
    server = Server(files)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def make_certificate(path: Path) -> Path:
    """Write a certificate for 127.0.0.1, signed by itself, and its key into one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path
