"""A corpus of one's own: whole and sound, or one line that names the place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.measures import draft
from specsync_lib.speech import corpus
from specsync_lib.speech.manifest import Utterance, read_manifest


@pytest.fixture
def folder(tmp_path):
    for name in ("a.wav", "b.wav", "c.wav"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def write(folder, *lines):
    path = folder / "corpus.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_three_speakers_are_read_in_the_order_of_their_ids(folder):
    lines = [
        {"id": "2", "audio": "b.wav", "speaker": "ben", "language": "de", "split": "train"},
        {"id": "1", "audio": "a.wav", "speaker": "ann", "text": "please hold"},
        "",
        {"id": "3", "audio": str(folder / "c.wav"), "speaker": "cat"},
    ]
    assert read_manifest(write(folder, *lines)) == [
        Utterance("1", folder / "a.wav", "ann", text="please hold"),
        Utterance("2", folder / "b.wav", "ben", "de", "train"),
        Utterance("3", folder / "c.wav", "cat"),
    ]


def test_what_has_a_truth_stands_for_the_prompts_in_the_measures(tmp_path):
    """Three speakers: words that fit, words of another language, and words that are not said."""
    (clip,) = [one for one in corpus.clips() if one.name == "closures"]
    sound = tmp_path / "talk.flac"
    sound.write_bytes(clip.path.read_bytes())
    lines = [
        {"id": "right", "audio": "talk.flac", "speaker": "ann", "text": clip.transcript, "language": "en"},
        {"id": "foreign", "audio": "talk.flac", "speaker": "ben", "text": "guten Tag", "language": "de"},
        {"id": "signs", "audio": "talk.flac", "speaker": "cat", "text": "...", "language": "en"},
        {"id": "wordless", "audio": "talk.flac", "speaker": "dan"},
    ]
    path = write(tmp_path, *lines)
    (prompt,) = draft.evaluation_prompts("test", str(path))
    assert (prompt.name, prompt.transcript, prompt.path) == ("right", clip.transcript, sound)
    with pytest.raises(InputError, match="no recording of split validation"):
        draft.evaluation_prompts("validation", str(path))
    assert draft.training_prompts(str(path)) == draft.training_prompts()


GOOD = {"id": "1", "audio": "a.wav"}
BROKEN = {
    "nothing": ([], "holds no recording"),
    "no JSON": (["{"], "line 1: is no JSON"),
    "deep": (["[" * 100_000], "line 1: is no JSON"),
    "a list": (["[]"], "line 1: expected an object"),
    "an unknown key": ([GOOD | {"speker": "x"}], "line 1: key 'speker' is unknown; did you mean speaker?"),
    "no id": ([{"audio": "a.wav"}], "line 1: has no id"),
    "no audio": ([GOOD, {"id": "2"}], "line 2: has no audio"),
    "an empty id": ([GOOD | {"id": " "}], "id: got ' '"),
    "a number": ([GOOD | {"id": 1}], "id: got 1; expected text"),
    "two lines": ([GOOD | {"text": "a\nb"}], "text: got 'a\\nb'"),
    "a long id": ([GOOD | {"id": "x" * 300}], "an id of 300 characters"),
    "an id twice": ([GOOD, GOOD | {"audio": "b.wav"}], "line 2: id '1' is already in line 1"),
    "a file that is not there": ([GOOD | {"audio": "d.wav"}], "d.wav is not there"),
    "a video that is not there": ([GOOD | {"video": "d.mp4"}], "d.mp4 is not there"),
    "a language": ([GOOD | {"language": "German"}], "language: got 'German'"),
    "a split": ([GOOD | {"split": "tests"}], "split: got 'tests'; did you mean test?"),
    "a speaker on two sides": (
        [GOOD | {"speaker": "ann"}, {"id": "2", "audio": "b.wav", "speaker": "ann", "split": "train"}],
        "speaker 'ann' is in test and in train; split by speaker",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_manifest_is_one_line(what, folder):
    lines, says = BROKEN[what]
    with pytest.raises(InputError) as refusal:
        read_manifest(write(folder, *lines))
    assert says in str(refusal.value) and len(str(refusal.value).splitlines()) == 1


def test_a_manifest_that_is_no_text_or_not_there_is_one_line(folder):
    (folder / "bytes.jsonl").write_bytes(b"\xff\xfe")
    for name, says in (("bytes.jsonl", "not text in UTF-8"), ("none.jsonl", "cannot be read"), ("", "cannot be read")):
        with pytest.raises(InputError, match=says):
            read_manifest(folder / name)


@given(st.text(max_size=60) | st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=3).map(json.dumps))
def test_any_line_is_a_recording_or_one_line_of_refusal(tmp_path_factory, line):
    path = tmp_path_factory.getbasetemp() / "corpus.jsonl"
    path.write_text(line, encoding="utf-8", errors="replace")
    try:
        read_manifest(path)
    except InputError as refusal:
        assert len(str(refusal).splitlines()) == 1
