"""Mirrors and alternatives in order, until one gives the right file.

pooch puts the file in place: temporary file, hash, move. What is trusted: https, and http that does not
leave this machine. A mirror that the user names may be plain http, for files whose hash is known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pooch

from snnbench.data_prep.archives import ArchiveError, is_packed
from snnbench.data_prep.recipe import Download, DownloadSpec, PackedFile
from snnbench.data_prep.transfer import (
    Progress,
    Refused,
    Timeouts,
    Transfer,
    is_encrypted_or_local,
    read_text,
)
from snnbench.errors import SnnbenchError

_log = logging.getLogger(__name__)

_UNPACKED_RATIO = 4.0
"""Space kept free for unpacking, per packed byte: spikes pack to about a third, sound hardly at all."""


@dataclass(frozen=True)
class Mirrors:
    """The mirrors of a data set; files come into `folder`."""

    name: str
    """Of the data set."""
    spec: DownloadSpec
    folder: Path
    from_user: tuple[str, ...] = ()
    """Mirrors that replace the recipe's."""
    timeouts: Timeouts | None = None
    progress: Callable[[Progress], None] | None = None
    lists: dict[str, dict[str, str]] = field(default_factory=dict)
    """Hashes that the mirrors list, by mirror and name."""

    def bring(self, wanted: Download, install: Callable[[Path, str], None]) -> Path:
        """Download one of the packed files of `wanted` and call `install` with it and its address.

        Where `install` raises an ArchiveError, the file is removed and the next address is tried.
        Returns where the packed file is, if `install` left it there.

        Raises
        ------
        SnnbenchError
            Naming every address and why it gave nothing; or there is no space.
        """
        failures = []
        for mirror in self.from_user or self.spec.mirrors:
            base = mirror.rstrip("/") + "/"
            for packed in wanted.packed:
                try:
                    archive = self._download(packed, base)
                    try:
                        install(archive, base + packed.name)
                    except ArchiveError:
                        archive.unlink()
                        raise
                    return archive
                except (Refused, ArchiveError) as error:
                    failures.append(f"{base}{packed.name}: {error}")
                    _log.info(failures[-1])
                    if isinstance(error, Refused) and error.unreachable:
                        break
        raise SnnbenchError(
            "\n  ".join([f"{self.name}: {wanted.target} could not be downloaded:", *failures])
            + "\nTry again later (what has come is kept), name another place with --mirror, or get the"
            " files another way and call `snnbench data convert` likewise, with --source FOLDER."
        )

    def _download(self, packed: PackedFile, base: str) -> Path:
        url, name = base + packed.name, Path(packed.name).name
        self._require_trust(base)
        known = packed.hash or self._listed(base, name)
        if not known:
            if not is_encrypted_or_local(base):
                raise Refused("no checksum is known, and the connection is not encrypted")
            _log.warning("%s: no checksum is known; its own is noted", url)
        transfer = Transfer(
            self.folder / f"{name}.part",
            size_bytes=packed.size_bytes,
            unpacked_ratio=_UNPACKED_RATIO if is_packed(name) else 0.0,
            timeouts=self.timeouts or Timeouts(),
            progress=self.progress,
        )
        pooch.get_logger().setLevel(logging.WARNING)  # the user is told by `progress`
        try:
            pooch.retrieve(url, known or None, fname=name, path=self.folder, downloader=transfer)
        except ValueError as error:  # pooch's word for a wrong hash
            raise Refused(str(error).partition(" Deleted")[0]) from None
        return self.folder / name

    def _require_trust(self, base: str) -> None:
        if not base.startswith(("https://", "http://")):
            raise Refused("is no https address")
        if is_encrypted_or_local(base):
            return
        if not self.from_user:
            raise Refused("is plain http, which anybody on the way can change; not used")
        _log.warning("%s is plain http: anybody on the way can read and change what comes", base)

    def _listed(self, base: str, name: str) -> str:
        """The hash of `name` in the mirror's own list, "" where there is none."""
        if not self.spec.hash_list:
            return ""
        if base not in self.lists:
            address = base + self.spec.hash_list
            try:
                text = read_text(address, self.timeouts or Timeouts())
            except Refused as error:
                if error.unreachable:
                    raise
                _log.warning("%s: %s", address, error)
                text = ""
            self.lists[base] = _parse_hashes(text)
        return self.lists[base].get(name, "")


def _parse_hashes(text: str) -> dict[str, str]:
    """Name to hash, from the output of md5sum or sha256sum."""
    kinds = {32: "md5", 64: "sha256"}
    hashes = {}
    for line in text.splitlines():
        digest, _, name = line.strip().partition(" ")
        if len(digest) in kinds:
            hashes[Path(name.strip().lstrip("*")).name] = f"{kinds[len(digest)]}:{digest.lower()}"
    return hashes
