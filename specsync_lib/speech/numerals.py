"""Numbers as people write them, read as people say them: quantities, years, pairs, digits, ordinals.

Source: num2words.
"""

import itertools
import re
from collections.abc import Iterable

from num2words import num2words

LONGEST_NUMBER = 15  # digits; anything longer is read digit by digit
LAKHS = r"\d{1,2}(?:,\d\d){1,4},\d{3}(?!\d)"  # groups of digits as in India: 10,00,000


def number_words(number: int) -> list[str]:
    """A whole number from 0 as English words: 1234 → one thousand two hundred thirty four."""
    return [word for word in re.findall("[a-z]+", num2words(number)) if word != "and"]


def distinct(options: Iterable[str]) -> list[str]:
    """Readings once each, in order, with single blanks."""
    return list(dict.fromkeys(" ".join(option.split()) for option in options))


def cross(*choices: list[str]) -> list[str]:
    """Every combination, one of each list in order; those that take likelier options come first."""
    ranked = itertools.product(*map(enumerate, choices))
    by_rank = sorted(ranked, key=lambda picks: sum(rank for rank, _ in picks))
    return distinct(" ".join(option for _, option in picks) for picks in by_rank)


def digit_words(digits: str, zero: str = "zero") -> str:
    """Digit by digit."""
    return " ".join(zero if digit == "0" else num2words(int(digit)) for digit in digits)


def pair_words(pair: str) -> str:
    """Two digits as in a year or on a clock: 05 → oh five, 00 → hundred, 30 → thirty."""
    if pair == "00":
        return "hundred"
    return f"oh {num2words(int(pair))}" if pair[0] == "0" else " ".join(number_words(int(pair)))


def cardinals_of(digits: str) -> list[str]:
    """A number as a quantity: without and with "and"; "a hundred" for "one hundred"."""
    if len(digits) > LONGEST_NUMBER:
        return [digit_words(digits)]
    plain = " ".join(number_words(int(digits)))
    with_and = " ".join(re.findall("[a-z]+", num2words(int(digits))))
    options = [plain, with_and]
    if plain.startswith("one ") and len(digits) > 2:
        options += [f"a{option[3:]}" for option in (with_and, plain)]
        options += [plain[4:]] if digits.strip("0") == "1" else []  # "a 100", "the 1000"
    return distinct(options)


def number_readings(digits: str) -> list[str]:
    """A run of digits as a quantity, a year, in pairs, or digit by digit."""
    spelt = [digit_words(digits), digit_words(digits, "oh")]
    if re.fullmatch("0[1-9]..", digits):  # 0700
        spelt += [f"{zero} {digit_words(digits[1])} {pair_words(digits[2:])}" for zero in ("oh", "zero")]
    if len(digits) > LONGEST_NUMBER or (len(digits) > 1 and digits[0] == "0"):
        return distinct(spelt)
    cardinals = cardinals_of(digits)
    if len(digits) == 4 and digits[1:] != "000":
        pairs = f"{pair_words(digits[:2])} {pair_words(digits[2:])}"
        is_year = (1100 <= int(digits) <= 1999 and digits[2:] != "00") or 2010 <= int(digits) <= 2099
        return distinct([pairs, *cardinals, *spelt] if is_year else [*cardinals, pairs, *spelt])
    if len(digits) == 3 and digits[1:] != "00":
        return distinct([*cardinals, f"{digit_words(digits[0])} {pair_words(digits[1:])}", *spelt])
    return distinct([*cardinals, *spelt]) if len(digits) > 2 else cardinals


def amounts_of(written: str) -> list[str]:
    """A number as it stands before a unit: 1,234 or 28.8 or 5; in groups as in India or between blanks, too."""
    if " " in written:
        return _amounts_in_blanks(written)
    whole, _, decimals = written.replace(",", "").partition(".")
    if not decimals:
        if "," not in written:
            return number_readings(whole)
        lakhs = re.findall("[a-z]+", num2words(int(whole), lang="en_IN")) if re.fullmatch(LAKHS, written) else []
        grouped = [" ".join(lakhs), " ".join(word for word in lakhs if word != "and")] if lakhs else []
        pairs = [f"{pair_words(whole[:2])} {pair_words(whole[2:])}"] if len(whole) == 4 and whole[1] != "0" else []
        return distinct([*grouped, *cardinals_of(whole), *pairs])
    wholes = cardinals_of(whole)[:3] if whole.strip("0") else ["zero", "", "oh"]
    tails = [digit_words(decimals), digit_words(decimals, "oh")]
    if len(decimals) <= 2 and decimals != "00":
        tails.append(" ".join(number_words(int(decimals))))
    options = [f"{whole} point {tail}" for tail in tails for whole in wholes]
    if decimals == "5":
        options.insert(1, f"{wholes[0]} and a half" if whole.strip("0") else "half a")
    if whole.strip("0") and len(decimals) == 2:
        options.append(f"{wholes[0]} {pair_words(decimals)}")
    options.append(f"{wholes[0]} dot {tails[-1]}")
    if written.startswith(".") or re.fullmatch(r"[1-9]\d{0,2}\.000", written):  # a .22; 1.000 as the Continent writes
        options += number_readings(written.replace(".", "").lstrip("0") or "0")
    return distinct(options)


def _amounts_in_blanks(written: str) -> list[str]:
    """1 250 000 is one number; 5 100 more often two."""
    parts = written.split(" ")
    most = 5 if len(parts) == 2 else 3
    grouped, apart = amounts_of(",".join(parts)), cross(*(amounts_of(part)[:most] for part in parts))
    digits = re.sub("[^0-9]", "", written)
    spelt = [digit_words(digits, zero) for zero in ("zero", "oh")]
    is_one_number = len(parts) > 2 or written.endswith("000")
    likeliest = [*grouped[:2], apart[0]] if is_one_number else [apart[0], *grouped[:2]]
    return distinct([*likeliest, *spelt, *apart, *grouped])


def ordinals_of(number: int) -> list[str]:
    """Without and with "and"; from a hundredth on "a hundredth" and "hundredth", too."""
    words = re.findall("[a-z]+", num2words(number, to="ordinal") if number < 10**LONGEST_NUMBER else "")
    options = [" ".join(word for word in words if word != "and"), " ".join(words)]
    if len(words) > 1 and words[0] == "one":
        options += [f"{one}{option[4:]}" for one in ("a ", "") for option in reversed(options)]
    return distinct(options)


def ordinal_of(number: int) -> str:
    """The likeliest of ``ordinals_of``."""
    return ordinals_of(number)[0]
