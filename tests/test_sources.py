"""Names of recordings and list files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snnbench.data_prep.readers import READERS
from snnbench.data_prep.recipe import load_recipe, recipe_names
from snnbench.data_prep.sources import Recording, read_list, spoken_digits
from snnbench.errors import SnnbenchError
from tests.tiny_data import digit_name

HD = load_recipe("hd")


def touch(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names]
    for path in paths:
        path.touch()
    return paths


def test_a_name_says_label_and_speaker(tmp_path: Path) -> None:
    german = "lang-german_speaker-02_trial-10_digit-5.flac"
    english = "lang-english_speaker-11_trial-0_digit-9.WAV"
    touch(tmp_path, german, english)
    assert spoken_digits(tmp_path, HD).recordings == [
        Recording(tmp_path / english, Path(english).stem, 9, "11"),
        Recording(tmp_path / german, Path(german).stem, 15, "02"),
    ]


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sets(
        st.tuples(
            st.sampled_from(["english", "german"]),
            st.integers(0, 99),
            st.integers(0, 150),
            st.integers(0, 9),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_every_recording_is_found_once_in_order_of_names(
    tmp_path_factory: pytest.TempPathFactory, drawn: set[tuple[str, int, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("source")
    wanted = {
        f"lang-{language}_speaker-{speaker:02d}_trial-{trial}_digit-{digit}": (
            digit + 10 * (language == "german"),
            f"{speaker:02d}",
        )
        for language, speaker, trial, digit in drawn
    }
    touch(folder, *(f"{name}.flac" for name in wanted))
    found = spoken_digits(folder, HD).recordings
    assert {r.source_id: (r.label, r.group) for r in found} == wanted
    assert [r.source_id for r in found] == sorted(wanted)


def test_the_audio_subfolder_is_taken_where_there_is_one(tmp_path: Path) -> None:
    [path] = touch(tmp_path / "audio", f"{digit_name(0, 1)}.flac")
    touch(tmp_path, "README.md", "other.wav")
    assert [r.path for r in spoken_digits(tmp_path, HD).recordings] == [path]


def test_other_files_are_no_recordings(tmp_path: Path) -> None:
    touch(tmp_path, "README.md", "train_filenames.txt", f"{digit_name(0, 1)}.wav")
    assert len(spoken_digits(tmp_path, HD).recordings) == 1


@pytest.mark.parametrize(
    "name",
    [
        "five.wav",
        "lang-french_speaker-02_trial-10_digit-5.wav",
        "lang-german_speaker-02_trial-10_digit-10.wav",
        "lang-german_speaker-02_trial-10_digit-5 (copy).wav",
        "copy of lang-german_speaker-02_trial-10_digit-5.wav",
        "lang-german_speaker-_trial-10_digit-5.wav",
    ],
)
def test_a_name_that_does_not_parse_is_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"{digit_name(0, 1)}.wav", name)
    with pytest.raises(SnnbenchError) as caught:
        spoken_digits(tmp_path, HD)
    assert str(caught.value).startswith(f"{tmp_path / name}: the name does not parse")


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(SnnbenchError, match="none: no such source folder"):
        spoken_digits(tmp_path / "none", HD)
    with pytest.raises(SnnbenchError, match=r"no \.flac or \.wav files here"):
        spoken_digits(tmp_path, HD)


def test_one_recording_in_two_formats_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, f"{digit_name(0, 1)}.wav", f"{digit_name(0, 1)}.flac")
    with pytest.raises(SnnbenchError, match=r"\.wav: same name as .*\.flac; remove one"):
        spoken_digits(tmp_path, HD)


def test_a_list_holds_file_names(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("audio/a.flac\r\n\nb.wav\nc\n")
    assert read_list(path) == ["a", "b", "c"]
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SnnbenchError, match=r"list\.txt: cannot read the list"):
        read_list(path)
    with pytest.raises(SnnbenchError, match="cannot read the list"):
        read_list(tmp_path / "none.txt")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_has_a_reader(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.source.kind in READERS or recipe.source.kind == "published-spikes"
    assert len(recipe.source.files) == (2 if recipe.source.kind == "published-spikes" else 0)
