"""Checkpoints by hub id, from a small hub on this machine: revisions load, and each refusal is one clear message.

The server answers as the hub does; what is raised on top of it is huggingface_hub's, transformers' and diffusers' own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils import _http
from safetensors.torch import load_file, save_file

from subjectgen.core import CheckpointError, Sample
from subjectgen.encoders.flux_text import FluxText
from subjectgen.encoders.internvl3 import InternVL3
from subjectgen.encoders.qwen2_5_vl import Qwen25VL
from subjectgen.encoders.vae import VAE

ENCODERS = (InternVL3, Qwen25VL, VAE, FluxText)
REFUSALS = {"gated": (403, "GatedRepo"), "unknown": (401, "RepoNotFound")}


class Hub(ThreadingHTTPServer):
    """Repositories by name, each with the revisions ``main`` and ``v1``; ``name@v1`` where that is another folder."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folders: dict[str, Path] = {}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).removeprefix("/api/models").strip("/")
        name = "/".join(path.split("/")[:2])
        rest = path.removeprefix(name).strip("/")
        if name.removeprefix("tests/") in REFUSALS or name not in self.server.folders:
            return self.refuse(*REFUSALS.get(name.removeprefix("tests/"), REFUSALS["unknown"]))
        kind, _, where = rest.partition("/")
        revision, _, inside = where.partition("/")
        if kind in ("resolve", "tree", "revision") and revision not in ("main", "v1", *map(commit, ("main", "v1"))):
            return self.refuse(404, "RevisionNotFound")
        tagged = f"{name}@v1" if revision in ("v1", commit("v1")) else name
        folder = self.server.folders.get(tagged, self.server.folders[name])
        if kind == "resolve":
            return self.file(folder / inside, revision)
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        if kind == "tree":
            return self.json([{"type": "file", "path": file, "size": 1, "oid": "0"} for file in files])
        siblings = [{"rfilename": file} for file in files]
        return self.json({"id": name, "sha": commit(revision or "main"), "siblings": siblings})

    do_HEAD = do_POST = do_GET

    def file(self, file: Path, revision: str) -> None:
        if not file.is_file():
            return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit(revision)})
        content = file.read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        return self.answer(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": commit(revision)})

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, more: Mapping[str, str] = MappingProxyType({})) -> None:
        self.answer(status, b"", {"X-Error-Code": code, "X-Error-Message": code, **more})

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""


