"""Coverage-guided fuzzing of rows and manifests: any bytes are a row whose values are allowed, or one line of refusal.

    pip install atheris
    python tests/fuzz/fuzz_rows.py -max_total_time=600 -timeout=10 -max_len=2000

Not part of the suite. An ``InputError`` of one line is an answer; anything else that is raised is a finding.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
with atheris.instrument_imports(include=["specsync_lib", "tomllib", "json"]):
    from specsync_lib import rows
    from specsync_lib.errors import InputError
    from specsync_lib.speech.manifest import KEYS, SPLITS, read_manifest

LONGEST_REFUSAL = 600  # characters of one line
SOUND = "a.wav"  # is there
KEYS_OF_A_ROW = rows.keys()
ROW_WORDS = [
    *(f"[{part}]\n" for part in rows.PARTS), *(f"{key.partition('.')[2] or key} = " for key in KEYS_OF_A_ROW),
    *(f'"{word}"\n' for word in (*rows.KINDS, *rows.DECODERS, "trained", "random", "auto", "./none", "http://a:1")),
    "0\n", "0.5\n", "-1\n", "inf\n", "true\n", "2026-01-01\n", "[[judge]]\n", '"""', "\\", "=", "#", "{", "}",
]  # fmt: skip
LINE_WORDS = [
    *(f'"{key}": ' for key in KEYS), *(f'"{split}"' for split in SPLITS), f'"{SOUND}"', '"en"', '"none.wav"',
    "{", "}", ", ", "\n", "[", "null", "1e999", '"\\ud800"',
]  # fmt: skip


def text_of(provider: atheris.FuzzedDataProvider, words: list[str]) -> bytes:
    """Any bytes, or known words with any text between them."""
    if provider.ConsumeBool():
        return provider.ConsumeBytes(provider.remaining_bytes())
    parts = []
    while provider.remaining_bytes():
        parts.append(provider.PickValueInList(words))
        if provider.ConsumeIntInRange(0, 3) == 0:
            parts.append(provider.ConsumeUnicode(provider.ConsumeIntInRange(0, 12)))
    return "".join(parts).encode("utf-8", "surrogatepass")


def check(folder: Path, data: bytes) -> None:
    """Read one row or manifest made from the fuzzer's bytes."""
    provider = atheris.FuzzedDataProvider(data)
    row = provider.ConsumeBool()
    path = folder / ("row.toml" if row else "corpus.jsonl")
    path.write_bytes(text_of(provider, ROW_WORDS if row else LINE_WORDS))
    try:
        read = rows.read(path, present=False) if row else read_manifest(path)
    except InputError as refusal:
        line = str(refusal)
        assert len(line.splitlines()) == 1 and len(line) <= LONGEST_REFUSAL and line.isprintable(), repr(line)
        return
    if row:
        assert all(KEYS_OF_A_ROW[key].check(value) == value for key, value in rows._values(read).items())
        assert rows.read(read.text(), present=False) == read
    else:
        assert len({one.id for one in read}) == len(read) and all(one.audio == folder / SOUND for one in read)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        Path(made, SOUND).write_bytes(b"")
        # inputs need not grow slowly: a row is many words
        atheris.Setup([*sys.argv, "-len_control=0"], partial(check, Path(made)))
        atheris.Fuzz()
