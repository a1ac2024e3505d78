"""The strict parameter check: nothing but a typed, finite, allowed value comes through, and a refusal is one line."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsync_lib.door.cells import declared_parameters
from specsync_lib.door.parameters import LANGUAGES, PARAMETERS, PROFILES, RULES, Range, check, parse_arguments
from specsync_lib.errors import InputError
from specsync_lib.paths import NOTEBOOKS_DIR, PROJECT_ROOT
from specsync_lib.rows import DECODERS

NUMERIC = [parameter for parameter in PARAMETERS.values() if parameter.type is not str]
NOTEBOOKS = sorted(NOTEBOOKS_DIR.glob("0*.ipynb"))
UNUSABLE = [
    "",
    " ",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1e999",
    "-1e999",
    "1_0",
    "0x1",
    "1,5",
    "one",
    "None",
    "True",
    "--",
    "0 ",
]


@pytest.mark.parametrize("parameter", NUMERIC, ids=lambda parameter: parameter.name)
@pytest.mark.parametrize("text", UNUSABLE)
def test_a_number_that_is_none_is_refused(parameter, text):
    with pytest.raises(InputError) as refusal:
        check([f"{parameter.name}={text}"])
    message = str(refusal.value)
    assert message.startswith(f"parameter {parameter.name}: got {text!r}; allowed: ")
    assert "\n" not in message


@pytest.mark.parametrize("parameter", NUMERIC, ids=lambda parameter: parameter.name)
@given(text=st.text() | st.floats().map(repr) | st.integers().map(str))
def test_whatever_is_written_a_value_is_in_range_or_refused(parameter, text):
    try:
        values, given_names = check([f"{parameter.name}={text}"])
    except InputError as refusal:
        assert len(str(refusal).splitlines()) == 1
        return
    value = values[parameter.name]
    assert type(value) is parameter.type
    assert math.isfinite(value)
    assert parameter.allowed.low <= value <= parameter.allowed.high
    assert value == pytest.approx(float(text))
    assert given_names == {parameter.name}


@given(assignments=st.lists(st.text(), max_size=4), profile=st.none() | st.text())
def test_garbage_is_one_line_or_nothing(assignments, profile):
    try:
        values, _ = check(assignments, profile)
    except InputError as refusal:
        assert len(str(refusal).splitlines()) == 1
    else:
        assert set(values) == set(PARAMETERS)


@pytest.mark.parametrize("parameter", NUMERIC, ids=lambda parameter: parameter.name)
def test_the_ends_of_a_range_are_allowed_and_what_lies_past_them_is_not(parameter):
    assert isinstance(parameter.allowed, Range)
    for end, step in ((parameter.allowed.low, -1), (parameter.allowed.high, 1)):
        assert check([f"{parameter.name}={end}"])[0][parameter.name] == end
        with pytest.raises(InputError):
            check([f"{parameter.name}={end + step}"])


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        (["thresold=0.9"], "did you mean threshold?"),
        (["Threshold=0.9"], "is unknown"),
        (["=0.9"], "parameter '' is unknown"),
        (["threshold"], "write it as name=value"),
        (["threshold=0.9", "threshold=0.9"], "given twice"),
        (["threshold=1.5"], "got '1.5'; allowed: a number from 0 to 1"),
        (["seed=1.0"], "allowed: a whole number from 0 to 4294967295"),
        (["seed=-1"], "got '-1'"),
        (["seed=" + "9" * 5000], "got '999"),
        (["profile=fast"], "allowed: one of smoke, default, full"),
        (["audio="], "got ''; allowed: the path of a sound or video file"),
        (["audio=a\nb.wav"], r"got 'a\nb.wav'"),
        (["audio=caf\udce9.wav"], "it is not UTF-8, rename or recode it"),
        (["transcript=a\u2028b"], r"got 'a\u2028b'"),
        (["transcript=   "], "parameter transcript: got '   '"),
        (["transcript=a", "transcript_file=a.txt"], "both are given; give the words once"),
        (["rule=exat"], "did you mean exact? allowed: one of exact, mouth, lenient, gate, draft, judge"),
        (["language=German"], "allowed: auto, or a code that Whisper knows, such as en, de, ja"),
        (["language=EN"], "got 'EN'"),
        (["device=gpu"], "allowed: one of auto, cpu, cuda"),
        (["start_s=-1"], "got '-1'"),
        (["duration_s=3601"], "got '3601'"),
    ],
)
def test_a_refusal_names_the_parameter_and_what_is_allowed(assignments, says):
    with pytest.raises(InputError) as refusal:
        check(assignments)
    assert says in str(refusal.value)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["x"], ["-p"], ["--fres"], ["--profile"], ["--profile", "fast"], ["--profile", "full", "-p", "profile=full"],
        ["-p", "--"], ["seed=\x7f\n\x1c"], ["--\x1b[2J\ud800"], ["--" + "y" * 9_000],
    ],
)  # fmt: skip
def test_a_bad_command_line_is_one_line_that_a_terminal_can_show(arguments):
    with pytest.raises(InputError) as refusal:
        parse_arguments(arguments)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    "text", ["9.41.00\u202fAM.mov", "hello\u00a0world", "hi\u200bthere", "yes \U0001f469\u200d\U0001f4bb"]
)
def test_spaces_and_joiners_of_names_and_words_are_taken(text):
    assert parse_arguments(["-p", f"transcript={text}"]).values["transcript"] == text


def test_values_keep_equals_signs_spaces_and_quotes():
    text = """it's = "so"; $HOME -x"""
    assert parse_arguments(["-p", f"transcript={text}"]).values["transcript"] == text