def commit(revision: str) -> str:
    return revision if len(revision) == 40 else hashlib.sha1(revision.encode()).hexdigest()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Requests for the real hub are sent to ours as they leave: libraries read its address long before."""
    factory = _http._GLOBAL_CLIENT_FACTORY
    with Hub() as server, pytest.MonkeyPatch.context() as patch:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def redirected() -> Any:
            client = factory()
            client.event_hooks["request"].append(redirect)
            return client

        def redirect(request: Any) -> None:
            request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=server.server_port)

        set_client_factory(redirected)
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield server
        server.shutdown()
    set_client_factory(factory)


@pytest.mark.parametrize("revision", [None, "v1", commit("v1")])
@pytest.mark.parametrize(
    ("encoder", "fixture"),
    [(InternVL3, "internvl3_checkpoint"), (Qwen25VL, "qwen_checkpoint"), (FluxText, "pipeline_checkpoint")],
)
def test_a_hub_id_loads_what_the_folder_holds(
    request: pytest.FixtureRequest, hub: Hub, encoder: Any, fixture: str, revision: str | None
) -> None:
    folder = request.getfixturevalue(fixture)
    name = f"tests/{fixture}"
    hub.folders[name] = folder
    expected = first(encoder(encoder.Config(checkpoint=str(folder))))
    assert first(encoder(encoder.Config(checkpoint=name, revision=revision))).equal(expected)
    again = encoder.Config(checkpoint=name, revision=revision, local_files_only=True)
    assert first(encoder(again)).equal(expected)


def first(encoder: Any) -> torch.Tensor:
    """Some output of an encoder."""
    encoded = encoder.encode([Sample(prompt="a red toy")])
    return encoded.tokens if hasattr(encoded, "tokens") else encoded.hidden_states[-1]


def test_a_revision_is_another_model(
    hub: Hub, internvl3_checkpoint: Path, pipeline_checkpoint: Path, tmp_path: Path
) -> None:
    for name, checkpoint, inside in (("mllm", internvl3_checkpoint, "."), ("flux", pipeline_checkpoint, "vae")):
        hub.folders[f"tests/{name}-2"] = checkpoint
        hub.folders[f"tests/{name}-2@v1"] = old = shutil.copytree(checkpoint, tmp_path / name)
        for file in (old / inside).glob("*.safetensors"):
            save_file({key: value * 0.5 for key, value in load_file(file).items()}, file, metadata={"format": "pt"})
    found = [first(InternVL3(InternVL3.Config(checkpoint="tests/mllm-2", revision=name))) for name in (None, "v1")]
    assert not torch.allclose(*found)
    found = [next(VAE(VAE.Config(checkpoint="tests/flux-2", revision=name)).parameters()) for name in (None, "v1")]
    assert torch.equal(found[0] * 0.5, found[1])


def test_the_autoencoder_of_a_hub_id(hub: Hub, pipeline_checkpoint: Path) -> None:
    hub.folders["tests/flux"] = pipeline_checkpoint
    images = torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    expected = VAE(VAE.Config(checkpoint=str(pipeline_checkpoint))).encode_images(images)
    assert VAE(VAE.Config(checkpoint="tests/flux", revision="v1")).encode_images(images).equal(expected)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"checkpoint": "tests/gated"}, r"gated: accept its terms on https://huggingface\.co/tests/gated, then"),
        ({"checkpoint": "tests/unknown"}, r"'tests/unknown': the hub has no such repository, or it is private"),
        ({"checkpoint": "tests/empty", "revision": "v9"}, r"no revision 'v9'; expected a branch, tag or commit"),
        ({"checkpoint": "tests/empty"}, r"has no config\.json; expected a model of type"),
        (
            {"checkpoint": "tests/uncached", "local_files_only": True},
            r"not in the local cache",
        ),
    ],
)
def test_what_the_hub_refuses_is_one_clear_message(
    hub: Hub, tmp_path: Path, encoder: Any, options: dict[str, Any], complaint: str
) -> None:
    hub.folders["tests/empty"] = tmp_path
    (tmp_path / "README.md").write_text("nothing else")
    with pytest.raises(CheckpointError, match=complaint) as raised:
        encoder(encoder.Config(**options))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_hub_that_is_not_reached_is_not_blamed(hub: Hub, monkeypatch: pytest.MonkeyPatch, encoder: Any) -> None:
    monkeypatch.setattr(hub, "server_port", 9)  # nobody answers there
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)  # before it is tried again
    with pytest.raises(CheckpointError, match="not in the local cache, and the hub was not reached"):
        encoder(encoder.Config(checkpoint="tests/elsewhere"))


def test_a_repository_of_another_kind_is_named(hub: Hub, pipeline_checkpoint: Path, qwen_checkpoint: Path) -> None:
    hub.folders |= {"tests/pipeline": pipeline_checkpoint, "tests/qwen": qwen_checkpoint}
    for encoder in (InternVL3, Qwen25VL):
        with pytest.raises(CheckpointError, match=r"has no config\.json; expected a model of type"):
            encoder(encoder.Config(checkpoint="tests/pipeline"))
    with pytest.raises(CheckpointError, match="type 'qwen2_5_vl', expected 'internvl'"):
        InternVL3(InternVL3.Config(checkpoint="tests/qwen"))
    with pytest.raises(CheckpointError, match=r"'tests/qwen', folder 'vae', has no config\.json"):
        VAE(VAE.Config(checkpoint="tests/qwen"))


@pytest.mark.parametrize(
    ("encoder", "fixture", "inside"),
    [
        (InternVL3, "internvl3_checkpoint", "."),
        (VAE, "pipeline_checkpoint", "vae"),
        (FluxText, "pipeline_checkpoint", "text_encoder_2"),
    ],
)
def test_weights_of_a_repository_are_safetensors_and_whole(
    request: pytest.FixtureRequest, hub: Hub, tmp_path: Path, encoder: Any, fixture: str, inside: str
) -> None:
    def refused(name: str, complaint: str) -> None:
        hub.folders[name] = shutil.copytree(folder, tmp_path / name)
        with pytest.raises(CheckpointError, match=complaint):
            encoder(encoder.Config(checkpoint=name))

    folder = shutil.copytree(request.getfixturevalue(fixture), tmp_path / "copy")
    last = sorted((folder / inside).glob("*.safetensors"))[-1]
    content = last.read_bytes()
    last.write_bytes(content[:-3])
    refused(f"tests/{encoder.__name__}-truncated", rf"{last.name} is truncated or damaged")
    last.unlink()
    refused(f"tests/{encoder.__name__}-missing", rf"{last.name} is missing|has no weights: expected {last.name}")
    for file in [*(folder / inside).glob("*.safetensors"), *(folder / inside).glob("*.index.json")]:
        file.unlink()
    (folder / inside / "pytorch_model.bin").write_bytes(content)
    refused(
        f"tests/{encoder.__name__}-pickled", r"has no weights: expected \S+\.safetensors or .*; pickles are never read"
    )
