"""What a run takes from outside the project: the transcript's file, the device, the decoder."""

import pytest

from specsync_lib.door import inputs, runner
from specsync_lib.door.inputs import read_transcript, resolved
from specsync_lib.door.parameters import parse_arguments
from specsync_lib.errors import InputError


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is not a file"),
        (b"", "holds no words"),
        (b" \n\t ", "holds no words"),
        (b"a\0b", "holds no words"),
        ("größe".encode("latin-1"), "is not text in UTF-8"),
        ("\ufeffhello".encode("utf-16-le")[:-1], "is not text in UTF-8"),
        ("\ufeffhello".encode("utf-32-le"), "is not text in UTF-8"),
        ("\ufeffhello".encode("utf-32-be"), "is not text in UTF-8"),
        ("hello".encode("utf-16-le"), "holds no words"),
        ("größe".encode("utf-16-be"), "is not text in UTF-8"),
        ("\ufeff \r\n".encode("utf-16-le"), "holds no words"),
        (b"a" * (2**20 + 1), "is larger than 1 MiB"),
    ],
)
def test_a_transcript_file_that_holds_no_text_is_one_line(tmp_path, content, says):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says) as refusal:
        read_transcript(str(path))
    assert "\n" not in str(refusal.value)


def test_a_transcript_file_in_the_home_of_nobody_is_one_line():
    with pytest.raises(InputError, match=r"'~nobody-of-that-name/words\.txt' is not a file"):
        read_transcript("~nobody-of-that-name/words.txt")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_transcript_file_that_says_it_is_in_utf_16_is_read_so(tmp_path, encoding):
    """As Windows' Notepad saves "Unicode"."""
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffGröße 😀,\r\n你好.\r\n".encode(encoding))
    assert read_transcript(str(path)) == "Größe 😀,\n你好."


def test_a_transcript_file_gives_its_text(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffHello,\r\nworld.\n".encode())
    assert read_transcript(str(path)).split() == ["Hello,", "world."]
    options = resolved(parse_arguments(["-p", f"transcript_file={path}", "-p", "device=cpu"]))
    assert options.values["transcript"].split() == ["Hello,", "world."]


def test_a_gpu_that_is_not_there_is_one_line_and_exit_code_2(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runner.main(["-p", "device=cuda"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("specsync: parameter device: cuda was asked for, but torch ")
    assert resolved(parse_arguments([])).values["device"] == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolved(parse_arguments([])).values["device"] == "cuda"
    assert resolved(parse_arguments(["-p", "device=cpu"])).values["device"] == "cpu"


def test_a_small_decoder_that_nobody_trained_is_one_line_and_exit_code_2(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(inputs, "TINY_DECODER", tmp_path / "decoder.safetensors")
    assert runner.main(["-p", "decoder=tiny", "-p", "device=cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("specsync: decoder=tiny: ") and line.endswith("is absent; train it, or choose decoder=wan")
    (tmp_path / "decoder.safetensors").touch()
    assert resolved(parse_arguments(["-p", "decoder=tiny", "-p", "device=cpu"])).values["decoder"] == "tiny"
