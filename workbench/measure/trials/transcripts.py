"""Transcripts as people write, paste and save them, and how they are read aloud."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from specsync_lib.door.inputs import LARGEST_TRANSCRIPT_BYTES, read_transcript
from specsync_lib.errors import InputError
from specsync_lib.speech.words import LONGEST_TRANSCRIPT, fits, in_dictionary, normalise_text, pronounce, spoken
from specsync_lib.visemes import ARPABET_TO_VISEME
from tests.speech.test_words import READ_AS, SAID_AS
from workbench.measure.trials.outcome import REFUSED, RIGHT, Outcome, one_line, require, survived

SHORT_EVERY = 20
# What is written, and a reading that must be among those which are tried; None: any words will do; a refusal is a
# pattern that its line must have.
WRITTEN: dict[str, str | None] = {
    "50¢": "fifty cents",
    "₹500": "five hundred rupees",
    "$1M": "one million dollars",
    "€1,50": "one euro and fifty cents",
    "1,000,000": "one million",
    "24/7": "twenty four seven",
    "1/2 cup": "one half cup",
    "21st-century": "twenty first century",
    "Covid-19": "covid nineteen",
    "#1": "number one",
    "Wi-Fi": "wi fi",
    "MP3": "m p three",
    "4K": "four k",
    "rock 'n' roll": "rock 'n roll",
    "a Ph.D.": "a p h d",
    "cats vs. dogs": "cats versus dogs",
    "5′ 10″": "five feet ten inches",
    "100 km²": "one hundred square kilometers",
    "E=mc²": "e equals mc squared",
    "5 μm": "five micrometers",
    "№ 5": "number five",
    "§ 5": "section five",
    "façade": "facade",
    "Dvořák": "dvorak",
    "mañana": "manana",
    "jalapeño": "jalapeno",
    "smörgåsbord": "smorgasbord",
    "Æsop": "aesop",
    "Œuvre": "oeuvre",
    "Nguyễn": "nguyen",
    "İstanbul": "istanbul",
    "Pokémon": "pokemon",
    "cafe\u0301": "cafe",
    "so\u00adft": "soft",
    "\u200ehello\u200f": "hello",
    "\ufeffhello": "hello",
    "hel\u200dlo": "hello",
    "ｈｅｌｌｏ": "hello",
    "५ apples": "five apples",
    "Chapter Ⅳ": "chapter four",
    "wait… what": "wait what",
    "yes—no": "yes no",
    "I-I-I can't": "i i i can't",
    "HELLO THERE": "hello there",
    "sooooo": None,
    "hmm": None,
    "shh": None,
    "brrr": None,
    "Zzz": None,
    "uh-huh": "uh huh",
    "lol omg": None,
    "snake_case": "snake case",
    "x = y + 1;": "x equals y plus one",
    "H2O": "h two o",
    "1st & 2nd": "first and second",
    "<b>bold</b>": "bold",
    "<script>alert(1)</script>": None,
    "[00:12.00]hello": "hello",
    "WEBVTT\n\n00:01.000 --> 00:02.000\nhello": "hello",
    "1\r\n00:00:01,000 --> 00:00:02,000\r\nhello\r\n\r\n2\r\n00:00:03,000 --> 00:00:04,000\r\nthere\r\n": "hello there",
    "Speaker 1: hello\nSpeaker 2: hi": "hello hi",
    "(laughs) hello": "hello",
    "♪ hello ♪": "hello",
    "| a | b |\n|---|---|\n| c | d |": "a b c d",
    "hello 👨‍👩‍👧‍👦 there": "hello there",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿 hello": "hello",
    "©2020 hello®": None,
    "10:05:30": None,
    "C:\\Users\\me": None,
    "/usr/local/bin": None,
    "#SpecSync @home": None,
    "192.168.0.1": None,
    "-5°": None,
    "1e6": None,
    "0x1F": None,
    "1.000.000,00": None,
    "3.14159": "three point one four one five nine",
    "007": None,
    "MMMM": None,
    "IIII": None,
    "a" * 5_000: None,
    "9" * 5_000: None,
    "word " * 10_000: None,
    "!" * 9_000: "",
    "…": "",
    "👍👍": "",
    "*": None,
    "''": "",
    "\t\r\n": "",
    "hello\0there": None,
    "hello\x1b[31mred": None,
    "\ud800hello": None,
    "h̷e̷l̷l̷o̷": "hello",
    "ʇxǝʇ": None,
    "ĥello": "hello",
    "donʼt": "don't",
    "don`t": "don't",
    "don‘t": "don't",
    "it`s ok": "it's ok",
    "ﬀ ﬃ": None,
    "½¼¾": None,
    "1½": "one and a half",
    "5–10": "five to ten",
    "3×4": "three times four",
    "3 ÷ 4": None,
    "≥ 5": None,
    "a→b": None,
    "50% off!": "fifty percent off",
    "5'": None,
    "O.K.": None,
    "Mr. & Mrs. Smith": "mister and missus smith",
    "Jan 1st, 2000": "january first two thousand",
    "1/1/2000": "january first two thousand",
    "12:00 PM": "twelve p m",
    "noon–1pm": None,
    "+1 (415) 555-2671": "one four one five five five five two six seven one",
    "ext. 42": None,
    "911": "nine one one",
    "the '90s": "the nineties",
    "2020's": None,
    "&lt;hello&gt;": None,
    "&#128512; hello": "hello",
    "itâ€™s cafÃ©": "it's cafe",
}
REFUSED_WORDS: dict[str, str] = {
    "pаypal": "cyrillic small letter a",
    "你好": "cjk unified ideograph",
    "안녕": "hangul syllable",
    "שלום": "hebrew letter",
    "مرحبا": "arabic letter",
    "नमस्ते": "devanagari letter",
    "hello мир": "cyrillic small letter em",
    "x" * (LONGEST_TRANSCRIPT + 1): "at most 400,000",
}


def _saved() -> dict[str, tuple[Callable[[Path], object], str]]:
    """Files of a transcript: how they are made, and what is read of them or what the refusal says (after a "!")."""
    return {
        "UTF-8": (lambda path: path.write_text("hello there", encoding="utf-8"), "hello there"),
        "with a mark at the start": (lambda path: path.write_bytes(b"\xef\xbb\xbfhello there"), "hello there"),
        "Windows lines": (lambda path: path.write_bytes(b"hello\r\nthere\r\n"), "hello there"),
        "old Mac lines": (lambda path: path.write_bytes(b"hello\rthere"), "hello there"),
        "subtitles": (lambda path: path.write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n"), "hello"),
        "Notepad's Unicode": (lambda path: path.write_bytes("\ufeffhello\r\n".encode("utf-16-le")), "hello"),
        "UTF-16, the other way round": (lambda path: path.write_bytes("\ufeffhello".encode("utf-16-be")), "hello"),
        "UTF-16 that ends in a half": (lambda path: path.write_bytes("\ufeffhello".encode("utf-16-le")[:-1]), "!UTF-8"),
        "UTF-32": (lambda path: path.write_bytes("\ufeffhello".encode("utf-32-le")), "!UTF-8"),
        "UTF-16 without a mark": (lambda path: path.write_bytes("hello".encode("utf-16-le")), "!no words"),
        "Latin-1": (lambda path: path.write_bytes("café".encode("latin-1")), "!UTF-8"),
        "a Word document": (lambda path: path.write_bytes(b"PK\3\4\x14\0\6\0\x08\0\0\0!\0\xff\xfe" + bytes(99)), "!"),
        "empty": (lambda path: path.write_bytes(b""), "!no words"),
        "white space": (lambda path: path.write_bytes(b" \n\t\n"), "!no words"),
        "zeros": (lambda path: path.write_bytes(bytes(99)), "!no words"),
        "too large": (lambda path: path.write_bytes(b"a " * LARGEST_TRANSCRIPT_BYTES), "!larger than 1 MiB"),
        "a folder": (Path.mkdir, "!is not a file"),
        "absent": (lambda path: None, "!is not a file"),
        "a link to nothing": (lambda path: path.symlink_to("gone"), "!is not a file"),
        "a link to itself": (lambda path: path.symlink_to(path.name), "!"),
        "/dev/zero": (lambda path: path.symlink_to("/dev/zero"), "!is not a file"),
    }


@cache
def cases() -> dict[str, tuple[str, str | None]]:
    """Texts by name, with the reading that must be tried, None for any, or a refusal's words after a "!"."""
    rows = [*READ_AS, *SAID_AS, *WRITTEN.items(), *((text, f"!{says}") for text, says in REFUSED_WORDS.items())]
    return {
        f"text {number:03d}: {ascii(text)[1:41]}": row
        for number, (row, text) in enumerate((row, row[0]) for row in rows)
    }


