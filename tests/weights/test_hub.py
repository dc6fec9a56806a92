# SPDX-License-Identifier: Apache-2.0

"""Push and pull by MONAI's functions and the real huggingface_hub, up to the network: a stand-in answers them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from export_bundle import export_bundle
from small_bundles import small_bundle

from hybridmim_components.__main__ import main
from hybridmim_components.weights import save_weights
from hybridmim_components.weights.hub import pull, push

REPO = "clinic/spleen_segmentation"
Files = dict[str, bytes]


@dataclass
class Repository:
    """What the stand-in keeps: each commit holds all files."""

    private: bool
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files) -> str:
        sha = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[sha], self.refs["main"] = files, sha
        return sha

    def files(self, revision: str = "main") -> Files:
        return self.commits[self.refs.get(revision, revision)]


class Hub(BaseHTTPRequestHandler):
    """The requests of huggingface_hub that a push and a pull make."""

    repositories: dict[str, Repository] = {}
    asked: list[str] = []

    def do_GET(self) -> None:  # noqa: N802
        self.answer()

    do_POST = do_HEAD = do_GET  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(f"{self.command} {path}")
        if not self.headers.get("Authorization"):
            return self.send(401, {"error": "log in"})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        found = re.fullmatch(r"/api/models/(\w+/\w+)(?:/(\w+)(?:/([\w.]+))?)?", path)
        resolved = re.fullmatch(r"/(\w+/\w+)/resolve/([\w.]+)/(.+)", path)
        repo = self.repositories.get((found or resolved)[1]) if found or resolved else None
        if repo is None:
            return self.send(404, {"error": "no such repository"}, {"X-Error-Code": "RepoNotFound"})
        if resolved:
            data = repo.files(resolved[2])[resolved[3]]
            return self.send(200, data, {"X-Repo-Commit": resolved[2], "ETag": hashlib.sha1(data).hexdigest()})
        assert found
        revision = found[3] or "main"
        if self.command == "GET" and found[2] != "refs" and revision not in {*repo.refs, *repo.commits}:
            return self.send(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        self.send(200, getattr(self, f"on_{found[2] or 'revision'}")(repo, revision, body, found[1]))

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        status = 409 if name in self.repositories else 200
        self.repositories.setdefault(name, Repository(asked["visibility"] == "private"))
        if not self.repositories[name].refs:
            self.repositories[name].commit({})
        self.send(status, {"url": f"https://huggingface.co/{name}", "id": name, "name": name})

    def on_revision(self, repo: Repository, revision: str, body: bytes, name: str) -> Any:
        sha = repo.refs.get(revision, revision)
        return {"id": name, "sha": sha, "private": repo.private, "tags": [], "downloads": 0, "likes": 0}

    def on_refs(self, repo: Repository, revision: str, body: bytes, name: str) -> Any:
        refs = {n: {"name": n, "ref": f"refs/{n}", "targetCommit": sha} for n, sha in repo.refs.items()}
        return {"branches": [refs.pop("main")], "converts": [], "tags": list(refs.values())}

    def on_tree(self, repo: Repository, revision: str, body: bytes, name: str) -> Any:
        files = repo.files(revision).items()
        return [
            {"type": "file", "path": p, "size": len(data), "oid": hashlib.sha1(data).hexdigest()} for p, data in files
        ]

    def on_preupload(self, repo: Repository, revision: str, body: bytes, name: str) -> Any:
        names = [file["path"] for file in json.loads(body)["files"]]
        return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}

    def on_commit(self, repo: Repository, revision: str, body: bytes, name: str) -> Any:
        files = dict(repo.files())
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        sha = repo.commit(files)
        return {"commitUrl": f"https://huggingface.co/{name}/commit/{sha}", "commitOid": sha, "success": True}

    def on_tag(self, repo: Repository, revision: str, body: bytes, name: str) -> Any:
        repo.refs[json.loads(body)["tag"]] = repo.refs[revision]
        return {}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Repository]]:
    """The stand-in's repositories; huggingface_hub asks it instead of the hub, with a token, and caches in the test."""
    package = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: requirements-deployment.lock")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub_cache"),
    }.items():
        monkeypatch.setattr(package.constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(Hub, "repositories", {})
    monkeypatch.setattr(Hub, "asked", [])
    yield Hub.repositories
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exported")
    bundle, weights = small_bundle(root / "small", "msd_spleen_unet")
    return {kind: export_bundle(bundle, weights, root / kind, kind) for kind in ("MSD Spleen", "phantoms")}


@pytest.fixture
def exported(originals: dict[str, Path], tmp_path: Path) -> Path:
    """An exported bundle in which a run has left something."""
    folder = tmp_path / "mine" / originals["MSD Spleen"].name
    shutil.copytree(originals["MSD Spleen"], folder)
    (folder / "runs" / "inference").mkdir(parents=True)
    (folder / "runs" / "inference" / "patient_seg.nii.gz").write_text("a patient")
    return folder


def contents(folder: Path) -> Files:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def raise_version(bundle: Path) -> None:
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata |= {"version": "0.2.0", "changelog": {**metadata["changelog"], "0.2.0": "better"}}
    path.write_text(json.dumps(metadata))


def test_what_is_pulled_is_what_was_pushed(exported: Path, hub: dict[str, Repository], tmp_path: Path) -> None:
    before = contents(exported)
    answer = push(str(exported), REPO, tag=True)
    assert "private, tag 0.1.0" in answer and contents(exported) == before
    repository = hub[REPO]
    assert repository.private and repository.refs["0.1.0"] == repository.refs["main"]
    pushed = dict(repository.files())
    card = pushed.pop("README.md").decode()
    assert "library_name: monai\nlicense: apache-2.0\n---\n# HybridMIM" in card
    assert pushed == {name: data for name, data in before.items() if not name.startswith("runs")}
    folder = Path(pull(REPO, str(tmp_path / "pulled")))
    assert folder == tmp_path / "pulled" / "spleen_segmentation"
    assert contents(folder) == pushed | {"README.md": card.encode()}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_later_version_replaces_files_and_the_earlier_stays_tagged(
    exported: Path, hub: dict[str, Repository], tmp_path: Path
) -> None:
    push(str(exported), REPO, tag=True)
    with pytest.raises(ValueError, match="has a tag 0.1.0 already: raise the version"):
        push(str(exported), REPO, tag=True)
    raise_version(exported)
    (exported / "scripts" / "workflow" / "segmentation_scores.py").unlink()
    push(str(exported), REPO, tag=True)
    for version, other in (("main", False), ("0.2.0", False), ("0.1.0", True)):
        folder = Path(pull(REPO, str(tmp_path / version), version=version))
        assert (folder / "scripts" / "workflow" / "segmentation_scores.py").is_file() == other
        metadata = json.loads((folder / "configs" / "metadata.json").read_text())
        assert metadata["version"] == ("0.1.0" if other else "0.2.0")


def test_private_stays_private_and_public_public(exported: Path, hub: dict[str, Repository]) -> None:
    hub[REPO] = Repository(private=False)
    hub[REPO].commit({})
    with pytest.raises(ValueError, match=f"{REPO} is public and pushing does not change that: push with --public"):
        push(str(exported), REPO)
    assert hub[REPO].files() == {}
    assert "(public)" in push(str(exported), REPO, public=True)
    hub[REPO].private = True
    with pytest.raises(ValueError, match="is private and .*: push without --public"):
        push(str(exported), REPO, public=True)


def test_weights_of_phantoms_need_a_word(originals: dict[str, Path], hub: dict[str, Repository]) -> None:
    with pytest.raises(ValueError, match="trained on phantoms: whoever finds them .* --allow_phantoms"):
        push(str(originals["phantoms"]), REPO)
    assert not Hub.asked
    push(str(originals["phantoms"]), REPO, allow_phantoms=True)
    assert "weights from phantoms" in hub[REPO].files()["configs/metadata.json"].decode()


FAULTS = {
    "not exported": (lambda b: shutil.rmtree(b / "scripts"), "ci/export_bundle.py wrote, there are no scripts in"),
    "no weights": (lambda b: (b / "models" / "model.pt").unlink(), "must have models/model.pt or large_files.yml"),
    "no config": (lambda b: (b / "configs" / "inference.json").unlink(), "must have configs/inference.json"),
    "broken metadata": (lambda b: (b / "configs" / "metadata.json").write_text("{"), "metadata.json must be a JSON"),
    "no version": (lambda b: (b / "configs" / "metadata.json").write_text("{}"), "must have name, version"),
    "code in weights": (lambda b: torch.save(print, b / "models" / "model.pt"), "tensors and plain data only"),
    "pre-training": (
        lambda b: save_weights(b / "models" / "model.pt", torch.nn.Linear(1, 1), {"mask_ratio": 0.4}),
        "is of pre-training",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_exported_bundle_is_not_pushed(fault: str, exported: Path, hub: dict[str, Repository]) -> None:
    spoil, message = FAULTS[fault]
    spoil(exported)
    with pytest.raises((ValueError, OSError), match=message):
        push(str(exported), REPO)
    assert not Hub.asked


def test_a_version_must_be_in_the_changelog(exported: Path, hub: dict[str, Repository]) -> None:
    path = exported / "configs" / "metadata.json"
    path.write_text(path.read_text().replace('"version": "0.1.0"', '"version": "0.3.0"'))
    with pytest.raises(ValueError, match="changelog in .* must have version 0.3.0"):
        push(str(exported), REPO)


@pytest.mark.parametrize("fault", ["no weights", "broken metadata", "code in weights"])
def test_what_is_no_bundle_is_not_left(fault: str, exported: Path, hub: dict[str, Repository], tmp_path: Path) -> None:
    spoil, message = FAULTS[fault]
    spoil(exported)
    hub[REPO] = Repository(private=True)
    hub[REPO].commit(contents(exported))
    with pytest.raises((ValueError, OSError), match=message):
        pull(REPO, str(tmp_path / "pulled"))
    assert list((tmp_path / "pulled").iterdir()) == []


def test_nothing_is_overwritten(hub: dict[str, Repository], tmp_path: Path) -> None:
    (tmp_path / "spleen_segmentation").mkdir()
    with pytest.raises(FileExistsError, match="there is a folder .*spleen_segmentation already"):
        pull(REPO, str(tmp_path))
    assert not Hub.asked


@pytest.mark.parametrize("arguments", [["pull", "clinic/nothing"], ["pull", REPO, "--version", "9.9.9"]])
def test_the_hubs_objection_is_one_line(
    arguments: list[str], hub: dict[str, Repository], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub[REPO] = Repository(private=True)
    hub[REPO].commit({})
    monkeypatch.setattr(sys, "argv", ["hybridmim_components", *arguments, "--output", str(tmp_path / "pulled")])
    with pytest.raises(SystemExit) as exit_:
        main()
    line = str(exit_.value.code)
    assert line.startswith(f"error: the hub cannot be reached or refuses, for {arguments[1]}: ") and "\n" not in line


def test_a_hub_out_of_reach_is_one_line(
    exported: Path, hub: dict[str, Repository], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=f"cannot be reached or refuses, for {REPO}: ConnectError"):
        push(str(exported), REPO)


@pytest.mark.parametrize("command", [lambda b: push(b, REPO), lambda b: pull(REPO, b)], ids=["push", "pull"])
def test_missing_package_is_named(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="need huggingface_hub, .*: pip install huggingface_hub"):
        command(str(tmp_path))
