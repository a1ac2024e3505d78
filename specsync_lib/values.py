"""One value that a person sets: its type, what is allowed, and the one line that refuses anything else.

Standard library alone: the door reads it before anything is installed.
"""

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from specsync_lib.errors import InputError

# The languages of Whisper base's vocabulary (openai-whisper, tokenizer.LANGUAGES but for the last one, large-v3's).
LANGUAGES = (
    "auto", "en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv", "it", "id",
    "hi", "fi", "vi", "he", "uk", "el", "ms", "cs", "ro", "da", "hu", "ta", "no", "th", "ur", "hr", "bg", "lt", "la",
    "mi", "ml", "cy", "sk", "te", "fa", "lv", "bn", "sr", "az", "sl", "kn", "et", "mk", "br", "eu", "is", "hy", "ne",
    "mn", "bs", "kk", "sq", "sw", "gl", "mr", "pa", "si", "km", "sn", "yo", "so", "af", "oc", "ka", "be", "tg", "sd",
    "gu", "am", "yi", "lo", "uz", "fo", "ht", "ps", "tk", "nn", "mt", "sa", "lb", "my", "bo", "tl", "mg", "as", "tt",
    "haw", "ln", "ha", "ba", "jw", "su",
)  # fmt: skip
DECIMAL_PATTERN = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
INTEGER_PATTERN = re.compile(r"[+-]?[0-9]{1,18}")
LONGEST_S = 3600  # a recording, and so an excerpt of one
LARGEST_SEED = 2**32 - 1
OFF_A_LINE = ("Cc", "Zl", "Zp", "Cs")  # control characters, line breaks, bytes that are no UTF-8
SHOWN_CHARACTERS = 60
NO_UTF_8 = "it is not UTF-8, rename or recode it; "
LONGEST_MESSAGE = 200  # of a message that quotes what it was given

Value = str | int | float


@dataclass(frozen=True)
class Range:
    """A closed interval."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class FolderName:
    """The name of one folder on any system: no path, no hidden file, no device."""

    PATTERN = re.compile(r"[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?", re.IGNORECASE)
    # Windows keeps these for devices, in any folder and with any ending.
    DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{k}" for port in ("com", "lpt") for k in range(10))})

    def __contains__(self, value: str) -> bool:
        return self.PATTERN.fullmatch(value) is not None and value.lower() not in self.DEVICES


@dataclass(frozen=True)
class Pattern:
    """Text of one form, and the words that describe it."""

    form: re.Pattern[str]
    words: str

    def __contains__(self, value: str) -> bool:
        return self.form.fullmatch(value) is not None


@dataclass(frozen=True)
class Parameter:
    """One value by name. A notebook parameter means the same thing in every notebook that declares it.

    ``allowed`` is a tuple of choices, a Range, a FolderName, a Pattern, or for free text the words that describe it.
    ``words`` describes choices that are too many to list. ``profiles`` holds the values that a profile puts in place of
    the default.
    """

    name: str
    type: type[str] | type[int] | type[float]
    default: Value
    allowed: tuple[str, ...] | Range | FolderName | Pattern | str
    help: str
    words: str = ""
    profiles: Mapping[str, Value] = field(default_factory=dict)

    def allowed_text(self) -> str:
        """The allowed values in words."""
        if self.words:
            return self.words
        match self.allowed:
            case Range(low, high):
                return f"{'a whole' if self.type is int else 'a'} number from {low} to {high}"
            case FolderName():
                return "1 to 64 letters, digits, - and _, with a letter or a digit at both ends"
            case Pattern(_, words) | str(words):
                return words
            case choices:
                return f"one of {', '.join(choices)}"

    def parse(self, text: str) -> Value:
        """The typed value of what was written after ``name=``.

        Raises
        ------
        InputError: one line with the parameter, what was given and what is allowed.
        """
        return self._checked(self._typed(text), text)

    def check(self, value: object) -> Value:
        """A value that has a type already, as a file gives it; what is the default needs no other leave.

        Raises
        ------
        InputError: as for `parse`.
        """
        typed = value
        if type(value) is int and self.type is float:
            typed = float(value) if abs(value) < 2**53 else math.inf
        if type(typed) is not self.type:
            typed = None
        elif typed != self.default and self.type is str:
            typed = self._typed(typed)
        return typed if typed == self.default else self._checked(typed, value)

    def _checked(self, value: Value | None, given: object) -> Value:
        if value is None or not self._allows(value):
            choices = () if self.words or not isinstance(self.allowed, tuple) else self.allowed
            hint = NO_UTF_8 if _broken(given) else did_you_mean(str(given), choices)
            raise InputError(f"parameter {self.name}: got {shown(given)}; {hint}allowed: {self.allowed_text()}")
        return value

    def _typed(self, text: str) -> Value | None:
        """The text as this parameter's type, None where it is not one."""
        if self.type is str:
            return text if is_line(text) else None
        pattern = INTEGER_PATTERN if self.type is int else DECIMAL_PATTERN
        return self.type(text) + 0 if pattern.fullmatch(text) else None

    def _allows(self, value: Value) -> bool:
        if isinstance(self.allowed, str):
            return True
        return value in self.allowed and (isinstance(value, str) or math.isfinite(value))


def is_line(text: str) -> bool:
    """Whether a text is one line that says something. Spaces and joiners of any alphabet belong to names and words."""
    return bool(text.strip()) and not any(unicodedata.category(letter) in OFF_A_LINE for letter in text)


def _broken(text: object) -> bool:
    return isinstance(text, str) and any(unicodedata.category(letter) == "Cs" for letter in text)


def shown(text: object) -> str:
    """What was given, quoted, on one line and not longer than a line."""
    quoted = repr(text)
    return quoted if len(quoted) <= SHOWN_CHARACTERS else f"{quoted[: SHOWN_CHARACTERS - 4]}...'"


def on_one_line(message: str, longest: int = LONGEST_MESSAGE) -> str:
    """A message that may quote anything: what cannot be printed is escaped, what is longer than two lines is cut."""
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in message)
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """A hint at the nearest of the known words, empty where none is near."""
    close = difflib.get_close_matches(text, known, n=1)
    return f"did you mean {close[0]}? " if close else ""
