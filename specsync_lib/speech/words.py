"""Words as people write them, read as people say them.

A transcript comes as it was typed: with curly quotes, ligatures, markdown, "$5.99", "9:30", "Dr.", "XIV". It is
folded to plain Latin letters (``plain_text.fold``) and read into the words that are spoken. Much has more than one
reading ("9:30" is nine thirty or half past nine), and only the sound can tell which was said: ``spoken`` gives every
place its readings, the likeliest first, and the aligner (``alignment.align``) takes those that fit the recording.
``normalise_text`` takes the first ones, ``readings`` lists whole transcripts.

Every word that comes out is one that the aligner can say: in its dictionary, or spelt with the letters a to z alone,
for which ``pronounce`` has rules. A letter of another script has no English reading and is refused by name.

Source: num2words (``numerals``), Babel (``word_tables``), roman-numerals; the CMU pronouncing dictionary (BSD) inside
PocketSphinx.
"""

import heapq
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pocketsphinx
from roman_numerals import InvalidRomanNumeralError, OutOfRangeError, RomanNumeral

from specsync_lib.errors import InputError
from specsync_lib.speech import word_tables as tables
from specsync_lib.speech.numerals import (
    LAKHS,
    LONGEST_NUMBER,
    amounts_of,
    cardinals_of,
    cross,
    digit_words,
    distinct,
    number_readings,
    number_words,
    ordinal_of,
    ordinals_of,
    pair_words,
)
from specsync_lib.speech.plain_text import fold

Reading = tuple[str, ...]  # the words of one reading of a place; none where nothing is said
Place = tuple[Reading, ...]  # the readings of one place in a transcript, the likeliest first

LONGEST_TRANSCRIPT = 400_000  # characters: eight hours of speech
LONGEST_LINE = 400  # characters in which what a line begins with, or a quote, is looked for
LONGEST_WORD = 45  # letters; a longer run of them is no word and is cut
LONGEST_INITIALS = 4  # letters of an abbreviation that are spelled one by one: OSCE, but NORAD
MOST_PLACE_READINGS = 32
MOST_READINGS, MOST_TRIES = 64, 8


# ------------------------------------------------------------------------------------------------------ the dictionary

# Names that the dictionary lacks and the rules below would miss.
PRONUNCIATIONS = {
    "digium": "D IH JH IY AH M", "dahdi": "D AA D IY", "voicemail": "V OY S M EY L", "pbx": "P IY B IY EH K S",
    "misdn": "EH M AY EH S D IY EH N", "www": "D AH B AH L Y UW D AH B AH L Y UW D AH B AH L Y UW",
}  # fmt: skip

# Our own small set of English letter-to-sound rules, longest match first. An aligner needs the sounds about right, not
# the dialect: one pronunciation a spelling, no stress.
_LETTER_SOUNDS = {
    "tion": "SH AH N", "sion": "ZH AH N", "ture": "CH ER", "ough": "AO", "augh": "AO", "eigh": "EY", "igh": "AY",
    "tch": "CH", "dge": "JH", "sch": "SH", "eau": "OW", "ious": "IY AH S", "ous": "AH S",
    "ai": "EY", "ay": "EY", "au": "AO", "aw": "AO", "ea": "IY", "ee": "IY", "ei": "EY", "ey": "IY", "eu": "Y UW",
    "ew": "UW", "ie": "IY", "oa": "OW", "oe": "OW", "oi": "OY", "oy": "OY", "oo": "UW", "ou": "AW", "ow": "OW",
    "ue": "UW", "ui": "UW", "ar": "AA R", "er": "ER", "ir": "ER", "or": "AO R", "ur": "ER", "yr": "ER",
    "ch": "CH", "ck": "K", "gh": "G", "gn": "N", "kn": "N", "mb": "M", "ng": "NG", "nk": "NG K", "ph": "F", "qu": "K W",
    "rh": "R", "sc": "S K", "sh": "SH", "th": "TH", "wh": "W", "wr": "R", "zh": "ZH", "ce": "S EH", "ci": "S IH",
    "cy": "S IY", "ge": "JH EH", "gi": "JH IH", "gy": "JH IY",
    "a": "AE", "b": "B", "c": "K", "d": "D", "e": "EH", "f": "F", "g": "G", "h": "HH", "i": "IH", "j": "JH", "k": "K",
    "l": "L", "m": "M", "n": "N", "o": "AA", "p": "P", "q": "K", "r": "R", "s": "S", "t": "T", "u": "AH", "v": "V",
    "w": "W", "x": "K S", "y": "IY", "z": "Z",
}  # fmt: skip
_LONG_VOWELS = {"a": "EY", "e": "IY", "i": "AY", "o": "OW", "u": "UW", "y": "AY"}
_GRAPHEME = re.compile("|".join(sorted(_LETTER_SOUNDS, key=len, reverse=True)))


