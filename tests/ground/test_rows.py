"""Rows: what comes through is typed and allowed, and whatever is wrong is one line and exit code 2."""

import json
import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsync_lib import rows
from specsync_lib.door import parameters
from specsync_lib.errors import InputError
from specsync_lib.paths import MODELS_DIR, ROWS_DIR
from tests.toys.broken_rows import BROKEN

SHIPPED = ("embedded", "full", "remote-judge")


def test_the_rows_in_the_repository_are_sound_and_the_first_is_the_default():
    assert rows.known_rows() == list(SHIPPED)
    for name in SHIPPED:
        row = rows.read(name)
        assert row.name == name and rows.read(row.text()) == row
    assert rows.read("embedded") == rows.Row() and rows.Row().text() == "embedded" and not rows.Row().differences()


def test_the_default_row_shows_every_key_with_its_value():
    tree = tomllib.loads((ROWS_DIR / "embedded.toml").read_text("utf-8"))
    shown = {f"{part}.{key}" for part, keys in tree.items() if isinstance(keys, dict) for key in keys} | {*rows.LONE}
    of_a_server = {"judge.url", "judge.served_model", "judge.key_variable"}
    assert rows.keys().keys() - shown == of_a_server | {"video.decoder_file"}


def write(folder, text: str | bytes):
    path = folder / "row.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_file_names_only_what_differs_and_its_paths_lie_beside_it(tmp_path):
    (tmp_path / "wan").mkdir()
    path = write(tmp_path, '[video]\nsource = "./wan"\nweights = "random"\nsteps = 4\nnoise_level = 1\n')
    row = rows.read(path)
    assert row.video == replace(rows.Video(), source=str(tmp_path / "wan"), weights="random", steps=4, noise_level=1.0)
    assert row.judge == rows.Judge() and row.paths() == {"video.source": tmp_path / "wan"}
    assert row.name == "row" and "video.steps=4" in row.differences() and len(row.differences()) == 4
    assert rows.read(row.text()) == row


def test_single_values_are_put_over_a_row_and_their_paths_start_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter").mkdir()
    row = rows.read("embedded", {"judge.adapter": "./adapter", "video.steps": "3", "language": "de"})
    assert (row.judge.adapter, row.video.steps, row.language) == (str(tmp_path / "adapter"), 3, "de")


def test_a_checkpoint_of_ones_own_is_decoded_by_its_own_vae():
    assert rows.Video().decoded_by == "tiny" and rows.Video(decoder="light").decoded_by == "light"
    assert rows.Video(source="some/wan").decoded_by == rows.Video(source=rows.WAN_MINI_SHAPE).decoded_by == "wan"


def test_a_label_follows_from_where_the_weights_came_from():
    assert rows.Judge().label == rows.Video().label == "measured"
    assert rows.Video(source=rows.WAN_MINI_SHAPE).label == "real-shape"
    assert rows.Judge(source="some/model", weights="random").label == "real-shape"


@pytest.mark.parametrize(
    ("change", "source", "holds"),
    [
        ({}, "data/measurements/referee.json", True),
        ({"judge.temperature": "2"}, "data/measurements/referee.json", False),
        ({"judge.temperature": "2"}, "data/models/draft_front/metrics.json", True),
        ({"judge.temperature": "2"}, "data/measurements/kernel_project_latents_h200.json", True),
        ({"judge.temperature": "2"}, "data/run/acceptance_frames.csv", True),
        ({"judge.temperature": "2"}, "data/measurements/embedded/referee.json", True),
        ({"judge.temperature": "2"}, "data/measurements/another/referee.json", False),
        ({"video.steps": "3"}, "data/models/wan_mini/metrics.json", False),
        ({"video.steps": "3"}, "data/models/reasoner/metrics.json", True),
        ({"video.steps": "3"}, MODELS_DIR / "latent_basis" / "metrics.json", False),
        ({"language": "de"}, "data/measurements/pipeline_cpu.json", True),
        ({"corpus": str(ROWS_DIR.parent / "other.jsonl")}, "data/measurements/referee.json", False),
    ],
)
def test_committed_numbers_hold_for_the_models_that_they_rest_on(change, source, holds):
    row = rows.read("embedded", change, present=False)
    assert row.holds(source) == holds
    assert bool(row.held({"key": {"source": str(source)}})) == holds


