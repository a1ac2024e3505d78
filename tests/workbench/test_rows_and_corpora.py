"""Another row and another corpus on the workbench's commands: results lie apart, sides are whole speakers'."""

import json

import numpy as np
import pandas as pd
import pytest

from specsync_lib import rows
from specsync_lib.door import inputs
from specsync_lib.errors import InputError
from specsync_lib.judge import recordings
from specsync_lib.measures import referee as numbers
from specsync_lib.measures.intervals import drawn_unit
from specsync_lib.paths import MEASUREMENTS_DIR, MODELS_DIR, PROJECT_ROOT
from specsync_lib.speech.corpus import Prompt, clips
from specsync_lib.speech.manifest import read_manifest
from tests.jobs.test_sweep import KILLED
from tests.toys.reasoner import byte_tokenizer, tiny_llama
from tests.workbench.test_referee import toy_recording
from workbench import asked
from workbench.measure import late_lips, pipeline_cpu, referee, rows_cpu, sweep_cpu
from workbench.train import human_speech, splits
from workbench.train.kokoro import load_shard


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A tiny judge, and a corpus: three speakers, one of them for validation."""
    folder = tmp_path_factory.mktemp("parts")
    byte_tokenizer().save_pretrained(folder / "tiny")
    tiny_llama().save_pretrained(folder / "tiny")
    (folder / "mine.toml").write_text('[judge]\nsource = "./tiny"\nadapter = "none"\nweights = "random"\n')
    lines = []
    for number in range(3):
        (folder / f"{number}.wav").write_bytes(b"")
        lines.append({"id": f"talk {number}", "audio": f"{number}.wav", "speaker": f"{number}", "text": "please hold"})
    lines[0]["split"] = "validation"
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


class ToyHead:
    """A gap between the lips without a mesh."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def lip_aperture(self, units: np.ndarray) -> float:
        return float(units.sum())

    def close(self) -> None:
        pass


@pytest.fixture
def measurements(tmp_path, monkeypatch):
    for module in (asked, rows):
        monkeypatch.setattr(module, "MEASUREMENTS_DIR", tmp_path)
    return tmp_path


def test_results_of_another_row_lie_in_a_folder_of_its_own(measurements):
    assert asked.results_folder(rows.Row()) == measurements
    row = rows.Row("mine", judge=rows.Judge(temperature=2.0))
    assert asked.results_folder(row) == asked.results_folder(row) == measurements / "mine"
    assert json.loads((measurements / "mine" / "row.json").read_text())["row"]["judge"]["temperature"] == 2.0
    before = inputs.measured_of(row)
    (measurements / "mine" / "referee.json").write_text("{}")
    assert before.keys() == {"measured"} and inputs.measured_of(row) != before, "its notebooks run again"
    assert inputs.measured_of(rows.Row()) == inputs.measured_of(rows.Row("mine")) == {}
    with pytest.raises(InputError, match="holds results of another row mine"):
        asked.results_folder(rows.Row("mine", judge=rows.Judge(temperature=3.0)))
    for name in ("embedded", "..", "a b"):
        with pytest.raises(InputError, match="write the row to NAME"):
            asked.results_folder(rows.Row(name, judge=rows.Judge(temperature=2.0)))


