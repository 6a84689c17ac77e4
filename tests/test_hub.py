"""A run goes to a hub and comes back; what is not whole, not a run or outside of itself never arrives."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hub
from agents import load_agent
from hub import HubError, check_names, pull, push
from train_offline import main as train

REPO, COMMIT = "owner/name", "a" * 40


class Hub(BaseHTTPRequestHandler):
    """A stand-in that speaks as much of the hub's protocol as a push and a pull need."""

    files: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, data: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def answer_json(self, value: Any, code: int = 200) -> None:
        self.answer(json.dumps(value).encode(), code, Content_Type="application/json")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    @property
    def address(self) -> str:
        host, port = self.server.server_address[:2]
        return f"http://{host!s}:{port}/{REPO}"

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/api/repos/create":
            self.answer_json({"url": self.address, "id": REPO})
        elif self.path == "/api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]
            self.answer_json({"files": modes})
        else:
            assert "/commit/" in self.path
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer_json({"commitUrl": f"{self.address}/commit/{COMMIT}", "commitOid": COMMIT, "success": True})

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            data = self.files[self.path.split(f"/resolve/{COMMIT}/")[1].split("?")[0]]
            self.answer(data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=COMMIT)
        elif "/tree/" in self.path:
            self.answer_json([{"type": "file", "path": n, "size": len(x), "oid": n} for n, x in self.files.items()])
        elif self.path.startswith(f"/api/models/{REPO}"):
            siblings = [{"rfilename": name} for name in self.files]
            self.answer_json({"id": REPO, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        else:
            self.answer_json({"error": "not found"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, bytes]]:
    """What the hub holds; the library is pointed to it."""
    from huggingface_hub import HfApi

    held: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Hub,), {"files": held}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub, "_api", lambda: HfApi(endpoint=endpoint, token="hf_token"))
    yield held
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "run"
    small = "backbone.hidden_size=16 backbone.num_layers=1 train.num_steps=2 evaluate.num_episodes=1 num_threads=1"
    train([*small.split(), f"run_dir={path}"])
    return path


def first_action(path: Path) -> Any:
    agent = load_agent(path)
    agent.reset(1, 3000.0)
    return agent.act(np.ones((1, 11), np.float32), np.zeros(1))


def test_a_run_comes_back_as_it_went(run_dir: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    from evaluate import main as evaluate

    assert COMMIT in push(run_dir, REPO, licence="mit")
    assert b"license: mit" in files["README.md"]
    assert {Path(name).suffix for name in files} == {".json", ".jsonl", ".md", ".safetensors"}
    files[".gitattributes"] = files["run_me.py"] = b"not ours"
    back = pull(REPO, tmp_path / "deep" / "back")
    np.testing.assert_array_equal(first_action(back), first_action(run_dir))
    assert not [*back.rglob("*.py"), *back.rglob(".*")]
    assert sorted(path.name for path in back.parent.iterdir()) == ["back"]
    evaluate([f"run_dir={back}", "num_episodes=1", "num_threads=1"])
    with pytest.raises(HubError, match="is there already"):
        pull(REPO, back)


@pytest.mark.fault("a run from a hub that is damaged, not whole, or no run")
@pytest.mark.parametrize("damage", ["flip", "no results", "no checkpoint", "other task", "empty"])
def test_what_is_not_whole_never_arrives(
    run_dir: Path, files: dict[str, bytes], tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    push(run_dir, REPO)
    weights = next(name for name in files if name.endswith("agent.safetensors"))
    if damage == "flip":
        files[weights] = files[weights][:-1] + bytes([files[weights][-1] ^ 1])
    elif damage == "no results":
        del files["results.json"]
    elif damage == "no checkpoint":
        for name in [name for name in files if name.startswith("checkpoints")]:
            del files[name]
    elif damage == "other task":
        files["task.json"] = b"{}"
    else:
        files.clear()
    with pytest.raises(SystemExit) as exit_:
        hub.main(["pull", REPO, str(tmp_path / "back")])
    assert exit_.value.code == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not [*tmp_path.iterdir()]


@pytest.mark.fault("a file of a hub's repository that would lie outside of the run")
@pytest.mark.parametrize("name", ["../evil.json", "checkpoints/../../evil.json", "/etc/evil.json", "a\\..\\evil.json"])
def test_a_name_outside_is_refused(name: str) -> None:
    with pytest.raises(HubError, match="names a file outside of itself"):
        check_names(["results.json", name])


@pytest.mark.fault("a hub or network that is down")
def test_without_a_network_nothing_is_lost(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import HfApi

    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    monkeypatch.setattr(hub, "_api", lambda: HfApi(endpoint="http://127.0.0.1:9", token="hf_token"))
    for words in (["push", str(run_dir), REPO], ["pull", REPO, str(tmp_path / "back")]):
        with pytest.raises(SystemExit) as exit_:
            hub.main(words)
        assert exit_.value.code == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: {REPO} cannot be ")
        assert len(said.splitlines()) == 1
    assert before == {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    assert not [*tmp_path.iterdir()]


def test_a_run_that_is_not_finished_is_not_shared(run_dir: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(run_dir, tmp_path / "copy")
    (copy / "results.json").unlink()
    with pytest.raises(HubError, match="cannot be shared: not finished"):
        push(copy, REPO)