def test_what_was_measured_of_a_row_is_its_own_until_anything_of_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MEASUREMENTS_DIR", tmp_path / "measurements")
    (tmp_path / "wan").write_bytes(b"1")
    row = replace(rows.read(write(tmp_path, '[video]\nsource = "./wan"\nweights = "random"')), name="mine")
    assert row.own_results() is None
    (tmp_path / "measurements" / "mine").mkdir(parents=True)
    (tmp_path / "measurements" / "mine" / "row.json").write_text(json.dumps(row.identity()))
    assert row.own_results() == rows.read(row.text()).own_results() == tmp_path / "measurements" / "mine"
    assert replace(row, language="de").own_results() is None and rows.Row().own_results() is None
    (tmp_path / "wan").write_bytes(b"2")
    assert row.own_results() is None


def test_what_lies_behind_a_path_has_a_digest_that_changes_with_it(tmp_path):
    (tmp_path / "wan").mkdir()
    (tmp_path / "wan" / "a").write_bytes(b"1")
    row = rows.read(write(tmp_path, '[video]\nsource = "./wan"\nweights = "random"'))
    before = row.digests()
    (tmp_path / "wan" / "a").write_bytes(b"2")
    assert before.keys() == {"video.source"} and row.digests() != before


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_row_is_one_line_and_exit_code_2(what, tmp_path, capsys):
    text, says = BROKEN[what]
    path = write(tmp_path, text)
    assert parameters.main(["--row", str(path)]) == InputError.EXIT_CODE
    line = capsys.readouterr().err
    assert says in line and line.count("\n") == 1 and line.startswith("specsync: row ")
    assert len(line) < 500 and line[:-1].isprintable()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--row", "embeded"], "row 'embeded' is unknown; did you mean embedded?"),
        (["--row", "no/such/row.toml"], "there is no such file"),
        (["--row", "~nobody-of-that-name/row.toml"], "there is no such file"),
        (["--corpus", "~nobody-of-that-name/c.jsonl"], "c.jsonl is not there"),
        (["--row", "."], "is unknown"),
        (["--row", "/"], "is no file"),
        (["--row", ""], "parameter row: got ''"),
        (["--corpus", "none.jsonl"], "none.jsonl is not there"),
        (["--corpus", __file__], "allowed: prompts, or the path of a corpus.jsonl"),
        (["--row", "full", "--row", "full"], "parameter row: given twice"),
        (["--row", "a\0b/c.toml"], "parameter row: got"),
        (["--row", '{"judge": 3}'], "write [judge]"),
        (["--row", "{"], "is no TOML"),
        (["-p", "judge.knd=local"], "did you mean judge.kind?"),
        (["-p", "judge.kind="], "judge.kind: got ''"),
        (["-p", "judge.kind=vllm"], "no judge.url is given"),
        (["-p", "video.steps=2", "-p", "video.steps=2"], "parameter video.steps: given twice"),
        (["-p", "video.steps=two"], "video.steps: got 'two'; allowed: a whole number from 1 to 50"),
    ],
)
def test_a_broken_command_line_is_one_line_too(arguments, says, capsys):
    assert parameters.main(arguments) == InputError.EXIT_CODE
    line = capsys.readouterr().err
    assert says in line and line.count("\n") == 1


def test_the_runs_own_language_counts_before_the_rows(tmp_path):
    path = str(write(tmp_path, 'language = "de"'))
    assert parameters.parse_arguments(["--row", path]).values["language"] == "de"
    assert parameters.parse_arguments(["--row", path, "-p", "language=fr"]).values["language"] == "fr"


PLAIN = st.text(max_size=20) | st.integers() | st.floats() | st.booleans() | st.none()


@given(
    st.dictionaries(
        st.sampled_from([*rows.PARTS, *rows.LONE, "name"]) | st.text(max_size=8),
        PLAIN
        | st.dictionaries(st.sampled_from([key.partition(".")[2] for key in sorted(rows.keys())]), PLAIN, max_size=3),
        max_size=4,
    )
)
def test_whatever_is_written_is_a_row_or_one_line(tree):
    try:
        row = rows.read(json.dumps(tree), present=False)
    except InputError as refusal:
        assert len(str(refusal).splitlines()) == 1
        return
    assert rows.read(row.text(), present=False) == row
    assert all(rows.keys()[key].check(value) == value for key, value in rows._values(row).items())


@given(st.text(max_size=80))
def test_any_text_is_a_row_or_one_line(text):
    try:
        rows.read(text)
    except InputError as refusal:
        assert len(str(refusal).splitlines()) == 1 and str(refusal).isprintable()
