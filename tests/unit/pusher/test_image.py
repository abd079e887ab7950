"""blob, layer, image, layout: what is put together, and how it is stored in a folder."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from pusher.image import PLATFORMS, Image, compose_image
from pusher.layer import adapter_layer
from pusher.layout import LayoutStore
from tuning.destination import LayoutDestination
from tuning.errors import ResourceExhausted, TrainingFailed


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(3_000_001))
    return folder


NAMES = ["adapter_model.safetensors", "adapter_config.json"]


def test_the_layer_holds_the_files_under_data_for_everyone_to_read(results: Path) -> None:
    blob = adapter_layer(results, NAMES)
    with tarfile.open(fileobj=io.BytesIO(blob.content())) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == ["data", "data/adapter_config.json", f"data/{NAMES[0]}"]
        assert [member.mode for member in members] == [0o755, 0o644, 0o644]
        assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, 0)}
        extracted = archive.extractfile(members[2])
        assert extracted is not None
        assert extracted.read() == (results / NAMES[0]).read_bytes()


def test_size_and_digest_are_those_of_the_bytes(results: Path) -> None:
    blob = adapter_layer(results, NAMES)
    content = blob.content()
    assert blob.size_bytes == len(content)
    assert blob.digest == "sha256:" + hashlib.sha256(content).hexdigest()
    assert len(content) % tarfile.RECORDSIZE == 0


def test_the_layer_is_the_same_whatever_the_times_modes_and_order(results: Path) -> None:
    before = adapter_layer(results, NAMES).digest
    os.utime(results / NAMES[0], (1, 1))
    (results / NAMES[0]).chmod(0o600)
    assert adapter_layer(results, sorted(NAMES)).digest == before


def test_gnu_tar_reads_the_layer(results: Path, tmp_path: Path) -> None:
    (tmp_path / "layer.tar").write_bytes(adapter_layer(results, NAMES).content())
    listed = subprocess.run(
        ["tar", "-tf", tmp_path / "layer.tar"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert listed == ["data/", "data/adapter_config.json", "data/adapter_model.safetensors"]


@pytest.mark.parametrize("size", [5, 4_000_000])
def test_a_file_that_changes_while_it_is_read_is_refused(results: Path, size: int) -> None:
    blob = adapter_layer(results, NAMES)
    (results / NAMES[0]).write_bytes(bytes(size))
    with pytest.raises(TrainingFailed, match="changed its size"):
        blob.content()


def test_a_file_above_8_gib_gets_a_header_that_tar_reads(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(9 * 1024**3)
    from pusher.layer import Entry, _blocks

    blocks = _blocks([Entry("data/huge", tmp_path / "huge", 9 * 1024**3)])
    header = next(block for block in blocks if block.startswith(b"data/huge"))
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 9 * 1024**3


def image(results: Path) -> Image:
    return compose_image(adapter_layer(results, NAMES), {"sh.kaito.model.name": "phi-3"})


def test_every_platform_has_a_real_config_over_the_same_layer(results: Path) -> None:
    composed = image(results)
    layer = composed.blobs[0]
    index = json.loads(composed.index.content())
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == list(PLATFORMS)
    for entry, manifest, config in zip(index["manifests"], composed.manifests, composed.blobs[1:], strict=True):
        assert entry["digest"] == manifest.digest
        content = json.loads(manifest.content())
        assert content["config"]["digest"] == config.digest
        assert [part["digest"] for part in content["layers"]] == [layer.digest]
        assert content["annotations"] == {"sh.kaito.model.name": "phi-3"}
        settings = json.loads(config.content())
        assert settings["os"] == "linux"
        assert settings["architecture"] == entry["platform"]["architecture"]
        assert settings["rootfs"] == {"type": "layers", "diff_ids": [layer.digest]}


def test_an_equal_adapter_gives_an_equal_digest(results: Path) -> None:
    assert image(results).index.digest == image(results).index.digest


def store(layout: Path, composed: Image, tag: str) -> None:
    target = LayoutStore(LayoutDestination(layout, tag))
    for blob in composed.blobs:
        target.put_blob(blob)
    for manifest in composed.manifests:
        target.put_manifest(manifest)
    target.tag(composed.index)


def test_a_layout_holds_every_blob_under_its_digest(results: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    store(layout, image(results), "v1")
    for path in (layout / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_a_tag_of_a_layout_moves_and_others_stay(results: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    store(layout, image(results), "v1")
    store(layout, image(results), "v2")
    (results / NAMES[1]).write_text("{}")
    store(layout, image(results), "v1")
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    tags = {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in entries}
    assert set(tags) == {"v1", "v2"}
    assert len(entries) == 2
    assert tags["v1"] == image(results).index.digest
    assert tags["v1"] != tags["v2"]


def test_a_layout_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceExhausted, match=f"cannot make an OCI layout in {tmp_path}/file"):
        LayoutStore(LayoutDestination(tmp_path / "file", "v1")).check()
