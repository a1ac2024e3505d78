"""Coverage-guided fuzzing of the command line: any words are typed, finite, allowed values or one line of refusal.

    pip install atheris
    python tests/fuzz/fuzz_parameters.py -max_total_time=600 -timeout=10 -max_len=2000

Not part of the suite. ``--help`` ends the command as it does for everyone; an ``InputError`` of one line is an answer.
"""

import contextlib
import io
import math
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
with atheris.instrument_imports(include=["specsync_lib"]):
    from specsync_lib.door.parameters import PARAMETERS, Range, parse_arguments
    from specsync_lib.errors import InputError

WORDS = [
    *(f"{name}=" for name in PARAMETERS),
    "-p",
    "--profile",
    "--fresh",
    "--benchmark",
    "--help",
    "--",
    "-",
    "=",
    "",
]
LONGEST_REFUSAL = 600  # characters of one line


def arguments_of(data: bytes) -> list[str]:
    """Up to eight arguments: known words, any text, or one before the other."""
    provider = atheris.FuzzedDataProvider(data)
    arguments = []
    for _ in range(provider.ConsumeIntInRange(0, 8)):
        word = provider.PickValueInList(WORDS) if provider.ConsumeBool() else ""
        text = provider.ConsumeUnicode(provider.ConsumeIntInRange(0, 60)) if provider.ConsumeBool() else ""
        arguments.append(word + text)
    return arguments


def check_arguments(data: bytes) -> None:
    """Parse one command line made from the fuzzer's bytes."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            options = parse_arguments(arguments_of(data))
    except InputError as refusal:
        line = str(refusal)
        assert len(line.splitlines()) == 1 and len(line) <= LONGEST_REFUSAL, repr(line)
        line.encode()  # it can be shown
        return
    except SystemExit as ended:
        assert ended.code == 0, ended.code  # --help
        return
    assert options.values.keys() == PARAMETERS.keys()
    for name, value in options.values.items():
        parameter = PARAMETERS[name]
        assert type(value) is parameter.type
        if isinstance(parameter.allowed, Range):
            assert math.isfinite(value) and value in parameter.allowed
        elif value != parameter.default:
            assert parameter.parse(value) == value
            value.encode()  # a file, a notebook and a terminal can hold it


if __name__ == "__main__":
    atheris.Setup(sys.argv, check_arguments)
    atheris.Fuzz()
