"""Checkpoints by hub id. The answers are the hub's, without a network; what is raised is huggingface_hub's own."""

import hashlib
import json

import pytest
import torch
from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import _http

from subjectgen.backbones.flux import FluxBackbone
from subjectgen.core import CheckpointError
from subjectgen.core.weights import Checkpoint
from subjectgen.testing.backbone import make_streams, velocity

httpx = getattr(_http, "httpx2", None) or _http.httpx
"""The client that this version of huggingface_hub has."""
COMMIT = "0" * 40
PIPELINE = {
    "_class_name": "FluxPipeline",
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
REFUSALS = {"gated": (403, "GatedRepo"), "unknown": (401, "RepoNotFound")}


class Hub:
    """One repository, ``tests/flux``, of some files."""

    def __init__(self, folder):
        self.folder = folder
        self.downloads = []
        self.reachable = True
        self.requests = 0

    def __call__(self, request):
        self.requests += 1
        if not self.reachable:
            raise OfflineModeIsEnabled("as huggingface_hub does with HF_HUB_OFFLINE=1")
        path = request.url.path.removeprefix("/api/models").strip("/")
        name, rest = "/".join(path.split("/")[:2]), path.split("/")[2:]
        if name != "tests/flux":
            return refusal(*REFUSALS[name.removeprefix("tests/")])
        if rest[1] not in ("main", COMMIT):
            return refusal(404, "RevisionNotFound")
        files = {str(file.relative_to(self.folder)): file for file in self.folder.rglob("*") if file.is_file()}
        if rest[0] == "revision":
            siblings = [{"rfilename": file} for file in files]
            return httpx.Response(200, json={"id": name, "sha": COMMIT, "siblings": siblings})
        if rest[0] == "tree":
            return httpx.Response(200, json=[{"type": "file", "path": f, "size": 1, "oid": "0"} for f in files])
        wanted = "/".join(rest[2:])
        if wanted not in files:
            return refusal(404, "EntryNotFound")
        content = files[wanted].read_bytes()
        self.downloads += [wanted] if request.method == "GET" else []
        tag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}
        return httpx.Response(200, headers=headers, content=content if request.method == "GET" else b"")


def refusal(status, code):
    return httpx.Response(status, headers={"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": COMMIT})


@pytest.fixture
def hub(build, tmp_path, monkeypatch):
    """A pipeline's repository, with more in it than is wanted."""
    folder = tmp_path / "repository"
    build().transformer.save_pretrained(folder / "transformer", max_shard_size="40KB")
    (folder / "transformer" / "older").mkdir()
    for place in (folder, folder / "transformer" / "older"):
        (place / "flux1-dev.safetensors").write_bytes(b"gigabytes")
    (folder / "model_index.json").write_text(json.dumps(PIPELINE))
    answers = Hub(folder)
    before = _http._GLOBAL_CLIENT_FACTORY
    set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(answers), follow_redirects=True))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield answers
    set_client_factory(before)


def load(**options):
    return FluxBackbone(FluxBackbone.Config(**{"checkpoint": "tests/flux", "subfolder": "transformer", **options}))


def test_a_hub_id_is_the_folder(build, hub):
    backbone = build()
    streams = make_streams(backbone)
    loaded = load(revision="main")
    with torch.no_grad():
        assert torch.equal(velocity(loaded, streams), velocity(backbone, streams))
    assert {file.rpartition("/")[0] for file in hub.downloads} == {"transformer"}
    count = len(hub.downloads)
    load()
    assert len(hub.downloads) == count  # all from the cache


def test_its_files_are_checked_as_a_folder_is(hub):
    shard = sorted((hub.folder / "transformer").glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"-00002-of-.* is truncated"):
        load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": "tests/gated"}, r"gated: accept its terms on https://huggingface\.co/tests/gated, then"),
        ({"checkpoint": "tests/unknown"}, "no such repository, or it is private"),
        ({"revision": "v9"}, "no revision 'v9'; expected a branch, tag or commit"),
        ({"subfolder": "unet"}, r"folder 'unet', has no config\.json"),
        ({"subfolder": None}, r"no config\.json; expected .*; did you mean subfolder 'transformer'"),
        ({"checkpoint": "tests/a b"}, "no hub id; expected a local path or owner/name"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_line(hub, options, message):
    with pytest.raises(CheckpointError, match=message) as raised:
        load(**options)
    assert "\n" not in str(raised.value)
    assert not any(file.endswith(".safetensors") for file in hub.downloads)


def test_the_cache_is_tried_first_and_the_hub_not_at_all(hub, caplog):
    """Without a network each question costs the hub's client its retries."""
    hub.reachable = False
    with pytest.raises(CheckpointError, match="not in the local cache, and the hub was not reached") as raised:
        load()
    assert 'hf download tests/flux --include "transformer/*"' in str(raised.value)
    hub.reachable = True
    load()
    asked, said = hub.requests, len(caplog.messages)
    hub.reachable = False
    assert load().transformer.config.num_layers == 1
    assert (hub.requests, len(caplog.messages)) == (asked, said)


def test_one_line_says_that_the_hub_is_asked(hub, caplog):
    load()
    first = caplog.messages[0]
    assert first == "asking the hub for tests/flux, revision main: transformer/config.json is not in the local cache"


def test_a_file_that_the_repository_lacks_is_asked_for_once(hub):
    checkpoint = Checkpoint(name="tests/flux", subfolder="transformer")
    assert checkpoint.json("generation_config.json") is None
    asked = hub.requests
    assert checkpoint.json("generation_config.json") is None
    assert hub.requests == asked


def test_a_file_that_may_be_missing_is_missing_without_a_network(hub):
    hub.reachable = False
    assert Checkpoint(name="tests/flux").json("generation_config.json") is None
