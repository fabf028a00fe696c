"""A real PostgreSQL server on this machine, as Debian's packages have it: in a folder, on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any


def programs() -> Path | None:
    """Folder of initdb and postgres, of the newest version; None where there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[4]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path and shutil.which("postgres") else None


class PostgresServer:
    """A server with a user `sweeper` and a database `studies`; it keeps its port when it comes back."""

    def __init__(self, password: str) -> None:
        bin_folder = programs()
        assert bin_folder is not None
        self._bin = bin_folder
        # initdb refuses to be root; the folders of pytest are closed to others
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._folder = Path(tempfile.mkdtemp(prefix="snnbench-postgres-"))
        if self._as:
            os.chown(self._folder, self._as["user"], self._as["group"])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"postgresql://sweeper:{password}@127.0.0.1:{self.port}/studies"
        secret = self._folder / "password"
        secret.write_text(password)
        secret.chmod(0o644)
        self._run(
            *("initdb", "--pgdata", self.data, "--username", "sweeper", "--auth", "scram-sha-256"),
            *("--pwfile", secret, "--no-sync", "--locale", "C", "--encoding", "UTF8"),
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        create = [
            "createdb",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--username",
            "sweeper",
        ]
        self._run(*create, "--no-password", "studies", env={**os.environ, "PGPASSWORD": password})

    @property
    def data(self) -> Path:
        """Where it keeps its files."""
        return self._folder / "data"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
        }
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._bin / "postgres", "-D", self.data),
                    *(word for key, value in options.items() for word in ("-c", f"{key}={value}")),
                ],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                **self._as,
            )
        deadline = time.monotonic() + 60
        ready = ["pg_isready", "--quiet", "--host", "127.0.0.1", "--port", str(self.port)]
        while subprocess.run([self._bin / ready[0], *ready[1:]], cwd=self._folder).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "log").read_text()[-3000:])
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it at once, whoever is connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: object, **options: Any) -> None:
        done = subprocess.run(
            [self._bin / program, *map(str, arguments)],
            cwd=self._folder,
            capture_output=True,
            text=True,
            **self._as,
            **options,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")