def test_a_profile_moves_defaults_and_not_what_was_given():
    assert parse_arguments([]).values["profile"] == "default"
    for profile in PROFILES:
        values = parse_arguments(["--profile", profile, "-p", "threshold=0.5", "-p", "rule=gate"]).values
        assert values["profile"] == profile
        assert values["threshold"] == 0.5
        expected = {name: one.profiles.get(profile, one.default) for name, one in PARAMETERS.items()}
        assert {name: values[name] for name in values if name not in ("profile", "threshold", "rule")} == {
            name: value for name, value in expected.items() if name not in ("profile", "threshold", "rule")
        }


def test_every_default_is_itself_allowed():
    for parameter in PARAMETERS.values():
        for value in (parameter.default, *parameter.profiles.values()):
            assert type(value) is parameter.type
            if value != "":
                assert parameter.parse(str(value)) == value
        assert set(parameter.profiles) <= set(PROFILES)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_declares_known_parameters_with_their_own_defaults(notebook):
    declared = declared_parameters(notebook)
    assert declared
    known = {name: PARAMETERS[name].default for name in declared if name in PARAMETERS}
    assert declared == known
    assert {name: type(value) for name, value in declared.items()} == {name: PARAMETERS[name].type for name in declared}


ODD_NAMES = [
    "..", ".", "../up", "a/b", "a\\b", "/etc", ".hidden", "-y", "a.", "con", "LPT1", "a b", "é", "$(x)", "a\n", "_",
    "a" * 65,
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_is_no_plain_folder_is_refused(name):
    with pytest.raises(InputError, match="parameter name: got "):
        check([f"name={name}"])


@given(name=st.text(min_size=1, max_size=70))
def test_whatever_the_name_its_folder_lies_in_runs(name):
    try:
        values, _ = check([f"name={name}"])
    except InputError:
        return
    folder = PROJECT_ROOT / "plots" / "runs" / values["name"]
    assert folder.parent == PROJECT_ROOT / "plots" / "runs"
    assert folder.resolve().parent.name == "runs"


def test_the_languages_are_those_of_whisper_base():
    from whisper.tokenizer import LANGUAGES as WHISPERS

    assert ("auto", *list(WHISPERS)[:99]) == LANGUAGES  # the last one came with large-v3


@pytest.mark.parametrize(
    ("arguments", "rule", "note"),
    [
        ([], "exact", None),
        (["threshold=0.6"], "gate", "threshold=0.6 selects rule=gate"),
        (["threshold=0.6", "rule=gate"], "gate", None),
        *(
            (["threshold=0.6", f"rule={rule}"], rule, f"does nothing in rule={rule}")
            for rule in RULES
            if rule != "gate"
        ),
        *(([f"rule={rule}"], rule, None) for rule in RULES),
    ],
)
def test_a_threshold_acts_in_gate_alone_and_says_so(arguments, rule, note):
    options = parse_arguments([word for assignment in arguments for word in ("-p", assignment)])
    assert options.values["rule"] == rule
    assert options.values["threshold"] == (0.6 if rule == "gate" and arguments[0] != "rule=gate" else 0.85)
    assert len(options.notes) == (note is not None)
    assert all(note in line and "\n" not in line for line in options.notes)


def test_the_rules_are_those_that_the_judge_knows():
    """The door reads nothing but the standard library; tests/judge/test_rules.py holds the judge to the same names."""
    assert RULES == ("exact", "mouth", "lenient", "gate", "draft", "judge")


def test_chunks_are_those_of_the_time_base():
    from specsync_lib import units

    assert PARAMETERS["chunk_slots"].default == units.CHUNK.slots
    assert [check([f"chunk_slots={slots}"])[0]["chunk_slots"] for slots in units.CHUNK_SLOTS] == [1, 2, 3]
    for text in ("0", "4", "1.5", "two"):
        with pytest.raises(InputError, match="chunk_slots") as refusal:
            check([f"chunk_slots={text}"])
        assert "\n" not in str(refusal.value)


def test_the_decoders_are_those_that_the_face_knows():
    from specsync_lib.face.decoders import rows

    assert DECODERS == rows.ROWS
    assert PARAMETERS["decoder"].default == rows.DEFAULT


def test_the_help_names_every_folder_variable_the_usual_profile_and_whose_language_counts(capsys):
    with pytest.raises(SystemExit) as left:
        parse_arguments(["--help"])
    shown = capsys.readouterr().out
    words = " ".join(shown.split())
    assert left.value.code == 0
    assert f"one of {', '.join(PROFILES)}; {PARAMETERS['profile'].default} where none is given" in words
    assert "a row's language counts before auto" in words
    listed = set(re.findall(r"^  (SPECSYNC_\w+)", shown, re.MULTILINE))
    read = re.findall(r"SPECSYNC_\w+_DIR", (PROJECT_ROOT / "specsync_lib" / "paths.py").read_text(encoding="utf-8"))
    assert set(read) == {"SPECSYNC_RUN_DIR", "SPECSYNC_PLOTS_DIR"} < listed


def test_what_loads_the_system_takes_what_says_which():
    """Notebooks 03 and 04: another device, seed or decoder runs them again, and reaches the models."""
    loading = [notebook for notebook in NOTEBOOKS if "load_system" in notebook.read_text(encoding="utf-8")]
    assert [notebook.name[:2] for notebook in loading[:2]] == ["03", "04"]
    for notebook in loading:
        assert {"device", "row", "decoder", "seed"} <= declared_parameters(notebook).keys()


def test_the_threshold_does_not_reach_what_only_listens():
    """Notebooks 01 and 02 must not run again for another rule, threshold or decoder."""
    for notebook in NOTEBOOKS[:2]:
        assert not {"rule", "threshold", "decoder", "chunk_slots", "name"} & declared_parameters(notebook).keys()
