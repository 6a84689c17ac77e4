"""Fetches D4RL's files: what arrives is checked against size and hash before it gets its name."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envs.checks import DataError
from envs.d4rl_catalog import HOST, D4RLFile

ATTEMPTS = 4  # at each address, as long as each brings more bytes than the one before
TIMEOUT = (10, 60)  # seconds: to connect, and between two packets
CHUNK = 1 << 16  # what is lost at most when a download breaks off


def fetch(file: D4RLFile, folder: Path) -> Path:
    """The file in folder, downloaded if it is not there. Raises DataError.

    Tried are the addresses in $D4RL_MIRRORS (separated by commas; files lie below them as below D4RL's own) and then
    D4RL's. An interrupted download is taken up where it broke off. Two processes that want one file fetch it once.
    """
    from filelock import FileLock

    path = folder / file.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{file.file_name}.lock"):
            if not path.is_file():
                _download(file, path)
    except OSError as error:
        raise DataError(
            f"{file.name} cannot be kept in {folder}: {error}. $D4RL_DATASET_DIR names the folder"
        ) from error
    return path


def addresses(file: D4RLFile) -> list[str]:
    """Where to look for the file, best first."""
    mirrors = [mirror.strip() for mirror in os.environ.get("D4RL_MIRRORS", "").split(",")]
    return [f"{base.rstrip('/')}/{file.path}" for base in [*mirrors, HOST] if base]


def _download(file: D4RLFile, path: Path) -> None:
    import pooch

    failures = []
    for url in addresses(file):
        try:
            pooch.retrieve(
                url,
                known_hash=f"sha256:{file.sha256}" if file.sha256 else None,
                fname=path.name,
                path=path.parent,
                downloader=_Resuming(file, path.with_name(f".{path.name}.part")),
            )
            return
        except (DataError, OSError) as error:  # requests' errors are OSErrors
            failures.append(f"{url}: {error}")
        except ValueError:  # pooch's, for a hash that differs; what was downloaded is gone
            failures.append(f"{url}: the bytes that came do not have the published sha256 {file.sha256}")
    raise DataError(
        f"{file.name} is not on this machine and could not be downloaded:\n  "
        + "\n  ".join(failures)
        + f"\nPut the file into {path.parent} yourself, or name another address in $D4RL_MIRRORS."
    )


class _Resuming:
    """A downloader for pooch that goes on where an earlier one broke off, if a hash will judge the outcome."""

    def __init__(self, file: D4RLFile, part: Path) -> None:
        self.file, self.part = file, part

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        import requests

        if self.file.sha256 is None:
            self.part.unlink(missing_ok=True)
        for attempt in range(ATTEMPTS):
            before = self._num_bytes
            try:
                self._fetch_rest(url)
                break
            except requests.RequestException as error:
                if isinstance(error, requests.HTTPError | requests.exceptions.InvalidURL):
                    raise
                if attempt == ATTEMPTS - 1 or self._num_bytes == before:
                    raise
        os.replace(self.part, output_file)

    @property
    def _num_bytes(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _fetch_rest(self, url: str) -> None:
        import requests

        have = self._num_bytes
        headers = (
            {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
        )
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # nothing is missing, or what is here is not of this file
                if have == self.file.num_bytes:
                    return
                self.part.unlink()
                raise requests.ConnectionError("the server no longer has what was begun")
            answer.raise_for_status()
            have = have if answer.status_code == 206 else 0
            total = have + int(answer.headers.get("Content-Length", 0)) or None
            if self.file.num_bytes and total and total != self.file.num_bytes:
                raise DataError(f"it offers {total:,} bytes where {self.file.num_bytes:,} were published")
            with self.part.open("ab" if have else "wb") as out, _progress(self.file.name, have, total) as advance:
                for chunk in answer.iter_content(CHUNK):
                    out.write(chunk)
                    advance(len(chunk))
        if total and self._num_bytes != total:
            raise requests.ConnectionError(f"broke off after {self._num_bytes:,} of {total:,} bytes")


@contextmanager
def _progress(name: str, have: int, total: int | None) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(name, total=total, completed=have)
        yield lambda num_bytes: progress.advance(task, num_bytes)
