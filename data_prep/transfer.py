"""One address to one file: https, in pieces where it is cut, and nothing that was not asked for.

`Transfer` is a downloader for pooch, which hands it a temporary file, checks the hash and moves the
file into place. The bytes go into `<name>.part` first. Where the connection is cut, or the command is
stopped, that file stays, with a note of the version it is a part of (`<name>.part.json`), and the next
attempt asks for the rest of that version only (RFC 9110, If-Range).
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from snnbench import __version__
from snnbench.errors import SnnbenchError

USER_AGENT = f"snnbench/{__version__}"
_BLOCK = 1 << 18
_ATTEMPTS = 5
_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError)
"""All that can happen on the way; urllib3's own ones come while the content is read."""


class Progress(NamedTuple):
    """Where a download stands. The first of a file comes before its first byte."""

    file: str
    url: str
    done_bytes: int
    total_bytes: int | None
    """None where the server does not say."""


class Refused(Exception):
    """Why an address gave no file that may be used; the next one is tried."""

    unreachable = False
    """Whether no other file of the same server is worth a try."""


class Timeouts(NamedTuple):
    """How long a server may take, s: to answer the call, and to say anything at all after that."""

    connect_s: float = 15.0
    stall_s: float = 60.0


class _Session(requests.Session):
    """A session that never goes from https to http."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = 5
        # the bytes as they are stored: a packed transfer would have another size and hash
        self.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})

    def get_redirect_target(self, resp: Any) -> str | None:
        target = super().get_redirect_target(resp)
        if target and _scheme(resp.url) == "https":
            where = urljoin(resp.url, target)
            if _scheme(where) != "https":
                raise Refused(f"leads from https to {where}, which is not encrypted")
        return target


class Transfer:
    """Downloads one address into the file that pooch names, by way of `part`.

    Parameters
    ----------
    part : partial file; its folder has to be there.
    size_bytes : size the file must have, where it is known.
    unpacked_ratio : so many times the file's size must be free beside what is still to come.
    timeouts : how long the server may take.
    progress : called before the first byte and after every block.
    """

    def __init__(
        self,
        part: Path,
        *,
        size_bytes: int | None = None,
        unpacked_ratio: float = 0.0,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (immutable)
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._part = part
        self._note = part.with_name(part.name + ".json")
        self._size_bytes = size_bytes
        self._unpacked_ratio = unpacked_ratio
        self._timeouts = timeouts
        self._progress = progress

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Download `url` to `output_file` (pooch's interface).

        Raises
        ------
        Refused
            Saying why there is no file.
        SnnbenchError
            There is no space for it.
        """
        with _Session() as session:
            for attempt in range(1, _ATTEMPTS + 1):
                before = self._have()
                try:
                    self._receive(session, url)
                    break
                except _ERRORS as error:
                    # a server that gives nothing more, or cuts again and again, is given up
                    if self._have() <= before or attempt == _ATTEMPTS:
                        raise _refused(error) from None
        os.replace(self._part, output_file)
        self._note.unlink(missing_ok=True)

    def _receive(self, session: requests.Session, url: str) -> None:
        with self._asked(session, url) as response:
            start = _start(response)
            if start and start != self._have():
                raise Refused(f"sent bytes from {start} instead of {self._have()}")
            total = _total(response)
            if self._size_bytes and total and total != self._size_bytes:
                raise Refused(f"is {total:,} bytes large, expected {self._size_bytes:,}")
            total = total or self._size_bytes
            if not start:
                self._forget()
                self._remember(url, response)
            if total:
                self._require_space(total - start, total)
            with open(self._part, "ab") as file:
                self._report(url, start, total)
                # not iter_content, which unpacks what a server wrongly calls packed for the transfer
                for block in response.raw.stream(_BLOCK, decode_content=False):
                    file.write(block)
                    self._report(url, file.tell(), total)
        if total and self._have() != total:
            raise Refused(f"ended after {self._have():,} of {total:,} bytes")

    def _asked(self, session: requests.Session, url: str) -> requests.Response:
        """The answer to a request for the rest, or for all where there is no rest to be had."""
        response = _get(session, url, self._timeouts, self._rest(url))
        if response.status_code == 416:  # no such rest: the partial file is of no use
            response.close()
            self._forget()
            response = _get(session, url, self._timeouts, {})
        try:
            response.raise_for_status()
        except requests.HTTPError:
            response.close()
            raise Refused(f"the server says {response.status_code} {response.reason}") from None
        return response

    def _rest(self, url: str) -> dict[str, str]:
        """Headers that ask for what is missing of the version that the partial file is of."""
        try:
            note = json.loads(self._note.read_text("utf-8"))
            if note["url"] == url and (have := self._have()):
                return {"Range": f"bytes={have}-", "If-Range": str(note["version"])}
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no note, or a damaged one: from the beginning
        return {}

    def _remember(self, url: str, response: requests.Response) -> None:
        etag = response.headers.get("ETag", "")
        # a weak tag does not promise the same bytes
        version = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        if version and response.headers.get("Accept-Ranges", "bytes") != "none":
            self._note.write_text(json.dumps({"url": url, "version": version}), "utf-8")

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _report(self, url: str, done: int, total: int | None) -> None:
        if self._progress:
            name = self._part.name.removesuffix(".part")
            self._progress(Progress(name, url, done, total))

    def _require_space(self, to_come: int, total: int) -> None:
        needed = to_come + int(total * self._unpacked_ratio)
        free = shutil.disk_usage(self._part.parent).free
        if free < needed:
            raise SnnbenchError(
                f"{self._part.parent}: {free / 1e9:.2f} GB are free, downloading and unpacking"
                f" {self._part.name.removesuffix('.part')} ({total / 1e9:.2f} GB) needs about"
                f" {needed / 1e9:.2f} GB; make room, or set SNNBENCH_DATA to a folder on another disk"
            )


