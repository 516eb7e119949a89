"""Downloads against a server that misbehaves, and foreign checkpoints laid onto backbones."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.testing
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model, get_weight

from pipeline.backbones.__main__ import app
from pipeline.backbones.backbone import Description, build_backbone
from pipeline.backbones.download import Patience, download, sha256_of
from pipeline.backbones.fetch import Fetched, fetch, kept_epoch
from pipeline.backbones.files import load_backbone, save_backbone
from pipeline.backbones.foreign import adopt
from pipeline.config.backbones import Checkpoint, TorchvisionWeights
from pipeline.errors import PipelineError
from pipeline.provenance import Provenance, code_digest, digest_of_file, read_provenance

CONTENT = torch.arange(100_000, dtype=torch.int64).numpy().tobytes()[:100_000]
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ONCE = Patience(tries=1, timeout=5, pause=0)
THRICE = Patience(tries=3, timeout=5, pause=0)
SMALL = {"name": "small_resnet", "widths": [4, 6], "blocks": 1, "stem_stride": 2}
RESNET18 = {"name": "torchvision", "model": "resnet18"}


class Site(ThreadingHTTPServer):
    """A server on this machine: what it holds, how it misbehaves next, and what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {"/weights.pth": CONTENT}
        self.version: dict[str, str] = {"ETag": '"one"'}
        self.has_ranges = True
        self.cuts: list[int] = []  # bytes after which each next connection ends
        self.refusals: list[int] = []  # status of each next answer
        self.silent = False  # before it answers
        self.stalls = False  # where it cuts
        self.released = threading.Event()
        self.asked: list[str | None] = []  # the Range of each request
        self.sent: list[int] = []  # bytes of each body


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site = self.server
        site.asked.append(self.headers["Range"])
        if site.silent:
            site.released.wait(30)
            return
        content = site.files.get(self.path)
        status = site.refusals.pop(0) if site.refusals else 200 if content is not None else 404
        if content is None or status != 200:
            return self.send_error(status)
        start = self.start_of_range()
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        for name, value in site.version.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = site.cuts.pop(0) if site.cuts else None
        body = content[start:][:cut]
        # Before it is written: a client that has it all may look at once.
        site.sent.append(len(body))
        self.wfile.write(body)
        if site.stalls and cut is not None:
            site.released.wait(30)

    def start_of_range(self) -> int:
        site, asked = self.server, self.headers["Range"]
        same = self.headers["If-Range"] in (None, *site.version.values())
        return (
            int(asked.removeprefix("bytes=").removesuffix("-")) if asked and site.has_ranges and same else 0
        )

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "weights.pth"


def get(site: Site, file: Path, digest: str = DIGEST, patience: Patience = ONCE) -> str:
    return download(f"{site.url}/weights.pth", file, digest, patience)


def test_download_arrives_whole_and_alone_and_once(site: Site, file: Path):
    assert get(site, file) == DIGEST
    assert file.read_bytes() == CONTENT
    assert [path.name for path in file.parent.iterdir()] == ["weights.pth"]
    (file.parent / "weights.pth.lock").mkdir()  # as in a folder that cannot be written
    assert get(site, file, DIGEST[:8]) == DIGEST
    assert site.asked == [None]


def test_spoilt_file_in_the_place_is_fetched_again(site: Site, file: Path):
    get(site, file)
    file.write_bytes(b"spoilt")
    get(site, file)
    assert file.read_bytes() == CONTENT


def test_truncated_download_goes_on_where_it_stopped(site: Site, file: Path):
    site.cuts = [70_000]
    get(site, file, patience=THRICE)
    assert file.read_bytes() == CONTENT
    assert site.asked == [None, "bytes=70000-"]
    assert site.sent == [70_000, 30_000]


def test_always_truncated_download_fails_and_another_run_fetches_the_rest(site: Site, file: Path):
    site.cuts = [40_000, 20_000, 10_000]
    with pytest.raises(
        PipelineError, match=r"70,000 of 100,000 bytes, after 3 tries. The 70,000 bytes that arrived are kept"
    ):
        get(site, file, patience=THRICE)
    assert not file.exists()
    get(site, file)
    assert file.read_bytes() == CONTENT
    assert site.sent == [40_000, 20_000, 10_000, 30_000]