def test_the_referee_of_a_row_leaves_the_committed_files_alone(parts, measurements, monkeypatch):
    """A tiny judge, three speakers: every number is the row's and real-shape, drawn by speaker."""
    monkeypatch.setattr(referee.paths, "RUN_DIR", measurements / "run")
    committed = {path: path.stat().st_mtime_ns for root in (MEASUREMENTS_DIR, MODELS_DIR) for path in root.rglob("*")}
    folder = measurements / "mine"
    folder.mkdir()
    heard = [(one.id, "", 0.0, 0.0, 0.0) for one in read_manifest(parts / "corpus.jsonl")]
    columns = ["utterance", "text", "start_s", "end_s", "probability"]
    pd.DataFrame(heard, columns=columns).to_csv(folder / "heard_words.csv", index=False)  # Whisper is not asked again
    said = {one.split: [] for one in read_manifest(parts / "corpus.jsonl")}
    for one in read_manifest(parts / "corpus.jsonl"):
        said[one.split].append(Prompt(one.id, one.text, one.audio, one.split, one.speaker))
    monkeypatch.setattr(referee, "prompts_of", lambda corpus, split: said[split])
    monkeypatch.setattr(referee, "gather", lambda prompts, *_: [toy_recording(one.name, 26, 0) for one in prompts])
    simple = {"majority": "sil", "energy_rule": "aa"}
    monkeypatch.setattr(numbers, "with_simple_rules", lambda frames, corpus: frames.assign(**simple))
    monkeypatch.setattr(late_lips, "Head", ToyHead)
    given = ["--row", str(parts / "mine.toml"), "--corpus", str(parts / "corpus.jsonl")]
    assert referee.main([*given, "--quick"]) == 0
    facts = json.loads((folder / "referee.json").read_text())
    assert "in this process" in facts["judging"]["own"]["engine"] and facts["digests"].keys() >= {"judge.source"}
    assert facts["resampling_unit"] == "speaker" and set(facts["speakers"]) == {"own"}
    assert {row["label"] for row in facts["table"]} == {facts["provenance"]["label"]} == {"real-shape"}
    frames = pd.read_csv(folder / "judged_frames.csv.gz")
    assert drawn_unit(frames) == "talker" and frames["talker"].nunique() == 3
    assert {"heard_words.csv", "acceptance_policy.json", "viseme_changes.json"} <= {p.name for p in folder.iterdir()}
    assert late_lips.main(given) == 0
    assert json.loads((folder / "late_lips.json").read_text())["resampling_unit"] == "speaker"
    assert {path: path.stat().st_mtime_ns for path in committed} == committed
    recorded = {}
    monkeypatch.setattr(numbers, "record", lambda key, *entry, **more: recorded.update({key: entry}))
    numbers.record_row(rows.read(parts / "mine.toml"))
    assert not recorded, "of the same models on another corpus"
    row = rows.read(parts / "mine.toml", {"corpus": str(parts / "corpus.jsonl")})
    numbers.record_row(row)
    assert {"reasoner.accuracy", "acceptance.ece", "acceptance.whole_chunks"} <= recorded.keys()
    assert {entry[2] for entry in recorded.values()} == {"real-shape"}
    assert {entry[3].name for entry in recorded.values()} <= {"referee.json", "late_lips.json"}


@pytest.mark.parametrize(
    ("main", "given", "says"),
    [
        (referee.main, ["--row", "nothing"], "row 'nothing' is unknown"),
        (referee.main, ["--corpus", "none.jsonl"], "none.jsonl is not there"),
        (referee.main, ["-p", "judge.temperature=2", "--lossless", "1"], "are of the default row"),
        (
            referee.main,
            ["-p", "judge.kind=vllm", "-p", "judge.url=http://a:1", "--processes", "2"],
            "--processes: only",
        ),
        (referee.main, ["-p", "judge.temperature=2"], "write the row to NAME.toml"),
        (late_lips.main, ["--row", "full"], "no such file; run python -m workbench.measure.referee first"),
        (pipeline_cpu.main, ["-p", "video.steps=3", "--out", "MEASUREMENTS"], "is of the default row; leave it out"),
        (splits.main, ["--corpus", "none.jsonl"], "give --out"),
        (splits.main, ["--corpus", "none.jsonl", "--out", "x"], "cannot be read"),
    ],
)
def test_what_can_not_be_measured_is_one_line(main, given, says, measurements, monkeypatch, capsys):
    monkeypatch.setattr(pipeline_cpu, "MEASUREMENTS_DIR", measurements)
    given = [str(measurements / "pipeline_cpu.json") if one == "MEASUREMENTS" else one for one in given]
    assert main(given) == InputError.EXIT_CODE
    line = capsys.readouterr().err
    assert says in line and line.count("\n") == 1


def test_names_that_look_alike_have_files_of_their_own(tmp_path):
    names = ["a/b", "a--b", "digits/1", "é" * 200, "é" * 199]
    files = [recordings.kept_as(tmp_path, name) for name in names]
    assert len(set(files)) == len(names) and files[2].name == "digits--1.npz"
    assert all(len(path.name.encode()) < 255 for path in files)