def read_text(url: str, timeouts: Timeouts, *, max_bytes: int = 1 << 20) -> str:
    """A small text file (a list of hashes) as it is on a server.

    Raises
    ------
    Refused
        The server has none, or it is too large.
    """
    try:
        with _Session() as session, _get(session, url, timeouts, {}) as response:
            if not response.ok:
                raise Refused(f"the server says {response.status_code} {response.reason}")
            content = response.raw.read(max_bytes + 1, decode_content=False)
    except _ERRORS as error:
        raise _refused(error) from None
    if len(content) > max_bytes:
        raise Refused(f"is larger than {max_bytes:,} bytes")
    return str(content.decode("utf-8", "replace"))


def is_encrypted_or_local(url: str) -> bool:
    """Whether `url` is https, or http that does not leave this machine."""
    if _scheme(url) == "https":
        return True
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refused(error: Exception) -> Refused:
    """What went wrong on the way, in words for a person."""
    if isinstance(error, requests.ConnectTimeout):
        reason = "cannot be reached: no answer in time"
    elif isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        reason = "stalled: no bytes for too long"
    elif isinstance(error, requests.exceptions.SSLError):
        reason = f"its certificate is not to be trusted: {_core(error)}"
    elif isinstance(error, requests.TooManyRedirects):
        reason = "leads in circles: more than 5 redirects"
    elif isinstance(error, requests.ConnectionError):
        reason = f"cannot be reached: {_core(error)}"
    elif isinstance(error, urllib3.exceptions.HTTPError):
        reason = f"the connection was cut: {_core(error)}"
    else:
        reason = str(error)
    refused = Refused(reason)
    refused.unreachable = isinstance(error, requests.ConnectionError)
    return refused


def _core(error: Exception) -> str:
    """The innermost reason of the errors that requests and urllib3 wrap into each other."""
    inner: Any = error
    while True:
        deeper = getattr(inner, "reason", None) or next(
            (a for a in reversed(inner.args) if isinstance(a, Exception)), inner.__cause__
        )
        if not isinstance(deeper, Exception):
            return str(getattr(inner, "strerror", None) or inner)
        inner = deeper


def _get(
    session: requests.Session, url: str, timeouts: Timeouts, headers: dict[str, str]
) -> requests.Response:
    limits = (timeouts.connect_s, timeouts.stall_s)
    return session.get(url, stream=True, timeout=limits, headers=headers)


def _start(response: requests.Response) -> int:
    """The position in the file of the first byte that comes."""
    if response.status_code != 206:
        return 0
    try:
        return int(response.headers["Content-Range"].split()[1].split("-")[0])
    except (KeyError, IndexError, ValueError):
        raise Refused("sent a part without saying which") from None


def _total(response: requests.Response) -> int | None:
    """Size of the whole file, where the server says it."""
    if response.status_code == 206:
        size = response.headers["Content-Range"].rpartition("/")[2]
    else:
        size = response.headers.get("Content-Length", "")
    return int(size) if size.isdigit() else None


def _scheme(url: str) -> str:
    return urlsplit(url).scheme.lower()
