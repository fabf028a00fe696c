"""`snnbench data cochlea` on a recording of one's own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from PIL import Image

from snnbench.cli.cochlea import cochlea
from snnbench.data_prep.cochlea import cochlea_spikes, preset_parameters
from snnbench.errors import SnnbenchError, UsageError
from tests.test_cochlea import vowel

SMALL = ("--set", "n_channels=32")
PICTURES = {
    stem + suffix
    for stem in ("stages", "frequency-map", "rate-level")
    for suffix in (".svg", ".png")
}
pytestmark = pytest.mark.usefixtures("cochlea_tables")


@pytest.fixture
def word(tmp_path: Path) -> Path:
    path = tmp_path / "word.wav"
    soundfile.write(path, 0.9 * vowel(0.1), 48000, subtype="PCM_16")
    return path


def run(*arguments: object) -> Result:
    """Call the command; what it cannot do is raised."""
    result = CliRunner().invoke(cochlea, [str(a) for a in arguments], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result


def test_writes_spikes_and_pictures(word, tmp_path):
    out = tmp_path / "made"
    found = json.loads(run(word, "--out", out, *SMALL, "--seed", 3, "--json").stdout)
    assert {path.name for path in out.iterdir()} == PICTURES | {"spikes.npz"}
    assert {Path(path) for path in found["files"]} == set(out.iterdir())
    sound, rate_hz = soundfile.read(word)
    p = preset_parameters("shd", {"n_channels": 32})
    spikes = cochlea_spikes(sound, rate_hz, parameters=p, seed=3, key=None)
    with np.load(out / "spikes.npz") as stored:
        np.testing.assert_array_equal(stored["times"], spikes.times)
        np.testing.assert_array_equal(stored["units"], spikes.units)
        assert json.loads(str(stored["parameters"])) == p.model_dump(mode="json")
        assert (stored["preset"], stored["mode"]) == ("shd", "fast")
        assert (stored["seed"], stored["sample_rate_hz"], stored["n_channels"]) == (3, 48000, 32)
    assert found["spikes"] == len(spikes.times)
    assert found["sound_s"] == 0.1
    for name in sorted(PICTURES):
        if name.endswith(".png"):
            with Image.open(out / name) as image:
                assert np.asarray(image.convert("L")).std() > 5, name


def test_every_stage_is_written_when_asked_for(word, tmp_path):
    for mode, dtype in (("fast", np.float32), ("exact", np.float64)):
        out = tmp_path / mode
        result = run(word, "--out", out, *SMALL, "--mode", mode, "--stages")
        assert "stages.npz will have" in result.stderr
        with np.load(out / "stages.npz") as stages:
            assert {name: (a.shape, a.dtype) for name, a in stages.items()} == {
                "velocity": ((2401, 32), dtype),
                "probability": ((2401, 32), dtype),
                "fibre_counts": ((2401, 32), np.uint16),
            }
            assert stages["velocity"].std() > 1
            assert stages["probability"].min() >= 0
            assert 0 < stages["fibre_counts"].max() <= 40
        assert {path.suffix for path in out.iterdir()} == {".npz", ".svg", ".png"}


def test_exact_mode_takes_numpys_seed(word, tmp_path):
    run(word, "--out", tmp_path / "x", *SMALL, "--mode", "exact", "--preset", "lauscher")
    sound, rate_hz = soundfile.read(word)
    p = preset_parameters("lauscher", {"n_channels": 32})
    spikes = cochlea_spikes(sound, rate_hz, parameters=p, seed=0, key=None, mode="exact")
    with np.load(tmp_path / "x" / "spikes.npz") as stored:
        np.testing.assert_array_equal(stored["times"], spikes.times)


def test_constants_are_set_and_written(word, tmp_path):
    out = tmp_path / "clean"
    run(word, "--out", out, *SMALL, "--set", "decimate=clean", "--set", "hair_cell.loss_per_s=3000")
    changes = {"n_channels": 32, "decimate": "clean", "hair_cell.loss_per_s": 3000}
    sound, rate_hz = soundfile.read(word)
    expected = cochlea_spikes(
        sound, rate_hz, parameters=preset_parameters("shd", changes), seed=0, key=None
    )
    with np.load(out / "spikes.npz") as stored:
        parameters = json.loads(str(stored["parameters"]))
        assert parameters["decimate"] == "clean"
        assert parameters["hair_cell"]["loss_per_s"] == 3000
        np.testing.assert_array_equal(stored["units"], expected.units)


def test_what_the_cochlea_cannot_take_is_named(word, tmp_path):
    with pytest.raises(SnnbenchError, match=r"word\.wav: sound at 2000 Hz: the hair cell is unst"):
        run(word, "--out", tmp_path / "no", *SMALL, "--resample-to", 2000)
    assert not (tmp_path / "no").exists()


def test_other_rates_and_stereo_are_brought_over_and_told(tmp_path):
    path = tmp_path / "stereo.flac"
    soundfile.write(path, np.stack([vowel(0.1, 22050)] * 2, axis=1), 22050)
    with pytest.raises(SnnbenchError, match="has 2 channels, one is wanted; --downmix averages"):
        run(path, "--out", tmp_path / "no", *SMALL)
    assert not (tmp_path / "no").exists()
    result = run(path, "--out", tmp_path / "a", *SMALL, "--downmix")
    assert "averaged 2 channels" in result.stderr
    assert "resampled from 22050 to 48000 Hz" in result.stderr
    assert "at 48000 Hz" in result.stdout
    result = run(path, "--out", tmp_path / "b", *SMALL, "--downmix", "--keep-rate")
    assert "resampled" not in result.stderr
    assert "at 22050 Hz" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--preset", "shdd"), "unknown cochlea preset 'shdd'; did you mean shd"),
        (("--set", "hair_cell.los_per_s=1"), "did you mean cochlea.hair_cell.loss_per_s"),
        (("--set", "n_fibres=none"), "cochlea.n_fibres: .* found 'none'"),
        (("--set", "n_fibres"), "write KEY=VALUE"),
        (("--mode", "exact", "--seed", 2**32), "seeds from 0 to"),
    ],
)
def test_wrong_usage(word, tmp_path, arguments, found):
    with pytest.raises(UsageError, match=found):
        run(word, "--out", tmp_path / "no", *SMALL, *arguments)
    assert not (tmp_path / "no").exists()


def test_sounds_that_cannot_be_used(word, tmp_path):
    (tmp_path / "text.wav").write_text("not a sound")
    soundfile.write(tmp_path / "silent.wav", np.zeros(4800), 48000)
    soundfile.write(tmp_path / "short.wav", np.ones(10), 48000)
    soundfile.write(tmp_path / "long.wav", np.ones(2_880_002), 48000)
    soundfile.write(tmp_path / "slow.wav", vowel(0.1, 8000), 8000)
    for name, found in {
        "none.wav": "no such audio file",
        "text.wav": "cannot be read as audio",
        "silent.wav": "is silent",
        "short.wav": "holds 10 samples",
        "long.wav": "cut the recording into pieces",
        "slow.wav": "unstable at 9080 Hz and below",
    }.items():
        with pytest.raises(SnnbenchError, match=found):
            run(tmp_path / name, "--out", tmp_path / "no", "--keep-rate", *SMALL)
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(word, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(SnnbenchError, match="cannot write"):
        run(word, "--out", folder, *SMALL)


def test_out_that_is_no_folder(word, tmp_path):
    with pytest.raises(UsageError, match="is a file; name a folder"):
        run(word, "--out", word, *SMALL)
    with pytest.raises((SnnbenchError, OSError), match="Not a directory"):
        run(word, "--out", word / "below", *SMALL)