def names(short: bool) -> list[str]:
    """Of texts and files."""
    return [*cases(), *(f"file: {name}" for name in _saved())][:: SHORT_EVERY if short else 1]


def check_said(text: str, expected: str | None) -> None:
    """Words that the aligner can say, the same again from themselves, the expected reading among those tried."""
    words = normalise_text(text)
    for word in words:
        require(in_dictionary(word) or re.fullmatch("[a-z]+", word) is not None, f"{word!r} is no word")
        require(not set(pronounce(word).split()) - ARPABET_TO_VISEME.keys(), f"{word!r} cannot be said")
    require(normalise_text(" ".join(words)) == words, f"read again, {' '.join(words)[:80]!r} is something else")
    if expected is not None:
        require(fits(spoken(text), expected.split()), f"read as {' '.join(words)[:80]!r}, never {expected!r}")


def attempt(name: str, folder: Path) -> Outcome:
    """Read one transcript."""
    if name.startswith("file: "):
        make, expected = _saved()[name.removeprefix("file: ")]
        path = folder / "words.txt"
        make(path)
        read = lambda: read_transcript(str(path))  # noqa: E731
    else:
        text, expected = cases()[name]
        read = lambda: text  # noqa: E731
    try:
        check_said(read(), None if expected is None or expected.startswith("!") else expected)
    except InputError as error:
        line = one_line(str(error))
        require(expected is None or expected.startswith("!"), f"refused: {line}")
        require(expected is None or expected[1:] in line, f"another line: {line}")
        return survived(REFUSED, line)
    require(expected is None or not expected.startswith("!"), "taken, and should not be")
    return survived(RIGHT)