@pytest.mark.parametrize("ranges", [True, False], ids=["changed", "no ranges"])
def test_part_is_dropped_when_the_server_sends_all(site: Site, file: Path, ranges: bool):
    site.files["/weights.pth"] = bytes(100_000)
    site.cuts = [70_000]
    with pytest.raises(PipelineError, match="after 1 tries"):
        get(site, file)
    site.files["/weights.pth"], site.version = CONTENT, {"ETag": '"two"'}
    site.has_ranges = ranges
    get(site, file)
    assert file.read_bytes() == CONTENT
    assert site.asked[1] == "bytes=70000-"
    assert site.sent == [70_000, 100_000]


@pytest.mark.parametrize(
    ("version", "asked"),
    [
        ({"ETag": 'W/"weak"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, True),
        ({"ETag": 'W/"weak"'}, False),
        ({}, False),
    ],
)
def test_version_of_the_part_is_remembered_where_it_has_one(
    site: Site, file: Path, version: dict[str, str], asked: bool
):
    site.version, site.cuts = version, [70_000]
    with pytest.raises(PipelineError):
        get(site, file)
    remembered = file.parent / "weights.pth.part.version"
    assert remembered.exists() == asked
    assert not asked or remembered.read_text() == version["Last-Modified"]
    get(site, file)
    assert site.sent == [70_000, 30_000]


def test_part_larger_than_the_file_is_dropped(site: Site, file: Path):
    file.parent.mkdir()
    file.with_name("weights.pth.part").write_bytes(bytes(200_000))
    get(site, file, patience=THRICE)
    assert site.asked == ["bytes=200000-", None]
    assert file.read_bytes() == CONTENT


def test_part_that_is_complete_is_not_fetched_again(site: Site, file: Path):
    file.parent.mkdir()
    file.with_name("weights.pth.part").write_bytes(CONTENT)
    assert get(site, file) == DIGEST
    assert (site.asked, file.read_bytes()) == ([], CONTENT)


def test_wrong_digest_is_named_beside_the_expected_one_and_nothing_is_kept(site: Site, file: Path):
    with pytest.raises(
        PipelineError, match=f"SHA-256 {DIGEST}, expected {'0' * 64}; the download is removed"
    ):
        get(site, file, "0" * 64)
    assert [path.name for path in file.parent.iterdir()] == ["weights.pth.lock"]


def test_absent_file_is_an_error_at_once(site: Site, file: Path):
    with pytest.raises(PipelineError, match=r"/absent.pth: the server answers 404 \(Not Found\)"):
        download(f"{site.url}/absent.pth", file, DIGEST, THRICE)
    assert len(site.asked) == 1


def test_busy_server_is_asked_again(site: Site, file: Path):
    site.refusals = [503, 429]
    get(site, file, patience=THRICE)
    assert len(site.asked) == 3
    site.refusals = [500]
    with pytest.raises(PipelineError, match=r"the server answers 500 .* after 1 tries"):
        get(site, file.with_name("other"))


def test_silent_server_is_given_up(site: Site, file: Path):
    site.silent = True
    with pytest.raises(PipelineError, match=r"the server is silent, after 2 tries\. The 0 bytes"):
        get(site, file, patience=Patience(tries=2, timeout=0.2, pause=0))
    assert len(site.asked) == 2


def test_server_that_stalls_in_the_middle_is_asked_for_the_rest(site: Site, file: Path):
    site.cuts, site.stalls = [60_000], True
    get(site, file, patience=Patience(tries=2, timeout=0.2, pause=0))
    assert file.read_bytes() == CONTENT
    assert site.sent == [60_000, 40_000]


def test_pause_doubles(monkeypatch: pytest.MonkeyPatch, file: Path):
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    with pytest.raises(PipelineError, match="refused, after 3 tries"):
        download("http://127.0.0.1:9/weights.pth", file, DIGEST, Patience(3, 5, 2))
    assert pauses == [2, 4]


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/weights.pth", "weights.pth"])
def test_other_schemes_are_refused(url: str, file: Path):
    with pytest.raises(PipelineError, match="only http and https"):
        download(url, file, DIGEST, ONCE)
    assert not file.parent.exists()


def test_redirection_to_another_scheme_is_refused(
    site: Site, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def redirect(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "ftp://127.0.0.1/weights.pth")
        handler.end_headers()

    monkeypatch.setattr(Handler, "do_GET", redirect)
    with pytest.raises(PipelineError, match="unknown url type: ftp"):
        get(site, file)


def test_jobs_that_want_the_same_file_fetch_it_once(site: Site, file: Path):
    jobs = [threading.Thread(target=get, args=(site, file)) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert file.read_bytes() == CONTENT
    assert site.asked == [None]


class RunsCode:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def entry(path: Path, sha256: str | None = None, **changes: Any) -> dict[str, Any]:
    """A checkpoint's entry as the rule passes it on."""
    side = 64 if changes.get("architecture") else 16
    settings = {
        "origin": "checkpoint",
        "architecture": SMALL,
        "preprocessing": {"resize": side, "crop": side},
        "path": str(path),
        "sha256": sha256 or sha256_of(path),
        **changes,
    }
    return Checkpoint.model_validate(settings).plain()


def adopted(tmp_path: Path, content: Any, **changes: Any) -> Fetched:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    return fetch(entry(path, **changes), tmp_path / "downloads")


def small_weights() -> dict[str, torch.Tensor]:
    description = Description(SMALL, {"resize": 16, "crop": 16})
    return build_backbone(description, seed=5).encoder.state_dict()


def resnet18(last: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    network = get_model("resnet18", weights=None)
    network.fc = last
    return network.eval()


def images() -> torch.Tensor:
    return torch.linspace(-2, 2, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)


def test_checkpoint_with_code_is_refused_and_its_code_does_not_run(tmp_path: Path):
    folder = tmp_path / "ran"
    content = {"state_dict": small_weights(), "extra": RunsCode(folder)}
    with pytest.raises(
        PipelineError, match=r"run code of its choice: besides tensors it pickles posix.mkdir"
    ):
        adopted(tmp_path, content)
    assert not folder.exists()
    torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    assert folder.exists(), "the checkpoint of this test holds no code"


@pytest.mark.parametrize("content", [b"<html>no such file</html>", b"", b"PK\x03\x04 half a file"])
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    with pytest.raises(PipelineError, match="neither safetensors nor a checkpoint") as caught:
        fetch(entry(path), tmp_path)
    assert "weights_only" not in str(caught.value)


def test_checkpoint_without_tensors_by_name(tmp_path: Path):
    with pytest.raises(PipelineError, match="expected tensors by name, found list"):
        adopted(tmp_path, [torch.zeros(2)])
    with pytest.raises(PipelineError, match=r"found also\n  epoch: int\n  0: Tensor"):
        adopted(tmp_path, {"epoch": 3, 0: torch.zeros(2), **small_weights()})


@pytest.mark.parametrize("nesting", [[], ["state_dict"], ["model"], ["model_state"], ["model", "state_dict"]])
def test_weights_are_found_below_the_usual_names(tmp_path: Path, nesting: list[str]):
    content: Any = small_weights()
    for name in nesting:
        content = {name: content, "epoch": 3, "optimizer": {"state": {0: torch.zeros(2)}}}
    backbone, sha256 = adopted(tmp_path, content)
    assert sha256 == sha256_of(tmp_path / "checkpoint.pth")
    found = backbone.encoder.state_dict()
    assert all(torch.equal(found[name], value) for name, value in small_weights().items())


def test_safetensors_of_half_precision_without_counts_of_batches(tmp_path: Path):
    halves = {
        f"net.{name}": value.half().contiguous()
        for name, value in small_weights().items()
        if not name.endswith("num_batches_tracked")
    }
    path = tmp_path / "weights"
    save_file(halves, path)
    found = fetch(entry(path, prefix="net."), tmp_path).backbone.encoder.state_dict()
    assert {value.dtype for value in found.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(found[name.removeprefix("net.")], value.float()) for name, value in halves.items())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(PipelineError, match="not a readable safetensors file"):
        fetch(entry(path), tmp_path)


def test_digest_of_a_local_file_is_checked(tmp_path: Path):
    path = tmp_path / "checkpoint.pth"
    torch.save(small_weights(), path)
    with pytest.raises(PipelineError, match=f"SHA-256 {sha256_of(path)}, expected {'0' * 64}"):
        fetch(entry(path, sha256="0" * 64), tmp_path)
    assert path.exists()
    with pytest.raises(PipelineError, match=r"absent\.pth: no such file"):
        fetch(entry(tmp_path / "absent.pth", sha256="0" * 64), tmp_path)


def test_keys_that_are_missing_or_left_over_are_listed(tmp_path: Path):
    weights = small_weights()
    del weights["stem_norm.bias"]
    weights |= {f"decoder.{number}": torch.zeros(1) for number in range(12)}
    with pytest.raises(PipelineError) as caught:
        adopted(tmp_path, weights)
    assert "1 missing:\n  stem_norm.bias\n12 left over:\n  decoder.0\n" in str(caught.value)
    assert str(caught.value).endswith("... and 2 more")


@pytest.mark.parametrize("prefix", ["", "module", "other."])
def test_prefix_that_would_fit_is_named(tmp_path: Path, prefix: str):
    weights = {f"module.{name}": value for name, value in small_weights().items()}
    with pytest.raises(PipelineError, match=r"did you mean prefix 'module\.'\?"):
        adopted(tmp_path, weights, prefix=prefix)
    adopted(tmp_path, weights, prefix="module.")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path):
    weights = small_weights()
    weights["stem_norm.running_var"][0] = torch.nan
    with pytest.raises(PipelineError, match=r"not finite:\n  stem_norm.running_var$"):
        adopted(tmp_path, weights)


def test_checkpoint_of_another_architecture_names_sizes(tmp_path: Path):
    architecture = {**SMALL, "widths": [4, 8]}
    with pytest.raises(
        PipelineError,
        match=r"another architecture, since sizes differ:\n"
        r"  stages.1.first.weight: found \(6, 4, 3, 3\), expected \(8, 4, 3, 3\)\n",
    ):
        adopted(tmp_path, small_weights(), architecture=architecture)


def test_crop_that_does_not_fit_is_an_error_while_fetching(tmp_path: Path):
    network = get_model("densenet121", weights=None)
    with pytest.raises(PipelineError, match="images of 16 x 16 pixels do not fit the network"):
        adopted(
            tmp_path,
            network.state_dict(),
            architecture={"name": "torchvision", "model": "densenet121"},
            preprocessing={"resize": 16, "crop": 16},
        )


def test_moco_checkpoint_gives_encoder_and_projection(tmp_path: Path):
    query = resnet18(nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128)))
    names = {
        f"module.encoder_{part}.{name}": value for part in "kq" for name, value in query.state_dict().items()
    }
    content = {"epoch": 800, "arch": "resnet18", "state_dict": names, "optimizer": {"state": {}}}
    names |= {"module.queue": torch.zeros(128, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    settings = {"architecture": RESNET18, "prefix": "module.encoder_q."}
    backbone = adopted(tmp_path, content, projection={"dimensions": 128}, **settings).backbone
    assert backbone.head is None
    with torch.inference_mode():
        torch.testing.assert_close(backbone.features(images(), "projection"), query(images()))
    with pytest.raises(PipelineError, match=r"set projection: \{hidden: 512, dimensions: 128\}"):
        adopted(tmp_path, content, **settings)
    with pytest.raises(
        PipelineError, match=r"encoder_q.fc.2.weight: found \(128, 512\), expected \(64, 512\)"
    ):
        adopted(tmp_path, content, projection={"dimensions": 64}, **settings)


def test_classification_layer_of_a_checkpoint_becomes_the_head(tmp_path: Path):
    network = resnet18(nn.Linear(512, 3))
    backbone = adopted(tmp_path, network.state_dict(), architecture=RESNET18).backbone
    assert backbone.description.class_names == ["class 0", "class 1", "class 2"]
    with torch.inference_mode():
        torch.testing.assert_close(backbone.head(backbone(images())), network(images()))
    without_bias = {name: value for name, value in network.state_dict().items() if name != "fc.bias"}
    assert not adopted(tmp_path, without_bias, architecture=RESNET18).backbone.head.bias.any()
    encoder = {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}
    assert adopted(tmp_path, encoder, architecture=RESNET18).backbone.head is None
    with pytest.raises(PipelineError, match="projection is set, and no two layers"):
        adopted(tmp_path, encoder, architecture=RESNET18, projection={})
    with pytest.raises(PipelineError, match=r"left over:\n  fc.scale"):
        adopted(tmp_path, {**encoder, "fc.scale": torch.ones(1)}, architecture=RESNET18)


def publish(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, enum: Any, weights: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Serve `weights` in the place of torchvision's; settings that ask for them."""
    path = tmp_path / "published.pth"
    torch.save(weights, path)
    name = f"/network-{sha256_of(path)[:8]}.pth"
    site.files[name] = path.read_bytes()
    monkeypatch.setattr(enum.value, "url", site.url + name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return TorchvisionWeights(origin="torchvision", weights=f"{type(enum).__name__}.{enum.name}").plain()


def test_torchvision_weights_have_head_and_class_names(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    network = resnet18(nn.Linear(512, 1000))
    enum = get_weight("ResNet18_Weights.IMAGENET1K_V1")
    settings = publish(site, monkeypatch, tmp_path, enum, network.state_dict())
    backbone, sha256 = fetch(settings, tmp_path / "downloads")
    assert sha256 == sha256_of(tmp_path / "published.pth")
    assert backbone.description.architecture == RESNET18
    assert backbone.description.class_names == enum.meta["categories"]
    with torch.inference_mode():
        torch.testing.assert_close(backbone.head(backbone(images())), network(images()))
    (cached,) = (tmp_path / "torch" / "hub" / "checkpoints").iterdir()
    fetch(settings, tmp_path / "downloads")
    assert site.asked == [None]
    site.files[f"/{cached.name}"] += b"\0"
    cached.unlink()
    with pytest.raises(PipelineError, match=f"expected {sha256[:8]}; the download is removed"):
        fetch(settings, tmp_path / "downloads")


def test_published_densenet_has_keys_with_dots(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    network = get_model("densenet121", weights=None).eval()
    dotted = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): value
        for name, value in network.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in dotted
    enum = get_weight("DenseNet121_Weights.IMAGENET1K_V1")
    backbone, _ = fetch(publish(site, monkeypatch, tmp_path, enum, dotted), tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.head(backbone(images())), network(images()))


def test_published_vision_transformer_has_keys_of_an_earlier_version():
    network = get_model("vit_b_16", weights=None)
    old = {name.replace("mlp.0", "mlp.linear_1"): value for name, value in network.state_dict().items()}
    assert old.keys() != network.state_dict().keys()
    architecture = {"name": "torchvision", "model": "vit_b_16"}
    found = adopt(Description(architecture, {}), old, "test").encoder.state_dict()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in found.items())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ResNet18_Weights.IMAGENET1K_V3", "ResNet18_Weights.IMAGENET1K_V1"),
        ("ResNet50_Weights.DEFAULT", "ResNet50_Weights.IMAGENET1K_V"),
        ("resnet18_weights", "ResNet18_Weights.IMAGENET1K_V1"),
    ],
)
def test_unknown_torchvision_weights_name_the_nearest(tmp_path: Path, name: str, nearest: str):
    settings = TorchvisionWeights(origin="torchvision", weights=name).plain()
    with pytest.raises(PipelineError, match=f"publishes no weights '{name}'; did you mean '{nearest}"):
        fetch(settings, tmp_path)


def test_kept_epoch_through_the_command_line(tmp_path: Path):
    description = Description(SMALL, {"resize": 16, "crop": 16}, None, ["bird", "cat"])
    kept = {epoch: tmp_path / "checkpoints" / f"epoch_{epoch:04}.safetensors" for epoch in (5, 10)}
    for epoch, path in kept.items():
        record = Provenance("pipeline.pretraining", {}, "pipeline.pretraining=0", {})
        save_backbone(path, build_backbone(description, seed=epoch), record)
    output = tmp_path / "early" / "weights.safetensors"

    def run(epoch: int) -> typer.testing.Result:
        settings = json.dumps({"epoch": epoch})
        command = ["kept-epoch", str(tmp_path / "checkpoints"), str(output), "--settings", settings]
        return typer.testing.CliRunner().invoke(app, command)

    assert run(10).exit_code == 0
    found, expected = load_backbone(output), load_backbone(kept[10])
    assert found.description == description
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in found.state_dict().items())
    record = read_provenance(output)
    assert record is not None
    assert (record.step, record.inputs) == ("pipeline.backbones", {"weights": digest_of_file(kept[10])})
    with pytest.raises(PipelineError, match="no epoch 7; kept: 5, 10"):
        kept_epoch(tmp_path / "checkpoints", {"epoch": 7})


def test_address_through_the_command_line(site: Site, tmp_path: Path):
    path = tmp_path / "checkpoint.pth"
    torch.save(small_weights(), path)
    site.files["/small.pth"] = path.read_bytes()
    settings = entry(path)
    settings |= {"path": None, "url": f"{site.url}/small.pth"}
    components = ("architectures.small_resnet", "formats.plain")
    code = code_digest("pipeline.backbones", *(f"pipeline.backbones.{name}" for name in components))
    output = tmp_path / "backbones" / "small" / "weights.safetensors"
    command = [sys.executable, "-m", "pipeline.backbones", "fetch", str(output), "--code", str(code)]
    done = subprocess.run(
        [*command, "--settings", json.dumps(settings)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (output.parent.parent / ".downloads" / settings["sha256"]).is_file()
    record = read_provenance(output)
    assert record is not None
    assert (record.inputs, record.code) == ({"weights": settings["sha256"]}, str(code))
    assert {"numpy", "pyarrow", "torch"} <= set(record.versions)
    found = load_backbone(output).encoder.state_dict()
    assert all(torch.equal(found[name], value) for name, value in small_weights().items())
