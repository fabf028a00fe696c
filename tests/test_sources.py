"""Names of recordings and list files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snnbench.data_prep.audio_folder import labelled_audio
from snnbench.data_prep.readers import READERS
from snnbench.data_prep.recipe import load_recipe, recipe_names
from snnbench.data_prep.sources import (
    NO_GROUPS,
    Recording,
    free_spoken_digits,
    read_list,
    speech_commands,
    spoken_digits,
)
from snnbench.errors import SnnbenchError
from tests.tiny_data import digit_name

HD, FSDD, GSC, OWN = map(load_recipe, ("hd", "fsdd", "gsc", "audio-folder"))


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


# --- Free Spoken Digits


def test_spoken_digits_of_fsdd(tmp_path: Path) -> None:
    paths = touch(tmp_path / "recordings", "7_jackson_32.wav", "0_yweweler_4.wav")
    found = free_spoken_digits(tmp_path, FSDD)
    assert found.classes[7] == "seven"
    assert found.recordings == [
        Recording(paths[1], "0_yweweler_4", 0, "yweweler", take=4),
        Recording(paths[0], "7_jackson_32", 7, "jackson", take=32),
    ]
    assert free_spoken_digits(tmp_path / "recordings", FSDD) == found
    touch(tmp_path / "recordings", "7_jackson.wav")
    with pytest.raises(SnnbenchError, match=r"does not parse; expected .* 7_jackson_32\.wav"):
        free_spoken_digits(tmp_path, FSDD)


# --- Speech Commands


def test_a_folder_per_word(tmp_path: Path) -> None:
    [zero] = touch(tmp_path / "zero", "004ae714_nohash_1.wav")
    [bed] = touch(tmp_path / "bed", "00f0204f_nohash_0.wav")
    touch(tmp_path / "_background_noise_", "dude_miaowing.wav")
    touch(tmp_path, "README.md", "validation_list.txt")
    assert speech_commands(tmp_path, GSC).recordings == [
        Recording(bed, "bed/00f0204f_nohash_0", 1, "00f0204f"),
        Recording(zero, "zero/004ae714_nohash_1", 34, "004ae714"),
    ]


def test_the_words_are_those_of_the_data_set() -> None:
    assert len(GSC.classes) == 35
    assert list(GSC.classes) == sorted(GSC.classes)
    assert sum(GSC.expected_samples.values()) == 105_829


def test_other_words_and_names_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    with pytest.raises(SnnbenchError, match="holds no folder of recordings; expected one per word"):
        speech_commands(tmp_path, GSC)
    touch(tmp_path / "bed", "00f0204f_nohash_0.wav")
    touch(tmp_path / "banana", "00f0204f_nohash_0.wav")
    with pytest.raises(SnnbenchError, match="banana: is none of the 35 words"):
        speech_commands(tmp_path, GSC)
    (tmp_path / "banana").rename(tmp_path / "cat")
    touch(tmp_path / "cat", "00f0204f.wav")
    with pytest.raises(SnnbenchError, match=r"00f0204f\.wav: the name does not parse"):
        speech_commands(tmp_path, GSC)
    with pytest.raises(SnnbenchError, match="none: no such source folder"):
        speech_commands(tmp_path / "none", GSC)


# --- a folder of one's own


def test_subfolders_are_classes(tmp_path: Path) -> None:
    [b] = touch(tmp_path / "yes", "b.WAV")
    touch(tmp_path / "no/anna", "1.flac")
    [a] = touch(tmp_path / "no", "a.wav")
    touch(tmp_path / ".git", "x.wav")
    touch(tmp_path / "no", "._a.wav")  # macOS leaves such files beside every copied one
    touch(tmp_path, "._beside.wav")
    touch(tmp_path / "no", "notes.txt")
    found = labelled_audio(tmp_path, OWN)
    assert found.classes == ("no", "yes")
    assert found.recordings == [
        Recording(a, "no/a.wav", 0, NO_GROUPS),
        Recording(tmp_path / "no/anna/1.flac", "no/anna/1.flac", 0, NO_GROUPS),
        Recording(b, "yes/b.WAV", 1, NO_GROUPS),
    ]


def test_a_folder_that_does_not_work_out(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(SnnbenchError, match=message):
            labelled_audio(tmp_path, OWN)

    refused(
        "number of classes is 0, at least two are needed; make a subfolder per class, or a table"
    )
    touch(tmp_path / "yes", "b.wav")
    refused("number of classes is 1, at least two")
    (tmp_path / "no").mkdir()
    refused("no: a class without recordings")
    touch(tmp_path / "no", "b.m4a")
    refused(r"b\.m4a: cannot be read; convert it")
    (tmp_path / "no/b.m4a").rename(tmp_path / "no/b.wav")
    touch(tmp_path, "beside.wav")
    refused(r"beside\.wav: lies in no class's subfolder")


def test_a_link_to_nothing_is_no_recording_less(tmp_path: Path) -> None:
    touch(tmp_path / "yes", "a.wav")
    touch(tmp_path / "no", "a.wav")
    (tmp_path / "no/gone.wav").symlink_to(tmp_path / "nowhere.wav")
    found = labelled_audio(tmp_path, OWN).recordings
    assert [r.source_id for r in found] == ["no/a.wav", "no/gone.wav", "yes/a.wav"]


def test_a_name_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "yes", "a.wav")
    touch(tmp_path / "no", os.fsdecode(b"j\xe4.wav"))
    with pytest.raises(SnnbenchError, match="the name is not UTF-8"):
        labelled_audio(tmp_path, OWN)


def test_classes_of_the_recipe_are_those_of_the_folder(tmp_path: Path) -> None:
    touch(tmp_path / "yes", "a.wav")
    touch(tmp_path / "no", "a.wav")
    found = labelled_audio(tmp_path, OWN.model_copy(update={"classes": ("yes", "no", "up")}))
    assert found.classes == ("yes", "no", "up")
    assert [(r.source_id, r.label) for r in found.recordings] == [("no/a.wav", 1), ("yes/a.wav", 0)]
    with pytest.raises(SnnbenchError, match=r"yes/a\.wav: its class 'yes' is none of .*: no, up"):
        labelled_audio(tmp_path, OWN.model_copy(update={"classes": ("no", "up")}))


def write_table(folder: Path, text: str) -> Path:
    touch(folder / "sounds", "a.wav", "b.wav", "c.wav")
    path = folder / "labels.csv"
    path.write_text(text, "utf-8")
    return path


def test_a_table_says_label_group_and_split(tmp_path: Path) -> None:
    write_table(
        tmp_path,
        "\ufeffpath, label ,group,split\r\n"
        'sounds/b.wav,"yes, please",Ädna,test\r\n'
        "sounds/./a.wav,no,bo,train\r\n",
    )
    found = labelled_audio(tmp_path, OWN)
    assert found.classes == ("no", "yes, please")
    sounds = tmp_path / "sounds"
    assert found.recordings == [
        Recording(sounds / "b.wav", "sounds/b.wav", 1, "Ädna", "test"),
        Recording(sounds / "a.wav", "sounds/a.wav", 0, "bo", "train"),
    ]
    write_table(tmp_path, "label,path\nyes,sounds/a.wav\nno,sounds/b.wav\n")
    plain = labelled_audio(tmp_path, OWN).recordings
    assert {(r.group, r.split) for r in plain} == {(NO_GROUPS, "")}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "line 1: no column 'path' among none"),
        ("path,class\n", "line 1: no column 'label' among path, class; needed are path, label"),
        ("path,label,age\n", "line 1: unknown column 'age'; known are path, label, group, split"),
        ("path,label,label\n", "line 1: column 'label' is there twice"),
        ("path,label\nsounds/a.wav,\n", "line 2: the label of 'sounds/a.wav' is empty"),
        ("path,label\nsounds/a.wav,x\nsounds/d.wav,y\n", r"line 3: .*sounds/d\.wav: no such"),
        ("path,label\n,x\n", "line 2: the path is empty"),
        ("path,label\n../a.wav,x\n", r"line 2: '\.\./a\.wav' leads out of .*; name a file below"),
        ("path,label\n/a.wav,x\n", "line 2: '/a.wav' leads out of .*; name a file below it"),
        ("path;label\nsounds/a.wav;x\n", "line 1: cells are not separated by commas"),
        ("path\tlabel\nsounds/a.wav\tx\n", "line 1: cells are not separated by commas"),
        ("path,label\nsounds/a.wav,x\nsounds/a.wav,y\n", "line 3: sounds/a.wav is in line 2"),
        ("path,label\nsounds/a.wav\n", "line 2: not 2 cells"),
        ("path,label\nsounds/a.wav,x,y\n", "line 2: not 2 cells"),
        ("path,label,split\nsounds/a.wav,x,dev\n", "line 2: split 'dev' is none of train, valid"),
        (
            "path,label,group\nsounds/a.wav,x,bo\nsounds/b.wav,y,\n",
            "line 3: group is filled in some rows and not in others",
        ),
        ('path,label\nsounds/a.wav,"x\n', "cannot be read as a table"),
    ],
)
def test_a_table_that_does_not_work_out_names_the_line(
    tmp_path: Path, table: str, message: str
) -> None:
    path = write_table(tmp_path, table)
    with pytest.raises(SnnbenchError, match=message) as caught:
        labelled_audio(tmp_path, OWN)
    assert str(caught.value).startswith(str(path))


def test_a_table_of_another_encoding(tmp_path: Path) -> None:
    write_table(tmp_path, "").write_bytes("path,label\nsounds/a.wav,schön\n".encode("latin-1"))
    with pytest.raises(SnnbenchError, match=r"labels\.csv: is not UTF-8; save it as UTF-8"):
        labelled_audio(tmp_path, OWN)
