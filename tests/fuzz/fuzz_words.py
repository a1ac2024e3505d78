"""Coverage-guided fuzzing of the transcript normaliser: no crash, no hang, stable, only words that can be said.

    pip install atheris
    python tests/fuzz/fuzz_words.py -max_total_time=120 -timeout=10 -max_len=2000

Not part of the suite. An ``InputError`` of one line is an answer; anything else that is raised is a finding.
"""

import re
import sys

import atheris

with atheris.instrument_imports(include=["specsync_lib"]):
    from specsync_lib.errors import InputError
    from specsync_lib.speech.words import in_dictionary, normalise_text, readings


def check_transcript(data: bytes) -> None:
    """Read one transcript made from the fuzzer's bytes."""
    text = atheris.FuzzedDataProvider(data).ConsumeUnicodeNoSurrogates(len(data))
    try:
        words = normalise_text(text)
    except InputError as refusal:
        assert "\n" not in str(refusal), refusal
        return
    assert all(in_dictionary(word) or re.fullmatch("[a-z]+", word) for word in words), words
    assert normalise_text(" ".join(words)) == words, words
    assert readings(text, most=8)[0] == " ".join(words)


if __name__ == "__main__":
    atheris.Setup(sys.argv, check_transcript)
    atheris.Fuzz()
