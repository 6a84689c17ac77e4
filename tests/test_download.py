"""Downloads against a server that does everything wrong there is to do."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from envs import DataError
from envs.d4rl_catalog import D4RLFile
from envs.download import CHUNK, fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
FILE = D4RLFile("hopper-toy-v2", "toys/hopper_toy-v2.hdf5", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), None)


class Server(ThreadingHTTPServer):
    """What it does with each request, in turn; the last one goes on for ever."""

    behaviours: list[str]
    asked: list[tuple[str, str | None]]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        begin = self.headers.get("Range")
        self.server.asked.append((self.path, begin))
        behaviours = self.server.behaviours
        behaviour = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]
        if behaviour == "missing":
            self.send_error(404)
            return
        content = CONTENT[::-1] if behaviour == "wrong" else CONTENT
        first = int(begin.removeprefix("bytes=").removesuffix("-")) if begin and behaviour != "no ranges" else 0
        self.send_response(206 if first else 200)
        body = content[first:]
        self.send_header("Content-Length", str(len(body) + (7 if behaviour == "lies" else 0)))
        self.end_headers()
        self.wfile.write(body[:100_000] if behaviour == "breaks off" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.behaviours, server.asked = ["fine"], []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr("envs.download.HOST", f"{server.address}/")
    monkeypatch.delenv("D4RL_MIRRORS", raising=False)
    yield server
    server.shutdown()
    server.server_close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.fault("no network: what was downloaded before opens")
def test_what_was_downloaded_opens_without_a_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fetch(FILE, tmp_path)
    asked = len(server.asked)
    monkeypatch.setattr("envs.download.HOST", "http://127.0.0.1:9/")
    assert fetch(FILE, tmp_path) == whole
    assert len(server.asked) == asked
    whole.unlink()
    with pytest.raises(DataError, match="hopper-toy-v2"):  # and what was not says what it wanted
        fetch(FILE, tmp_path)


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        path = fetch(FILE, tmp_path / "new")
        assert path.read_bytes() == CONTENT
    assert server.asked == [("/toys/hopper_toy-v2.hdf5", None)]
    assert names(tmp_path / "new") == ["hopper_toy-v2.hdf5"]


@pytest.mark.fault("a download that breaks off")
def test_a_download_that_breaks_off_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.behaviours = ["breaks off", "breaks off", "fine"]
    assert fetch(FILE, tmp_path).read_bytes() == CONTENT
    assert [begin for _, begin in server.asked] == [None, f"bytes={CHUNK}-", f"bytes={2 * CHUNK}-"]


def test_a_server_that_is_gone_leaves_the_beginning_for_the_next_time(server: Server, tmp_path: Path) -> None:
    server.behaviours = ["breaks off", "missing"]
    with pytest.raises(DataError, match=r"could not be downloaded(.|\n)*404(.|\n)*D4RL_MIRRORS"):
        fetch(FILE, tmp_path)
    assert names(tmp_path) == [".hopper_toy-v2.hdf5.part"]
    server.behaviours = ["fine"]
    assert fetch(FILE, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1][1] == f"bytes={CHUNK}-"


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.behaviours = ["breaks off", "no ranges"]
    assert fetch(FILE, tmp_path).read_bytes() == CONTENT


@pytest.mark.fault("a download of the wrong size or with the wrong hash")
@pytest.mark.parametrize(
    ("behaviour", "message"), [("wrong", "do not have the published sha256"), ("lies", "it offers 300,007 bytes where")]
)
def test_what_is_not_the_published_file_gets_no_name(
    server: Server, tmp_path: Path, behaviour: str, message: str
) -> None:
    server.behaviours = [behaviour]
    with pytest.raises(DataError, match=message):
        fetch(FILE, tmp_path)
    assert names(tmp_path) == []


def test_a_beginning_of_something_else_is_found_out(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".hopper_toy-v2.hdf5.part").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="do not have the published sha256"):
        fetch(FILE, tmp_path)
    assert fetch(FILE, tmp_path).read_bytes() == CONTENT


def test_without_a_published_hash_nothing_is_resumed(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".hopper_toy-v2.hdf5.part").write_bytes(CONTENT[:1000])
    unknown = FILE._replace(num_bytes=None, sha256=None)
    assert fetch(unknown, tmp_path).read_bytes() == CONTENT
    assert server.asked == [("/toys/hopper_toy-v2.hdf5", None)]


def test_mirrors_come_first_and_the_next_helps_out(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D4RL_MIRRORS", f"{server.address}/one/, {server.address}/two")
    server.behaviours = ["missing", "wrong", "fine"]
    assert fetch(FILE, tmp_path).read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == [f"{base}/toys/hopper_toy-v2.hdf5" for base in ("/one", "/two", "")]


def test_two_at_once_fetch_once(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(FILE, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "hopper_toy-v2.hdf5").read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be kept in .*D4RL_DATASET_DIR names the folder"):
        fetch(FILE, tmp_path / "file" / "below")
