"""Conversions and studies on a Dask cluster: the same results, from sources that are proved the same."""

from __future__ import annotations

import dataclasses
import platform
import shutil
from pathlib import Path

import pytest

from snnbench.data_prep import convert as conversion
from snnbench.data_prep import shards
from snnbench.data_prep.encoders import encoder_of
from snnbench.data_prep.latency import LatencyEncoder
from snnbench.data_prep.recipe import Recipe
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from snnbench.studies.runner import run_study
from snnbench.studies.study import Data, Job, load_study
from tests.cluster_jobs import DiesOnce, needs_file
from tests.commands import many_digits, snnbench, strict_json
from tests.dask_cluster import DaskProcesses
from tests.tiny_images import IDX_NAMES, image_recipe, write_images

IMAGES = 2 * 500 + 40


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), IMAGES, 20)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 500 images, so that there are three."""
    monkeypatch.setattr(LatencyEncoder, "per_shard", 500)


def convert(source: Path, out: Path, *, recipe: Recipe | None = None, **how: object) -> str:
    """Fingerprint of the converted file."""
    recipe = recipe or image_recipe("mnist-latency")
    summary = conversion.convert(recipe, source, out, **{"workers": 1, **how})  # type: ignore[arg-type]
    assert summary.samples == IMAGES + 20
    with SpikeDataset.open(out) as dataset:
        dataset.check()
        return dataset.fingerprint


def test_the_file_is_the_one_that_is_made_here(
    images: Path,
    dask: DaskProcesses,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dask.wait_for_workers(2)
    here = convert(images, tmp_path / "here.h5")
    monkeypatch.chdir(images.parent)  # the workers' folder is another one
    assert convert(Path(images.name), tmp_path / "there.h5", scheduler=dask.address) == here


def test_other_sources_are_refused_by_name(
    images: Path,
    dask: DaskProcesses,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dask.wait_for_workers(2)
    copy = tmp_path / "copy"
    shutil.copytree(images, copy)
    changed = copy / IDX_NAMES[0]
    digest = shards.file_sha256

    def swapped(path: Path) -> str:
        """As if the worker's disk held something else than ours."""
        return digest(images / IDX_NAMES[1]) if path == changed else digest(path)

    monkeypatch.setattr(shards, "file_sha256", swapped)
    with pytest.raises(SnnbenchError) as other:
        convert(copy, tmp_path / "out.h5", scheduler=dask.address)
    told = str(other.value)
    assert f"host {platform.node()}: {changed} is another file than on the machine" in told
    assert not (tmp_path / "out.h5").exists()

    def gone(path: Path) -> str:
        found = digest(path)
        path.unlink()
        return found

    monkeypatch.setattr(shards, "file_sha256", gone)
    with pytest.raises(SnnbenchError, match=r"is not there; the source folder must be on every"):
        convert(copy, tmp_path / "out.h5", scheduler=dask.address)


def test_a_worker_that_dies_is_replaced(
    images: Path,
    dask: DaskProcesses,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first process that encodes kills itself, as the system does without memory."""
    dask.wait_for_workers(2)
    expected = convert(images, tmp_path / "here.h5")
    encoder = encoder_of(image_recipe("mnist-latency"))
    deadly = DiesOnce(encoder, tmp_path / "died")
    monkeypatch.setattr(conversion, "encoder_of", lambda recipe: deadly)
    assert convert(images, tmp_path / "there.h5", scheduler=dask.address) == expected
    assert (tmp_path / "died").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("cochlea_tables")
def test_sound_is_the_same_there(
    dask: DaskProcesses,
    tmp_path: Path,
) -> None:
    source = many_digits(tmp_path / "sound", range(5, 12))
    command = ["data", "convert", "hd", "--partial", "--source", source, "--json", "--out"]
    here = snnbench(*command, tmp_path / "here.h5", "--workers", 1)
    dask.wait_for_workers(2)
    there = snnbench(*command, tmp_path / "there.h5", "--scheduler", dask.address)
    assert there.code == 0, there.err
    fingerprints = {strict_json(told.out)["fingerprint"] for told in (here, there)}
    assert len(fingerprints) == 1


def test_a_study_is_the_same_there(
    dask: DaskProcesses,
    tmp_path: Path,
) -> None:
    dask.wait_for_workers(2)
    study = ("reproduce", "run", "superspike-single", "--trial", "--seeds", 2, "--json", "--out")
    here = snnbench(*study, tmp_path / "here", "--workers", 1)
    there = snnbench(*study, tmp_path / "there", "--scheduler", dask.address)
    assert there.code == 0, there.err
    assert strict_json(there.out)["numbers"] == strict_json(here.out)["numbers"]
    names = [sorted(p.name for p in (tmp_path / w).rglob("*.json")) for w in ("here", "there")]
    assert names[0] == names[1]
    refused = snnbench(*study, tmp_path / "no", "--scheduler", "10.0.0.1:8786")
    assert (refused.code, "take local, or the address" in refused.err) == (2, True)


def test_a_study_whose_worker_lacks_a_file_says_where(
    dask: DaskProcesses,
    tmp_path: Path,
) -> None:
    dask.wait_for_workers(2)
    job = Job("reading", needs_file, {"path": str(tmp_path / "none.ras")})
    single = load_study("superspike-single")
    with pytest.raises(SnnbenchError) as told:
        run_study(
            dataclasses.replace(single, jobs=lambda parameters, seeds, data: [job]),
            single.parameters,
            seeds=[0],
            data=Data(()),
            out=tmp_path,
            workers=1,
            on_progress=lambda done, total: None,
            scheduler=dask.address,
        )
    assert str(told.value) == f"host {platform.node()}: reading: {tmp_path}/none.ras: not there"