@cache
def _dictionary() -> dict[str, str]:
    """The aligner's dictionary, word to its first pronunciation (134,000 words, 0.2 s)."""
    path = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
    rows = (line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return {word: phones.strip() for word, phones in rows if not word.endswith(")")}


def in_dictionary(word: str) -> bool:
    """Whether the CMU dictionary of the aligner has the word (lower case)."""
    return word in _dictionary()


def pronounce(word: str) -> str:
    """ARPAbet phones, space-separated, of a lower-case word: the dictionary's first, else ours, else by rule.

    Raises
    ------
    InputError: the word has letters outside a … z, which no rule covers.
    """
    known = _dictionary().get(word) or PRONUNCIATIONS.get(word)
    if known:
        return known
    if not re.fullmatch("[a-z]+", word):
        raise InputError(f"transcript: no pronunciation for the word {word!r}; spell it with the letters a to z")
    spelling = re.sub(r"([bcdfgjklmnprstvz])\1", r"\1", word)  # doubled consonants sound once
    long_vowel = re.fullmatch(r"(.*?)([aeiouy])([bcdfgklmnprstvz])e", spelling)  # the silent e of "made"
    if long_vowel:
        head, vowel, coda = long_vowel.groups()
        coda_sound = {"c": "S", "g": "JH"}.get(coda, _LETTER_SOUNDS[coda])
        return " ".join(filter(None, [_by_rule(head), _LONG_VOWELS[vowel], coda_sound]))
    return _by_rule(spelling)


def _by_rule(spelling: str) -> str:
    return " ".join(_LETTER_SOUNDS[match[0]] for match in _GRAPHEME.finditer(spelling))


# --------------------------------------------------------------------------------------------- what a text is made of
# Each kind of text is a pattern, tried at a place in this order, and a function from its match to the readings there.

_IN_BLANKS = r"(?<!\d[ ,.])[1-9]\d{0,2}(?: \d{3}){1,4}(?:\.\d+)?(?![\d:/]|[ ,]\d|(?:st|nd|rd|th|s)\b)"
_NUMBER = rf"(?:\d{{1,3}}(?:,\d{{3}}){{1,4}}(?!\d)(?:\.\d+)?|{LAKHS}|{_IN_BLANKS}|\d+(?:\.\d+)?|(?<!\w)\.\d+)"
# A sign of a number, not a dash between two: none behind a word or an amount; "5 - 3" is none, "5 -3" is one.
_SIGN = r"(?:(?<![\w)\]%°¢])(?<!\d['\"])[-−–](?=[\d.$€£])|(?<![\w)\]])(?:(?<![\d%°¢€£$] )-|−) (?=[\d.$€£]))?"
_CURRENCY = "|".join(rf"\b{sign}\b\.?" if sign.isalpha() else re.escape(sign) for sign in tables.CURRENCY_SIGNS)
_CURRENCY = f"(?:{_CURRENCY})"
_AMOUNT = rf"(?:\d+,\d\d(?![\d,])|{_NUMBER})"  # €5,50
_CODE = "|".join(tables.CURRENCY_CODES)
_MAGNITUDE = "|".join(sorted(tables.MAGNITUDES, key=len, reverse=True))
_UNIT = "|".join(
    re.escape(unit) + r"(?!\d)" * unit[-1].isdigit() for unit in sorted(tables.units_by_sign(), key=len, reverse=True)
)
_SHORT_MONTHS = (f"{short}\\.?" for short, wide in tables.SHORT_NAMES.items() if wide in tables.MONTHS)
_MONTH = "|".join([*tables.MONTHS, *_SHORT_MONTHS])
_MONTH = f"{_MONTH}|{_MONTH.upper()}"
_NAMES_AND_WORDS = r"(?:Mar|May|Sat|Sun|Jan|June|July)\b"  # which mean themselves as well
_NAME_OF_DAY_OR_MONTH = "|".join(sorted(tables.SHORT_NAMES, key=len, reverse=True))

_ABBREVIATION = "|".join(
    "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else re.escape(letter) for letter in name)
    for name in sorted(tables.ABBREVIATIONS, key=len, reverse=True)
)

Kind = tuple[re.Pattern[str], Callable[[re.Match[str]], list[str]]]


def _signed(sign: str, options: list[str]) -> list[str]:
    if not sign:
        return options
    may_be_a_dash = sign == "–" or sign.endswith(" ")
    return cross(["minus", "negative", *(["to", ""] if may_be_a_dash else [])], options)


def _has_lines(match: re.Match[str]) -> bool:
    """Whether the text of a match that begins a line has more lines than this."""
    return match.start() > 0 or "\n" in match.string[match.end() : match.end() + LONGEST_LINE]


def _quote_is_open(match: re.Match[str], mark: str = '"') -> bool:
    """Whether a mark before the match waits for its end: then the one behind it is no inch."""
    return match.string[max(0, match.start() - LONGEST_LINE) : match.start()].count(mark) % 2 == 1


def _phone(match: re.Match[str]) -> list[str]:
    groups = re.findall(r"\d+", match[0])

    def say(groups: list[str], zero: str, hundreds: bool, pairs: str) -> str:
        words = []
        for index, group in enumerate(groups):
            if hundreds and re.fullmatch("[1-9]00|0[1-9]00", group):
                words.append(f"{digit_words(group[:-2], zero)} hundred")
            elif pairs and index == len(groups) - 1 and len(group) == 4:
                words.append(f"{pair_words(group[:2])} {pair_words(group[2:])}")
            elif pairs == "all" and re.fullmatch("[1-9][0-9]", group):
                words.append(pair_words(group))
            else:
                words.append(digit_words(group, zero))
        return " ".join(words)

    dialled = [groups, re.findall(r"\d+", match[0].replace("(0)", ""))]  # +44 (0)20
    choices = itertools.product(dialled, ("zero", "oh"), (False, True), ("", "last", "all"))
    options = distinct(itertools.starmap(say, choices))
    if re.fullmatch(r"\d{3}-\d{4}", match[0]):
        options.append(f"{cardinals_of(groups[0])[0]} to {cardinals_of(groups[1])[0]}")
    return [*(f"plus {option}" for option in options), *options] if match[0].startswith("+") else options


def _money(match: re.Match[str]) -> list[str]:
    sign = match["sign"] or match["sign_after"]
    code = tables.CURRENCY_SIGNS.get(sign.rstrip("."), sign)
    options, land = _amount_of_money(match, code), tables.currency_land(code)
    if len(sign) > 1 and land:  # US$5, 5 CHF
        options[3:3] = [
            re.sub("|".join(tables.currency_names(code)[::-1]), rf"{land} \g<0>", said, count=1) for said in options[:3]
        ]
    return _signed(match["minus"], options)


def _amount_of_money(match: re.Match[str], code: str) -> list[str]:
    written, magnitude = match["amount"], match["magnitude"]
    if re.fullmatch(r"\d+,\d\d", written):  # €5,50
        written = written.replace(",", ".")
    one, more = tables.currency_names(code)
    if match["range"] or magnitude:
        amounts = [*amounts_of(written)[:3], *(["a"] if written == "1" else [])]
        if match["range"]:
            scale = tables.MAGNITUDES.get(match["scale"], "")  # $5m-$10m
            links = ["to", f"{scale} {more} to", "", f"{more} minus", *([f"{scale} to", scale] if scale else [])]
            amounts = cross(amounts, links, amounts_of(match["range"])[:3])
        endings = [more]
        if magnitude:
            scale = tables.MAGNITUDES[magnitude]
            endings = [f"{scale} {more}", f"{scale} {one}", scale, f"{' '.join(magnitude.lower())} {more}"]
            endings += ["k"] if scale == "thousand" else []
        return cross(amounts, endings)
    whole, _, decimals = written.replace(",", "").partition(".")
    is_one = whole.lstrip("0") == "1"
    unit = one if is_one else more
    wholes = amounts_of(written.partition(".")[0] or "0")
    if not decimals.strip("0"):
        options = [*cross(wholes, [unit]), f"{unit} {wholes[0]}", *([f"a {one}", one] if is_one else []), *wholes]
        return [*options, *cross(wholes[:3], [one])]  # a $20 bill
    if len(decimals) != 2:
        return cross(amounts_of(written), [more])
    small = " ".join(number_words(int(decimals)))
    coin = tables.COINS.get(code, ("cent", "cents"))[decimals != "01"]
    pair = pair_words(decimals)
    short = [f"{unit} and {small} {coin}", f"{unit} {small} {coin}", pair, f"{unit} {small}", small]
    rare = [f"{unit} and {small}", f"{unit} {pair}", f"point {digit_words(decimals)} {more}"]
    options = cross(wholes[:3], [*short, *rare])
    if is_one:
        options.insert(5, f"a {one} {small}")
    return options if whole.strip("0") else [f"{small} {coin}", *options]


def _clock(match: re.Match[str]) -> list[str]:
    hour, minute, second = int(match["hour"]), match["minute"], match["second"]
    said, following = " ".join(number_words(hour)), " ".join(number_words(hour % 12 + 1))
    twelve = " ".join(number_words(hour % 12 or 12))
    if match["fraction"]:  # 3:59.4
        tenths = [f"point {digit_words(match['fraction'])}", *cross(["point", ""], cardinals_of(match["fraction"])), ""]
        minutes = [pair_words(pair) for pair in (minute, second) if pair]
        return cross([" ".join([said, *minutes])], tenths)
    if second:
        tail = f"{pair_words(minute)} {pair_words(second)}"
        minutes, seconds = (" ".join(number_words(int(pair))) for pair in (minute, second))
        full = [f"{said} {hours} {minutes} minutes and {seconds} seconds" for hours in ("hours", "hour")]
        return [f"{said} {tail}", *full, f"{said} {minutes} {seconds}"]
    if minute == "00":
        hundreds = [f"{said} hundred", f"{said} hundred hours", f"oh {said} hundred", f"zero {said} hundred"]
        named = {12: ["noon"], 0: ["midnight"], 24: ["midnight"]}.get(hour, [f"{twelve} o'clock"])
        return [*([f"{twelve} o'clock"] if hour <= 12 else hundreds[:1]), twelve, said, *named, *hundreds]
    spoken_minute = " ".join(number_words(int(minute)))
    options = [f"{said} {pair_words(minute)}", f"{twelve} {pair_words(minute)}"]
    options += (
        [f"zero {said} {pair_words(minute)}", f"oh {said} {pair_words(minute)}"] if match["hour"][0] == "0" else []
    )
    named = {"15": ["quarter past", "a quarter past", "quarter after"], "30": ["half past", "half"]}
    past = [f"{spoken_minute} past", f"{spoken_minute} after"] if int(minute) < 30 else []
    options += [f"{name} {twelve}" for name in named.get(minute, past)]
    if int(minute) > 30:
        left = " ".join(number_words(60 - int(minute)))
        names = ["quarter to", "a quarter to", "quarter of"] if minute == "45" else [f"{left} to", f"{left} minutes to"]
        options += [f"{name} {following}" for name in names]
    options += [f"{said} {spoken_minute}"]
    return [*options, *cross([f"{said} hours", f"{said} hour"], [spoken_minute])] if "h" in match[0] else options


def _stamp(match: re.Match[str]) -> list[str]:
    """The time at the head of a line: of a video's transcript, where nobody says it, or of a timetable."""
    options = [*_clock(match), ""] if _has_lines(match) else _clock(match)
    is_first_hour, is_alone = int(match["hour"]) == 0, re.match(r"[ \t]*\n", match.string[match.end() :][:9])
    of_video = is_alone or match["second"] or is_first_hour if _has_lines(match) else match["second"] and is_first_hour
    return ["", *options] if of_video else options


def _hours(match: re.Match[str]) -> list[str]:
    """Four digits before "hours": 0800, 1430."""
    hour, minute = match["hour"], match["minute"]
    said = " ".join(number_words(int(hour)))
    hours = [f"{zero} {said}" for zero in ("oh", "zero")] if hour[0] == "0" else []
    return cross([*hours, said], [f"{pair_words(minute)} hours"])


def _day(day: int) -> list[str]:
    return [ordinal_of(day), " ".join(number_words(day)), f"the {ordinal_of(day)}"]


def _wide(written: str) -> str:
    written = written.rstrip(".").title()
    return tables.SHORT_NAMES.get(written, written).lower()


def _month_day(match: re.Match[str]) -> list[str]:
    days = _day(int(match["day"]))
    if match["upto"]:  # June 3-5, June 3 and 5
        links = {",": [""], "and": ["and"]}.get(match["link"].strip(), ["to", "", "through"])
        days = cross(days, links, _day(int(match["upto"])))
    return [f"{_wide(match['month'])} {day}" for day in days]


def _day_month(match: re.Match[str]) -> list[str]:
    day, month = int(match["day"]), _wide(match["month"])
    first = [f"the {ordinal_of(day)} of {month}", f"{ordinal_of(day)} of {month}"]
    cardinal, ordinal = f"{' '.join(number_words(day))} {month}", f"{ordinal_of(day)} {month}"
    options = [*first, cardinal, ordinal]
    if match["ordinal"]:
        options = [cardinal, *first, ordinal] if match["ordinal"] == "." else [first[1], ordinal, *first]
    return cross(_day(int(match["since"])), ["to", "", "through"], options) if match["since"] else options


def _numeric_date(match: re.Match[str]) -> list[str]:
    """A date in digits: month first, as its writer in the US means it, then day first."""
    numbers = [int(group) for group in re.findall(r"\d+", match[0])]
    year = next((group for group in re.findall(r"\d+", match[0]) if len(group) == 4), re.findall(r"\d+", match[0])[-1])
    orders = [(numbers[1], numbers[2])] if match["iso"] else [(numbers[0], numbers[1]), (numbers[1], numbers[0])]
    years = number_readings(year)[:2] if len(year) == 4 else [pair_words(year), f"twenty {pair_words(year)}"]
    options = []
    for month, day in orders:
        if not (1 <= month <= 12 and 1 <= day <= 31):
            continue
        name = tables.MONTHS[month - 1].lower()
        for said in years:
            options += [f"{name} {ordinal_of(day)} {said}", f"the {ordinal_of(day)} of {name} {said}"]
        options.append(f"{name} {' '.join(number_words(day))} {years[0]}")
    digits = [" ".join(number_words(number)) for number in numbers]
    plain = [" ".join([*digits[:2], years[0]]) if not match["iso"] else " ".join(digits)]
    return [*options[:10], *plain, " slash ".join(digits)]


def _fraction(match: re.Match[str]) -> list[str]:
    upper, lower = int(match["upper"]), int(match["lower"])
    top, bottom = (" ".join(number_words(number)) for number in (upper, lower))
    options = []
    if (2 <= lower <= 100 or lower == 1000) and upper < lower:
        parts = {2: ["half"], 4: ["quarter", ordinal_of(4)]}.get(lower, [ordinal_of(lower)])
        for part in parts:
            if upper == 1:
                options += [f"one {part}", f"a {part}", f"an {part}" if part[0] == "e" else part]
            else:
                options.append(f"{top} {'halves' if part == 'half' else tables.plural(part)}")
    if match["whole"]:
        whole = cardinals_of(match["whole"])[0]
        options = [
            f"{whole} and {option}" for option in sorted(options, key=lambda option: not option.startswith("a "))
        ]
        options += [f"{whole} and {top} {part}" for part in parts] if options and upper > 1 else []
        return _in_inches(match, [*options, f"{whole} {top} {bottom}", f"{whole} {top} over {bottom}"])
    if options and re.match(r"[ -]+[a-z]| *%", match.string[match.end() : match.end() + 3]):  # 1/2 cup
        shortest = parts[0] if upper == 1 else options[0]
        options += [f"{shortest} {article}" for article in ("a", "an", "of a")]
        options += [f"{top} {parts[0]}"] if upper > 1 else []
    options += [f"{top} {link} {bottom}" for link in ("", "over", "out of", "slash", "of", "divided by")]
    if upper > 100 and upper % 100:  # 120/80
        options.append(f"{digit_words(match['upper'][0])} {pair_words(match['upper'][1:])} over {bottom}")
    if 1 <= upper <= 12 and 1 <= lower <= 31:
        is_date = lower not in (2, 3, 4, 5, 6, 8, 10, 16)
        options.insert(0 if is_date else len(options), f"{tables.MONTHS[upper - 1].lower()} {ordinal_of(lower)}")
    return _in_inches(match, options)


def _in_inches(match: re.Match[str], options: list[str]) -> list[str]:
    """A fraction with its mark of inches, which may be the end of a quote."""
    if not match["inch"]:
        return options
    inches = cross(options[:3], ["inches", "inch"] if match["whole"] else ["inch", "of an inch", "an inch"])
    return [*options, *inches] if _quote_is_open(match) else [*inches, *options]


def _quantity(match: re.Match[str]) -> list[str]:
    names, amounts = _unit_names(match), amounts_of(match["number"])[:5]
    if match["upto"]:
        links = [f"{names[0]} to", "to", "", f"{names[0]} minus"]
        amounts = cross(amounts[:2], links, amounts_of(match["upto"])[:2])
    return _signed(match["sign"], cross(amounts, names))


def _unit_names(match: re.Match[str]) -> list[str]:
    unit = match["unit"]
    names = [name for pair in tables.units_by_sign()[unit] for name in (pair if match["number"] == "1" else pair[::-1])]
    letters = " ".join(unit) if unit.isascii() and unit.isalpha() else ""
    if unit in tables.MAGNITUDES:
        names.append(tables.MAGNITUDES[unit])
    if (match["gap"] or not match["number"]) and unit in tables.UNITS_AND_WORDS:
        names.insert(0, unit)
    elif letters and len(unit) == 1 and unit.isupper():  # 4K, 5G, 10 A
        names.insert(0, letters.lower())
    elif letters:
        names.append(letters.lower())
    if not match["number"] and in_dictionary(unit):  # 1/3 part
        names.append(unit)
    names[1:1] = tables.MORE_NAMES[unit].split("|") if unit in tables.MORE_NAMES else []
    return names + [re.sub(r"per (?=([a-z]))", _article, name) for name in names if " per " in name]


def _article(per: re.Match[str]) -> str:
    return "an " if per[1] in "aeiou" or per.string.endswith("hour") else "a "


def _per(match: re.Match[str]) -> list[str]:
    whole = [f"per {one}" for one, _ in tables.units_by_sign()[match["unit"]]]
    articles = [re.sub(r"per (?=([a-z]))", _article, name) for name in whole]
    return [*whole, *articles, f"slash {match['unit'].lower()}"]


def _scaled(match: re.Match[str]) -> list[str]:
    amounts, letter = amounts_of(match["number"])[:3], match["letter"]
    is_range = re.match(r"[-–]\d", match.string[match.end() :][:2])  # 20k-30k
    return cross(amounts, [tables.MAGNITUDES[letter], " ".join(letter.lower()), *([""] if is_range else [])])


def _power(match: re.Match[str]) -> list[str]:
    exponent, base = match["exponent"], match["base"]
    bases = amounts_of(base)[:2] if base and base[0].isdigit() else [base.lower() if base else ""]
    minus = "minus " if exponent.startswith("-") else ""
    number = int(exponent.lstrip("-")[:LONGEST_NUMBER] or 0)
    words = f"{minus}{' '.join(number_words(number))}"
    named = {2: ["squared"], 3: ["cubed"]}.get(number, []) if not minus else []
    endings = [*named, f"to the {minus}{ordinal_of(number)}", f"to the power of {words}", f"to the {words}", words]
    if base and len(base) > 2 and base.isalpha():  # a footnote mark
        endings.insert(0, "")
    return cross(bases, endings)


def _version(match: re.Match[str]) -> list[str]:
    parts = match[0].split(".")
    digits = [digit_words(part) for part in parts]
    numbers = [number_readings(part)[0] for part in parts]
    short = [re.sub("^(\\w+) hundred (?=[a-z])", r"\1 ", number) for number in numbers]  # one ninety two
    ways = (numbers, digits, short)
    return [f" {link} ".join(said) for link in ("point", "dot") for said in ways] + [" ".join(numbers)]


def _decade(match: re.Match[str]) -> list[str]:
    century, tens = match["century"] or "", match["tens"]
    if tens == "00":
        hundreds = [f"{' '.join(number_words(int(century)))} hundreds"] if century else ["two thousands", "hundreds"]
        is_thousand = century and century[1] == "0" and century != "00"
        return [f"{' '.join(number_words(int(century[0])))} thousands", *hundreds] if is_thousand else hundreds
    said = " ".join(number_words(int(tens)))
    if century:
        return [f"{' '.join(number_words(int(century)))} {tables.plural(said)}"]
    return [tables.plural(said), *([] if "'" in match[0] else [f"{said} seconds"])]


def _many(match: re.Match[str]) -> list[str]:
    """100s, 1,000s: hundreds, thousands."""
    digits = match["number"].replace(",", "")
    cardinals = cardinals_of(digits)
    seconds = [f"{cardinal} seconds" for cardinal in cardinals]
    return [tables.MANY[len(digits) - 1], tables.plural(cardinals[0]), *seconds]


def _plural_number(match: re.Match[str]) -> list[str]:
    """737s, MP3s, B-52s: more than one of a number; or seconds, where it stands by itself and is small."""
    digits = match["number"]
    plurals = [tables.plural(option) for option in number_readings(digits)]
    if "'" in match[0] or re.match("[A-Za-z-]", match.string[max(0, match.start() - 1) : match.start()]):
        return plurals
    seconds = [f"{option} second{'s' if int(digits) != 1 else ''}" for option in cardinals_of(digits)]
    return [*seconds, *plurals] if int(digits) < 100 else [*plurals, *seconds]


def _number(match: re.Match[str]) -> list[str]:
    return _signed(match["sign"], amounts_of(match["number"]))


def _roman(match: re.Match[str]) -> list[str]:
    """A Roman numeral after a name (Louis XIV), after what is counted (Chapter IV), or by itself; else letters.

    Small letters may be one after what is counted (scene ii), and a word with L, C, D or M (MIX) is first a word.
    """
    numeral, owns = match["numeral"].upper(), match["owns"] or ""
    try:
        number = int(RomanNumeral.from_string(numeral))
    except (InvalidRomanNumeralError, OutOfRangeError):
        return []
    before = re.search(r"([A-Za-z]*)\s?$", match.string[max(0, match.start() - LONGEST_WORD) : match.start()])[1]
    is_counted = before.lower() in tables.COUNTED_SECTIONS
    is_lone_letter = len(numeral) == 1 or not set(numeral) & set("IVX")  # vitamin D, a CD
    if is_lone_letter and not (is_counted or (numeral in "VX" and before != before.lower())):
        return []
    word = [numeral.lower()] if in_dictionary(numeral.lower()) else []
    cardinal, ordinal, letters = " ".join(number_words(number)), ordinal_of(number), " ".join(numeral.lower())
    if match["numeral"].islower():
        return [" ".join(_token_words(match[0])[0]), cardinal] if is_counted else []
    options = [cardinal, f"the {ordinal}", ordinal, letters, number_readings(str(number))[0]]  # MCMXCIX
    if before[:1].isupper() and not is_counted:
        options = [f"the {ordinal}", cardinal, ordinal, letters]
    options = [*word, *options] if set(numeral) & set("LCDM") and not is_counted else [*options, *word]
    return [option + owns for option in options]


def _address(match: re.Match[str]) -> list[str]:
    scheme, body = re.fullmatch(r"(?:([a-z]+)://)?(.*)", match[0]).groups()
    spoken_marks = {".": " dot ", "/": " slash ", "@": " at ", "_": " underscore ", "-": " dash ", ":": " colon "}
    pieces = re.findall(r"[A-Za-z']+|\d+|[./@_:-]", body.rstrip("/.-_:"))

    def say(marks: dict[str, str]) -> str:
        return " ".join(
            number_readings(piece)[0] if piece.isdigit() else marks.get(piece) or " ".join(_token_words(piece)[0])
            for piece in pieces
        )

    said = distinct(say(spoken_marks | {"-": dash}) for dash in (" dash ", " ", " hyphen "))
    starts = ["", *([f"{' '.join(scheme)} colon slash slash"] if scheme else [])]
    return cross(starts, [*said, *(address.removeprefix("w w w dot ") for address in said)])


def _abbreviation(match: re.Match[str]) -> list[str]:
    written = match["short"].lower()
    options = tables.ABBREVIATIONS[written].split("|")
    before_name = re.match(r"\.? [A-Z]", match.string[match.end("short") : match.end("short") + 3])
    if written in ("st", "dr", "mt", "ft") and not before_name:  # Main St., 5 ft.
        options.reverse()
    return [*options, written] if in_dictionary(written) else options


def _feet_and_inches(match: re.Match[str]) -> list[str]:
    feet, inches = (" ".join(number_words(int(match[group]))) for group in ("feet", "inches"))
    return [f"{feet} {foot} {inches} {inch}" for foot in ("feet", "foot", "") for inch in ("inches", "")]


def _length(match: re.Match[str]) -> list[str]:
    """5' and 5": feet and inches, or the end of a quote."""
    names = ["feet", "foot", "minutes"] if match["mark"] == "'" else ["inches", "inch"]
    said = amounts_of(match["number"])[:4]
    is_quote = _quote_is_open(match, f" {match['mark']}" if match["mark"] == "'" else '"')
    return cross(said, ["", *names] if is_quote else [*names, ""])


def _minutes_of_arc(match: re.Match[str]) -> list[str]:
    minutes = " ".join(number_words(int(match["minutes"])))
    seconds = f"{' '.join(number_words(int(match['seconds'])))} seconds" if match["seconds"] else ""
    return [f"{minutes} minutes {seconds}"]


def _short_name(match: re.Match[str]) -> list[str]:
    written = match[0].rstrip(".")
    return [tables.SHORT_NAMES[written].lower(), written.lower()]


def _span_of_days(match: re.Match[str]) -> list[str]:
    """Mon-Fri."""
    first, last = ([tables.SHORT_NAMES[match[end]].lower(), match[end].lower()] for end in ("first", "last"))
    return cross(first, ["to", "", "through"], last)


def _letters(match: re.Match[str]) -> list[str]:
    return [" ".join(re.findall("[a-z]", match[0].lower()))]


def _letters_of_many(match: re.Match[str]) -> list[str]:
    """Ph.D.s."""
    return [f"{' '.join(re.findall('[a-z]', match[0].lower())[:-1])}'s"]


def _aside(match: re.Match[str]) -> list[str]:
    """Words in round brackets: a stage direction that nobody says, or an aside that somebody does."""
    inside = match["inside"]
    return ["", *readings(inside, min(MOST_PLACE_READINGS // 2, 1 + LONGEST_LINE // (1 + len(inside))))]


def _label(match: re.Match[str]) -> list[str]:
    """Who speaks, at the head of a line: in capitals seldom said, else perhaps what the line is about (Remember:)."""
    who, words = match["who"], readings(match["who"], MOST_PLACE_READINGS // 4)
    is_name = who.startswith(("Speaker", "SPEAKER")) or (who.isupper() and not re.search(r"\d", who))
    return ["", *words] if is_name else [*words, ""]


def _label_line(match: re.Match[str]) -> list[str]:
    """A line of a name in capitals, or of a name and a time."""
    if match.start() == 0 and match.string.strip() == match[0]:
        return []
    return [*readings(match[0], MOST_PLACE_READINGS // 2), ""]


def _item(match: re.Match[str]) -> list[str]:
    """The number of a line in a list."""
    return [*cardinals_of(match["number"]), ""] if _has_lines(match) else []


def _greek(match: re.Match[str]) -> list[str]:
    return [unicodedata.name(match[0]).rsplit(" ", 1)[-1].lower()]


def _lone_unit(match: re.Match[str]) -> list[str]:
    """Micrometers, written as a unit without a number."""
    return [name for names in tables.units_by_sign().get(match[0], []) for name in names[::-1]]


def _state(match: re.Match[str]) -> list[str]:
    code = match[0].lower()
    return distinct([code if in_dictionary(code) else " ".join(code), tables.STATES[match[0]], " ".join(code)])


_SPEAKER = r"(?:Speaker|SPEAKER)[ _]?\w{1,3}"
_WHO = r"[\w.'-]{0,20}(?: [A-Z\d#&][\w.'-]{0,20}){0,3}"  # behind the capital of a name
_KINDS: tuple[Kind, ...] = tuple(
    (re.compile(pattern, re.MULTILINE), read)
    for pattern, read in (
        # Behind a word only what has no blank, or an attribute, is a tag: "if x<y then z>1".
        (r"\[[^\][]{0,300}\]|(?:(?<!\w)<[/?]?[A-Za-z!][^<>]{0,300}"
         r"|<[/!]?[A-Za-z](?:[^<>=\s]{0,60}|[^<>=]{0,300}=[^<>]{0,300}))>", lambda match: [""]),
        (r"(?:^[>–—-]{0,3} ?|(?<=:\d\d )|(?<=[\])] ))"
         rf"(?P<who>[A-Z][A-Z .'-]{{0,30}}|{_SPEAKER}|[A-Z]{_WHO})"
         r"(?: ?[(\[][^()\[\]\n]{1,40}[)\]])?:(?=\s)", _label),
        (r"(?<=[.?!] )(?P<who>[A-Z](?:[A-Z.'-]{0,15} ){0,2}[A-Z]{0,15}):(?=\s)", _label),
        (r"^(?:[QA]\.|[a-z]\))(?= \S)", lambda match: [match[0][0], ""] if _has_lines(match) else []),
        (r"^[A-Z][A-Z .'-]{2,30}(?: ?\([^()\n]{1,40}\))?$(?=\n[^\n]{0,80}[a-z])", _label_line),
        (rf"^(?:{_SPEAKER}|[A-Z]{_WHO}) +(?:\d{{1,2}}:)?\d{{1,2}}:\d\d(?=[ \t]*\n)", _label_line),
        (r"^>{1,3}(?= ?[A-Za-z])", lambda match: ["", *tables.SYMBOLS[">"].split("|")]),
        (rf"^(?P<number>\d{{1,3}})[.)] (?=\S)(?!(?!May|Mar)(?:{_MONTH})\b)", _item),
        (r"^(?P<hour>\d{1,2}):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?(?:[.,](?P<fraction>\d{1,3}))?(?![\w:.,])",
         _stamp),
        (r"(?<![\w.])(?:[a-z]{2,10}://[^\s<>\"')\]]{1,300}|www\.[^\s<>\"')\]]{1,300}"
         r"|[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,5}|[A-Za-z][\w-]{0,63}(?:\.[\w-]{1,64}){0,4}"
         r"\.(?:com|org|net|edu|gov|io|ai|info|co|uk|de|eu)(?:/[\w./-]{0,200}|'s)?)(?!\w)", _address),
        (r"(?<![\d.])(?:\+\d{1,3}(?:[ .-]\d(?=[ .-]))?(?:[ .-]?(?:\(\d{1,4}\)|\d{2,4})){2,5}|0\d(?:[ .]\d\d){4}"
         r"|(?:\+?1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}|\d{3}[-.]\d{4}|\d{3}-\d{2}-\d{4}"
         r"|0\d{2,4}[ -]\d{3,4}[ -]?\d{3,4}|(?:\d{4}[ -]){3}\d{4}|\d{1,6}(?:-\d{1,7}){3,6})(?![\d-])", _phone),
        (r"\((?P<inside>[^()]{0,400}(?:\([^()]{0,100}\)[^()]{0,400}){0,3})\)", _aside),
        (r"\{(?P<inside>[^{}]{0,300})\}", lambda match: [*_aside(match)[1:], ""]),
        (r"(?<![\d./-])(?P<iso>\d{4}(?P<between>[/-])\d{1,2}(?P=between)\d{1,2})(?![\d/-])|"
         r"(?<![\d./-])\d{1,2}(?P<mark>[/.-])\d{1,2}(?P=mark)(?:\d{4}|\d{2})(?![\d./-]\d|\d)", _numeric_date),
        (rf"(?P<minus>{_SIGN})(?P<sign>{_CURRENCY}|(?:{_CODE})(?= ?\d)) ?(?P<amount>{_AMOUNT})"
         rf"(?:(?: ?(?P<scale>{_MAGNITUDE}))?(?:[-–](?:{_CURRENCY})?| [-–] {_CURRENCY})(?P<range>{_NUMBER}))?"
         rf"(?:(?: ?|-(?=[a-z]{{5}}))(?P<magnitude>{_MAGNITUDE})(?![A-Za-z]))?(?P<sign_after>)", _money),
        (rf"(?P<minus>{_SIGN})(?P<sign>)(?P<amount>{_AMOUNT})(?P<range>)(?P<scale>)"
         rf"(?: ?(?P<magnitude>{_MAGNITUDE})(?![A-Za-z]))?"
         rf" ?(?P<sign_after>{_CURRENCY}|(?:{_CODE})(?![A-Za-z]))(?!\d)", _money),
        (rf"(?<=\d )(?:{_CODE})\b", lambda match: [" ".join(match[0].lower()), ""]),  # $5 USD
        (r"(?<![\d:.])(?P<hour>[01]?\d|2[0-4])(?::|h(?=\d\d(?!\w))|\.(?=\d\d ?[aApP]\.?[mM]\b))(?P<minute>[0-5]\d)"
         r"(?::(?P<second>[0-5]\d))?(?:\.(?P<fraction>\d{1,3})(?!\w))?(?![\d:])", _clock),
        (r"(?:(?<=:\d\d)|(?<=:\d\d ))(?:h|hrs)\b", lambda match: ["hours", "h", ""]),
        (r"(?:(?<=\d)|(?<=\d )|(?<=o'clock ))[aApP]\.?[mM](?!\w)(?:\.(?!\w))?", _letters),
        (rf"\b(?P<month>{_MONTH}) (?P<day>[0-2]?\d|3[01])(?:st|nd|rd|th)?"
         r"(?:(?P<link>[-–]|(?: [-–] |, | and )(?=\d+\w{0,2}(?:[,.;]|$| and\b)))"
         r"(?P<upto>[0-2]?\d|3[01])(?:st|nd|rd|th)?)?(?![\w:%/,.]{0,40}\d|[%:/])",
         _month_day),
        (r"(?<![\d.,/-])(?:(?P<since>[0-2]?\d|3[01])(?:st|nd|rd|th)? ?[-–] ?)?"
         rf"(?P<day>[0-2]?\d|3[01])(?P<ordinal>st|nd|rd|th|\.)?[ -](?:of )?(?P<month>{_MONTH})(?!\w)", _day_month),
        (r"(?<![\w.,/-])(?:(?P<whole>\d{1,6})[ -]+)?(?P<upper>\d{1,3}) ?/ ?(?P<lower>1000|\d{1,3})"
         r"(?:nds?|rds?|ths?)?(?![\w/.,]{0,40}\d|/)(?: ?(?P<inch>\"))?", _fraction),
        (r"(?<![\d.])(?P<base>\d{1,15}|[A-Za-z]{1,40})?\^(?P<exponent>-?\d{1,6})(?!\d)", _power),
        (r"(?<!\w)(?P<number>\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:(?<=1)st|nd|rd|th)(?![A-Za-z])",
         lambda match: ordinals_of(int(match["number"].replace(",", "")))),
        (r"(?<![\w.,])(?P<number>10{1,6}|10{0,2}(?:,000){1,2})s(?![A-Za-z])", _many),
        (r"'?(?<![\d.])(?P<century>\d\d)?(?P<tens>\d0)'?s(?![A-Za-z])", _decade),
        (r"(?<![\d.,])(?P<number>\d{1,9})'?s(?![A-Za-z])", _plural_number),
        (r"(?<![\w.])(?P<hour>[01]\d|2[0-3])(?P<minute>[0-5]\d) ?(?:hours|hrs)\b", _hours),
        (r"(?<=°)(?P<minutes>\d{1,2})'(?:(?P<seconds>\d{1,2})\")?", _minutes_of_arc),
        (r"(?<![\w.'])(?P<feet>\d{1,2})'(?P<inches>1[01]|\d)(?![\w.'\"])", _feet_and_inches),
        (r"(?P<feet>\d)(?:'| ?(?:ft\.?|feet)) ?(?P<inches>1[01]|\d)(?:\"|''| ?in(?:ches|\.)?(?!\w))", _feet_and_inches),
        (rf"(?P<sign>{_SIGN})(?P<number>{_NUMBER})(?P<gap>[ -]?)(?P<unit>{_UNIT})(?![A-Za-z^]|\.[A-Za-z])"
         rf"(?: ?[-–] ?(?P<upto>{_NUMBER}) ?(?P=unit)(?![A-Za-z^]|\.[A-Za-z]))?", _quantity),
        (rf"(?:(?<=/\d)|(?<=/\d )|(?<=/\d  )|(?<=/\d\d )|(?<=/\d\d  ))(?P<unit>{_UNIT})(?![A-Za-z^]|\.[A-Za-z])"
         "(?P<number>)(?P<gap>)", _unit_names),  # 1/2 lb
        (rf"(?P<number>{_NUMBER}) ?(?P<letter>k|K|M|bn|mn|B)(?![A-Za-z]|\.[A-Za-z])", _scaled),
        (r"\d{1,9}(?:\.\d{1,9}){2,6}(?!\.?\d)", _version),
        (r"(?:(?<=[\d%°¢'\"])|(?<=\d[snrt][tdh])|(?<=\d[skKM])|(?<=[ap]m)|(?<=[ap]\.m\.)) ?[-–—] ?(?='?[\d$€£])"
         rf"|(?:(?<=\d)|(?<=\d ))[-–—] ?(?=(?:{_MONTH}) \d)"
         r"|(?:(?<=[\d%°¢'\"€£] )|(?<=[ap]m )|(?<=[ap]\.m\. ))[–—] (?=[\d$€£])", lambda match: tables.RANGE.split("|")),
        (r"(?<=[\d%°¢€£] )- (?=[\d$€£])", lambda match: ["minus", "to", "", "through"]),
        (r"(?<=[A-Za-z] )[–—] (?=[\d$€£])|(?<=[A-Za-z])–(?=\d)|(?<=[A-Z])–(?=[A-Z])",
         lambda match: ["", "to", "through", "minus"]),
        (r"(?<=\d):(?=\d)", lambda match: ["to", "", "colon", "by"]),
        (r"(?<=\d[-–])0(?![\d.,])|(?<![\w.,$-])0(?=[-–]\d)", lambda match: ["zero", "oh", "nil", "nothing", "love"]),
        (r"(?:(?<=\b(\d)[-–])\1|(?<=\b(\d\d)[-–])\2)(?![\d.,-])", lambda match: [*cardinals_of(match[0]), "all"]),
        (r"(?:(?<=GMT)|(?<=UTC)|(?<=\bT))[-−–](?=\d)", lambda match: ["minus", ""]),
        (r"(?<=[a-z.])–(?=[A-Z])", lambda match: ["to", ""]),
        (r"(?<=\d)x(?=\d)", lambda match: ["by", "x", "times"]),
        (r"(?<=\d)[xX](?!\w)|(?<!\w)x(?= ?\d)", lambda match: ["x", "times", "by", "extension"]),
        (r"(?:(?<=°)|(?<=° )|(?<=\d['\"])) ?[NSEW]\b",
         lambda match: [tables.DIRECTIONS[match[0].strip()], match[0].lower()]),
        (r"(?<=[\w°%])/(?P<unit>s|sec|h|hr|min|d|kg|g|l|L|m|km|yr|mo|lb|oz|gal|ft|mi|wk)(?![A-Za-z])", _per),
        (r"(?:(?<=\d)|(?<=\d[kKMx]))/(?=[a-z]{3})", lambda match: ["per", "a", "an", "", "slash", "or"]),
        (r"(?<![\w.])(?P<number>\d\d?)p(?!\w)",
         lambda match: cross(amounts_of(match["number"]), ["p", "pence", "penny"])),
        (rf"(?<![\w.,'])(?P<number>{_NUMBER})(?P<mark>['\"])(?!(?!x\d)[\w'\"])", _length),
        (rf"(?P<sign>{_SIGN})(?P<number>{_NUMBER})", _number),
        (r"#(?=\d)", lambda match: ["number", "pound", "hashtag", "hash", ""]),
        (rf"(?<=[a-z], )(?:{'|'.join(tables.STATES)})\b(?!')", _state),
        (r"\b(?P<numeral>[IVXLCDM]{1,15}|[ivx]{2,8})\b(?:(?P<owns>'s)\b|(?!'))", _roman),
        (rf"(?<![\w.])(?![Nn]os?\.(?! ?\d))(?P<short>{_ABBREVIATION})(?:\.(?!\w)|(?<=w/)|(?<=/[oca])(?!\w))",
         _abbreviation),
        (r"(?<![\w.])(?P<short>St)(?= [A-Z])", _abbreviation),
        (r"(?<![\w.])(?P<short>St|Mt|Ft|Ste|Apt|Ave|Blvd|Rd|Ln|Hwy|Rte|Pkwy|Lt|Sgt|Capt|Gov|Sen|Rep|Rev)(?![\w.'])",
         lambda match: [*map(" ".join, _token_words(match[0])), *_abbreviation(match)]),
        (r"(?:(?<=\d )[NSEW]\b(?=\.? [A-Z\d])|\b[NSEW]\b(?=\.? \d+(?:st|nd|rd|th)\b))",
         lambda match: [match[0].lower(), tables.DIRECTIONS[match[0]]]),
        (r"\b[NS][EW]\b", lambda match: [*map(" ".join, _token_words(match[0], letters_too=True)),
                                        "".join(tables.DIRECTIONS[letter] for letter in match[0])]),
        (r"\bv(?=\d)", lambda match: ["v", "version"]),
        (r"\bWW(?P<which>II?|1|2)\b", lambda match: [
            f"{war} {'one' if match['which'] in ('I', '1') else 'two'}" for war in ("world war", "w w")]),
        (r"(?<![\w.])(?P<short>[pc])\. ?(?=\d)", lambda match: [tables.BEFORE_NUMBERS[match["short"]], match["short"]]),
        (r"(?<=[A-Za-z.] )v\.(?= [A-Z])", lambda match: ["versus", "v"]),
        (r"\bpH\b", lambda match: ["p h"]),
        (r"\b(?:(?<=\d )(?:AD|BCE?|CE)|AD(?= \d))\b", lambda match: [" ".join(match[0].lower()), match[0].lower()]),
        (r"(?<!\w)[Nn]o\.(?=\d)", lambda match: ["number", "no"]),
        (r"(?<![\w.])(?:Ph\.D|(?:[A-Z]\.){1,4}[A-Z])\.?'?s\b", _letters_of_many),
        (rf"\b(?P<first>{_NAME_OF_DAY_OR_MONTH})\.?[-–](?P<last>{_NAME_OF_DAY_OR_MONTH})(?:\.(?!\w)|\b)",
         _span_of_days),
        (rf"\b(?:{_NAME_OF_DAY_OR_MONTH})\.(?!\w)", _short_name),
        (rf"\b(?!{_NAMES_AND_WORDS})(?:{_NAME_OF_DAY_OR_MONTH})\b", lambda match: _short_name(match)[::-1]),
        (r"(?<![\w.])(?:[A-Za-z]\.){1,8}[A-Za-z](?:\.(?!\w)|(?![\w.]))", _letters),
        (r"(?<!\w)μ[A-Za-z]{1,2}(?!\w)", _lone_unit),
        # A letter by itself or in a formula; in a word it is another script.
        (r"(?<![Α-Ωα-ωϕϵ])(?<![A-Za-z]{3})[Α-Ωα-ωϕϵ](?![^\W\d_a-zA-Z]|[A-Za-z]{3})", _greek),
        (r"(?<=[A-Za-z0-9])\.(?=[a-z])", lambda match: ["dot", "", "point"]),
        (r"(?<=[A-Za-z0-9])\.(?=[A-Z])", lambda match: ["", "dot"]),
        (r"(?<=[A-Za-z])\*+|\*+(?=[A-Za-z])|__+", lambda match: [""]),
        (r"(?<=\b[A-Ga-g])#(?!\w)", lambda match: ["sharp", "pound"]),
        (r"#(?=[A-Za-z])", lambda match: ["hashtag", "", "pound", "hash"]),
        (rf"[{''.join(map(re.escape, tables.SYMBOLS))}]", lambda match: tables.SYMBOLS[match[0]].split("|")),
    )
)  # fmt: skip
_WORD = re.compile(r"'?[A-Za-z]+(?:'[A-Za-z]+)*'?")
_SILENT = re.compile(r"[\s,;!?\"]+")


def _token_words(token: str, letters_too: bool = False) -> list[Reading]:
    """The readings of a run of letters: a word of the dictionary, letters one by one, or a spelling to pronounce."""
    lower = token.lower()
    if lower.strip("'") in tables.WITHOUT_DOT:
        return [tuple(option.split()) for option in tables.ABBREVIATIONS[lower.strip("'")].split("|")]
    known = [word for word in (lower, lower.rstrip("'"), lower.strip("'")) if in_dictionary(word)][:1]
    spelling = lower.replace("'", "")
    letters = tuple(spelling)
    plural_letters = (*letters[:-2], f"{letters[-2]}'s") if len(letters) > 2 else ()  # CDs
    if letters_too and re.fullmatch("[A-Z]{2,5}'?s", token):
        return [(known[0],), plural_letters] if known else [plural_letters, (spelling,)]
    if known and letters_too and re.fullmatch("[A-Z]{2,5}", token):
        return [(known[0],), letters]
    if known:
        return [(known[0],), _by_pieces(token)] if re.search("[a-z][A-Z]", token) else [(known[0],)]
    pieces = [piece.lower() for piece in re.findall("[A-Z]?[a-z]+|[A-Z]+(?![a-z])", token.replace("'", ""))]
    whole = (spelling,)
    if len(spelling) > LONGEST_WORD:
        return [_settled(spelling[start : start + LONGEST_WORD] for start in range(0, len(spelling), LONGEST_WORD))]
    if not re.search("[aeiouy]", spelling) or (token.isupper() and len(spelling) <= LONGEST_INITIALS):
        return [letters, whole] if re.search("[aeiouy]", spelling) or token.islower() else [letters]
    if len(pieces) > 1 and all(map(in_dictionary, pieces)):  # YouTube
        return [_settled(pieces), whole, _by_pieces(token)]
    return [whole, _by_pieces(token)] if re.search("[a-z][A-Z]", token) else [whole]


def _by_pieces(token: str) -> Reading:
    """A word with capitals in it, its capitals letter by letter: PhD, iOS, mRNA."""
    pieces = re.findall("[A-Z]?[a-z]+|[A-Z]+(?![a-z])", token.replace("'", ""))
    spelt = (piece.isupper() or not re.search("[aeiouy]", piece.lower()) for piece in pieces)
    return tuple(
        word
        for piece, by_letter in zip(pieces, spelt, strict=True)
        for word in (tuple(piece.lower()) if by_letter else _settled([piece.lower()]))
    )


def _settled(words: Iterable[str]) -> Reading:
    """Words as reading them once more gives them, so that nothing changes from then on."""
    return tuple(settled for word in words for settled in _token_words(word)[0])


# --------------------------------------------------------------------------------------------------- text to readings


def _refuse(transcript: str, text: str, place: int) -> None:
    character = text[place]
    word = re.match(r"\w+", text[place:])[0][:20]
    position = transcript.find(character) + 1
    where = f"at character {position} of the transcript" if position else "in the transcript"
    name = unicodedata.name(character, f"U+{ord(character):04X}").lower()
    raise InputError(
        f"transcript: {character!r} ({name}) in {word!r}, {where}, is no letter of English, which is all that the "
        "aligner knows; write what is said in Latin letters, or leave the transcript out"
    )


def _options(text: str, transcript: str) -> Iterator[list[str] | list[Reading]]:
    """The readings of each place of a folded text; ``transcript`` is where a refusal looks for its letter."""
    letters_too = not text.isupper()
    place = 0
    while place < len(text):
        if silent := _SILENT.match(text, place):
            place = silent.end()
            continue
        for pattern, read in _KINDS:
            match = pattern.match(text, place)
            if match and match.end() > place and (options := read(match)):
                yield [_settled(option.split()) for option in options]
                break
        else:
            match = _WORD.match(text, place)
            if match:
                yield _token_words(match[0], letters_too)
            elif text[place].isalpha():
                _refuse(transcript, text, place)
        place = match.end() if match and match.end() > place else place + 1


def each_place(transcript: str) -> Iterator[Place]:
    """``spoken``, one place after the other: whoever has enough need not read on."""
    if len(transcript) > LONGEST_TRANSCRIPT:
        raise InputError(f"transcript: {len(transcript):,} characters; at most {LONGEST_TRANSCRIPT:,} can be aligned")
    for options in _options(fold(transcript), transcript):
        place = tuple(dict.fromkeys(options))[:MOST_PLACE_READINGS]
        if place != ((),):
            yield place


def spoken(transcript: str) -> list[Place]:
    """What a transcript may say: its places in order, each with its readings as words, the likeliest first.

    A place has at most ``MOST_PLACE_READINGS`` readings; one of them may be empty (a stage direction, a slash). The
    first readings together are ``normalise_text``.

    Raises
    ------
    InputError: the text is longer than ``LONGEST_TRANSCRIPT``, or a letter belongs to a script that English is not
    written in; the message names it and its place.
    """
    return list(each_place(transcript))


def fits(places: Iterable[Place], words: Sequence[str]) -> bool:
    """Whether the places, all of them and in their order, have readings that together are just these words."""
    reached = {0}  # how many of the words the places so far can account for
    for place in places:
        reached = {
            start + len(reading)
            for start in reached
            for reading in place
            if tuple(words[start : start + len(reading)]) == reading
        }
    return len(words) in reached


def normalise_text(transcript: str) -> list[str]:
    """The spoken words of a transcript in its likeliest reading, in lower case.

    Stage directions in brackets go; numbers, dates, money, abbreviations and signs become words; abbreviations in
    capitals or without a vowel that no dictionary has are spelled letter by letter. Reading its words again changes
    nothing.

    Raises
    ------
    InputError: as ``spoken``.
    """
    return [word for place in spoken(transcript) for word in place[0]]


def readings(transcript: str, most: int = MOST_READINGS) -> list[str]:
    """The whole transcript in up to ``most`` different readings, the likeliest first.

    Readings that depart least from the first choices come first. The aligner searches all combinations at once
    (``spoken``); this list is for people.

    Raises
    ------
    InputError: as ``spoken``.
    """
    places = spoken(transcript)
    open_places = [index for index, place in enumerate(places) if len(place) > 1]
    found: dict[str, None] = {}
    heap: list[tuple[int, tuple[tuple[int, int], ...]]] = [(0, ())]  # total rank; (place, rank) of each departure
    for _ in range(MOST_TRIES * most):  # other choices may give the same words: "a_b_c" with one underscore spoken
        if not heap or len(found) >= most:
            break
        total, picks = heapq.heappop(heap)
        chosen = dict(picks)
        found[" ".join(word for index, place in enumerate(places) for word in place[chosen.get(index, 0)])] = None
        last = picks[-1][0] if picks else -1
        for index in open_places:
            if index == last and chosen[index] + 1 < len(places[index]):
                heapq.heappush(heap, (total + 1, (*picks[:-1], (index, chosen[index] + 1))))
            elif index > last:
                heapq.heappush(heap, (total + 1, (*picks, (index, 1))))
    return list(found)