def test_a_training_split_of_ones_own_becomes_shards(tmp_path):
    (clip,) = [one for one in clips() if one.name == "closures"]
    (tmp_path / "talk.flac").write_bytes(clip.path.read_bytes())
    lines = [
        {"id": "said", "audio": "talk.flac", "text": clip.transcript, "split": "train"},
        {"id": "foreign", "audio": "talk.flac", "text": "guten Tag", "language": "de", "split": "train"},
        {"id": "held out", "audio": "talk.flac", "text": clip.transcript, "split": "test"},
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert human_speech.main([str(tmp_path / "out"), "--corpus", str(tmp_path / "corpus.jsonl")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["human_own.npz", "human_own_unlabelled.npz"]
    for name, text in (("human_own", "said"), ("human_own_unlabelled", "foreign")):
        (table,) = load_shard(tmp_path / "out" / f"{name}.npz")[2]
        assert table["text"] == text


def test_what_rows_cost_is_measured_in_every_way(tmp_path, capsys):
    """A few of each; the tree before rows needs git's history."""
    out = tmp_path / "rows.json"
    rows_cpu.main(["--quick", "--before", "none", "--out", str(out)])  # on a busy machine a bound may be missed
    facts = json.loads(out.read_text())
    assert facts["start"].keys() == {"embedded", "remote-judge"} and facts["bounds"].keys() == {"start_ms", "added_ms"}
    for kind in rows_cpu.KINDS:
        measured = facts["served"][kind]
        assert 0 < measured["server_ms"]["median_ms"] < measured["served_ms"]["median_ms"]
    assert rows_cpu.main(["--quick", "--before", "no-such-commit", "--out", str(out)]) == InputError.EXIT_CODE
    line = capsys.readouterr().err.splitlines()[-1]
    assert "git has no such commit here" in line


def test_how_fast_a_sweep_is_is_measured_also_when_it_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_cpu, "SWEEP", ("-c", KILLED))
    monkeypatch.setattr(sweep_cpu, "usable_cores", lambda: 1)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    spoken = [Prompt(one.name, one.transcript, one.path, "test") for one in clips()[:2]]
    monkeypatch.setattr(sweep_cpu, "human_prompts", lambda: spoken)
    out = tmp_path / "sweep.json"
    assert sweep_cpu.main(["--recordings", "20", "--killed", "1", "--out", str(out)]) == 0
    facts = json.loads(out.read_text())
    assert facts["recordings"] == 20 and facts["unread"] == 0 and 1 <= facts["killed_at"] < 20
    assert 0 < facts["sound_s_a_second"] == pytest.approx(facts["sound_s"] / facts["wall_s"], rel=0.01)


# ---------------------------------------------------------------------------------------------------------- splits


def write_manifest(folder, texts: dict[str, str], speakers: dict[str, str] | None = None):
    rng = np.random.default_rng(0)
    lines = []
    for name, text in texts.items():
        (folder / f"{name}.wav").write_bytes(bytes(int(rng.integers(100, 900))))
        one = {"id": name, "audio": f"{name}.wav"} | ({"text": text} if text else {})
        lines.append(one | ({"speaker": speakers[name]} if speakers else {}))
    path = folder / "corpus.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_speakers_are_whole_and_training_lacks_what_is_held_out(tmp_path, capsys):
    letters = np.random.default_rng(0).integers(97, 123, (5, 3, 4, 5), np.uint8)  # four unlike words in each text
    texts = {
        f"{who}{number}": " ".join(bytes(word).decode() for word in letters["abcde".index(who), number])
        for who in "abcde" for number in range(3)
    }  # fmt: skip
    texts["a0"] = texts["e0"] = texts["b0"] = "please hold the line now"
    path = write_manifest(tmp_path, texts, {name: name[0] for name in texts})
    out = tmp_path / "made" / "split.jsonl"
    assert splits.main(["--corpus", str(path), "--out", str(out)]) == 0
    made = read_manifest(out)
    assert {one.split for one in made} == {"train", "validation", "test"}
    assert all(len({one.split for one in made if one.speaker == who}) == 1 for who in "abcde")
    held = {one.text for one in made if one.split != "train"}
    assert not any(one.text in held for one in made if one.split == "train")
    assert "near_held_out" in capsys.readouterr().out


def test_without_speakers_groups_of_like_texts_are_whole(tmp_path):
    texts = {
        "a": "you are now muted",
        "b": "you are now unmuted",
        "c": "weasels have eaten our phone",
        "d": "",
        "e": "",
    }
    out = tmp_path / "split.jsonl"
    assert splits.main(["--corpus", str(write_manifest(tmp_path, texts)), "--out", str(out)]) == 0
    sides = {one.id: one.split for one in read_manifest(out)}
    assert sides["a"] == sides["b"] and set(sides.values()) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("texts", "speakers", "says"),
    [
        ({"a": "one", "b": "two"}, {"a": "x", "b": "y"}, "2 speakers; three sides need three"),
        (dict.fromkeys("abcdef", "please hold the line now"), {name: name for name in "abcdef"}, "--keep-near keeps"),
    ],
)
def test_a_corpus_that_can_not_be_split_is_one_line(texts, speakers, says, tmp_path, capsys):
    out = tmp_path / "split.jsonl"
    assert splits.main(["--corpus", str(write_manifest(tmp_path, texts, speakers)), "--out", str(out)]) == 2
    line = capsys.readouterr().err
    assert says in line and line.count("\n") == 1 and not out.exists()


def test_what_minhash_finds_is_what_every_pair_would():
    rng = np.random.default_rng(0)
    words = [
        "please",
        "hold",
        "the",
        "line",
        "press",
        "one",
        "to",
        "call",
        "this",
        "number",
        "now",
        "you",
        "are",
        "muted",
        "unmuted",
    ]
    texts = [tuple(rng.choice(words, rng.integers(1, 9)).tolist()) for _ in range(60)]
    told = splits.Spoken(texts)
    for text in texts:
        expected = [other for other in dict.fromkeys(texts) if splits.near_duplicates(text, other)]
        assert told.near(text) == expected
