"""The doctor: a row of one's own parts that can run, and each thing that may be missing told apart."""

from pathlib import Path

import pytest

from specsync_lib.errors import InputError
from specsync_lib.jobs import arguments, doctor
from tests.toys.generation import write_wan
from tests.toys.own_parts import fit_basis, write_parts, write_row
from tests.toys.servers import ToyServer, nobody_listening, serving


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.mark.parametrize("kind", ["sglang", "vllm", "openai"])
def test_a_row_of_ones_own_parts_can_run(kind, parts, capsys):
    """A tiny Wan in two shards, another Whisper, and a judge behind each server: looked at, loaded, and one chunk."""
    with serving(ToyServer()) as url:
        code = doctor.main(["--row", write_row(parts, kind, url), "-p", f"corpus={parts / 'corpus.jsonl'}"])
    said = capsys.readouterr()
    assert code == 0 and said.out.endswith("the row can run\n"), said
    shown = ("3 recordings, 3 speakers; 3 test", "sha256", "128 mels, width 32, 3 layers", "16 channels in",
             "as it writes", "real-shape", "decode")  # fmt: skip
    for words in shown:
        assert words in " ".join(said.out.split()), words


def test_basis_and_adapter_of_the_checkpoint_itself_are_found_to_fit_and_others_told_apart(parts, tmp_path, capsys):
    with serving(ToyServer()) as url:
        own = fit_basis(parts)
        code = doctor.main(["--row", write_row(parts, "sglang", url, **own)])
        said = capsys.readouterr()
        assert code == 0, said
        for words in ("6 directions, 32 px", "fitted on it, for 32 px", "fits the transformer", "decode"):
            assert words in " ".join(said.out.split()), words
        write_wan(tmp_path / "wan", seed=1)
        other = {"video.source": str(tmp_path / "wan")}
        row = arguments.parse("doctor", ["--row", write_row(parts, "sglang", url, **own | other)]).row
        missing = {(one.key, one.found) for one in doctor.examine(row, "cpu") if not one.good}
    assert {key for key, _ in missing} == {"draft.basis", "video.adapter"}, missing
    assert any("another VAE" in found for _, found in missing)
    assert any("beside another transformer" in found for _, found in missing)


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"video.source": "./nothing"}, "video.source", "is not there"),
        ({"hearing.whisper": "./tiny"}, "hearing.whisper", "absent"),
        ({"hearing.probe": "teacher"}, "hearing.probe", "this Whisper's encoder has 1 to 3"),
        ({"judge.source": "nobody/no-model"}, "judge.tokenizer", "is not on this machine; fetch it first"),
        ({"judge.adapter": "./tiny"}, "judge.adapter", "reasoner.json"),
        ({"draft.basis": "latent_basis"}, "draft.basis", "made for 32x32 latents"),
        ({"draft.front": "./tiny/none.safetensors"}, "draft.front", "no such file"),
        ({"video.adapter": "./tiny"}, "video.adapter", "adapter.json: absent"),
        ({"video.device": "cuda:99"}, "video.source", "cuda:99"),
    ],
)
def test_what_is_missing_is_told_apart(changes, key, says, parts):
    with serving(ToyServer()) as url:
        row = arguments.parse("doctor", ["--row", write_row(parts, "sglang", url, **changes)]).row
        findings = list(doctor.examine(row, "cpu"))
    missing = {one.key: one.found for one in findings if not one.good}
    assert says in missing[key], missing
    assert all("\n" not in found for found in missing.values())
    assert any(one.good for one in findings)


def test_a_server_that_is_down_or_cannot_score_is_missing(parts, capsys):
    toy = ToyServer()
    with serving(toy) as url:
        toy.knows_tokens = False
        row = arguments.parse("doctor", ["--row", write_row(parts, "vllm", url)]).row
        (found,) = [one.found for one in doctor.examine(row, "cpu") if not one.good]
        assert "letters are missing" in found
    with nobody_listening() as gone:
        assert doctor.main(["--row", write_row(parts, "vllm", gone), "--dry-chunk", "no"]) == InputError.EXIT_CODE
    said = capsys.readouterr()
    assert "does a server listen there" in said.err and said.err.count("\n") == 1 and "missing" in said.out


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--row", "nothing"], "row 'nothing' is unknown"),
        (["--rows", "full"], "unrecognized arguments: --rows full"),
        (["-p", "judge.kind"], "write it as part.key=value"),
        (["-p", "judge.kind=x"], "judge.kind: got 'x'"),
        (["-p", "language=de", "-p", "language=en"], "given twice"),
        (["--"], "'--' alone is not taken"),
    ],
)
def test_a_wrong_command_line_is_one_line(given, says, capsys):
    for call in (lambda: doctor.main(given), lambda: arguments.main(["doctor", *given])):
        assert call() == InputError.EXIT_CODE
        line = capsys.readouterr().err
        assert says in line and line.count("\n") == 1


def test_an_unknown_job_is_one_line(capsys):
    assert arguments.main(["docter"]) == InputError.EXIT_CODE
    assert "did you mean doctor?" in capsys.readouterr().err
