"""What people write short and how it is said: units, currencies, months and days, abbreviations, signs.

Source: Babel (the CLDR's units, currencies, months and days); the rest is our own.
"""

import re
from functools import cache

from babel import Locale
from babel.numbers import get_currency_name
from babel.units import format_unit

from specsync_lib.speech.plain_text import fold_character

LOCALE = Locale("en", "US")
MONTHS = tuple(LOCALE.months["format"]["wide"].values())
SHORT_NAMES = {
    short: wide
    for table in (LOCALE.months, LOCALE.days)
    for short, wide in zip(table["format"]["abbreviated"].values(), table["format"]["wide"].values(), strict=True)
} | {"Sept": "September", "Tues": "Tuesday", "Thur": "Thursday", "Thurs": "Thursday"}
CURRENCY_SIGNS = {
    "$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₹": "INR", "₩": "KRW", "₽": "RUB", "₺": "TRY", "₴": "UAH",
    "₪": "ILS", "₤": "GBP", "₱": "PHP", "₫": "VND", "₦": "NGN", "฿": "THB",
    "Rs": "INR", "US$": "USD", "C$": "CAD", "AU$": "AUD", "S$": "SGD",
} | {sign: code for code, sign in LOCALE.currency_symbols.items() if re.fullmatch("[A-Z]+[$¥]", sign)}  # fmt: skip
CURRENCY_CODES = [
    "USD", "EUR", "GBP", "JPY", "INR", "CHF", "CAD", "AUD", "NZD", "CNY", "HKD", "SGD", "SEK", "NOK", "DKK", "PLN",
    "CZK", "HUF", "BRL", "MXN", "ZAR",
]  # fmt: skip
COINS = {"GBP": ("penny", "pence"), "INR": ("paisa", "paise"), "RUB": ("kopek", "kopeks"), "JPY": ("sen", "sen")}
MAGNITUDES = {
    "hundred": "hundred", "thousand": "thousand", "million": "million", "billion": "billion", "trillion": "trillion",
    "k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "mm": "million", "MM": "million",
    "b": "billion", "B": "billion", "bn": "billion", "t": "trillion", "T": "trillion", "tn": "trillion",
    "trn": "trillion", "lakh": "lakh", "lakhs": "lakh", "crore": "crore", "crores": "crore",
}  # fmt: skip
_MORE_UNITS = {
    "lbs": "pound", "hrs": "hour", "mins": "minute", "secs": "second", "ml": "milliliter", "l": "liter", "cc": "c c",
    "kph": "kilometer per hour", "kmh": "kilometer per hour", "dB": "decibel", "bps": "bit per second",
    "kbps": "kilobit per second", "Mbps": "megabit per second", "Gbps": "gigabit per second", "fps": "frame per second",
    "rpm": "revolution per minute", "bpm": "beat per minute", "yr": "year", "wk": "week", "mo": "month",
    "kN": "kilonewton", "MWh": "megawatt hour", "mAh": "milliamp hour", "kΩ": "kilo ohm", "mg/L": "milligram per liter",
    "TWh": "terawatt hour", "KB": "kilobyte", "kbit": "kilobit", "Mbit": "megabit", "Gbit": "gigabit",
    "sqm": "square meter", "pts": "point", "Nm": "newton meter", "tbsp": "tablespoon", "TBSP": "tablespoon",
    "Tsp": "teaspoon", "mcg": "microgram", "qts": "quart", "yds": "yard", "mos": "month", "wks": "week", "kts": "knot",
    "pkg": "package", "doz": "dozen", "g/L": "gram per liter",
}  # fmt: skip
MORE_NAMES = {
    "kg": "kilos|kilo", "km": "k", "MB": "megs|meg", "GB": "gigs|gig", "μm": "microns|micron",
    "mA": "milliamps|milliamp", "t": "tons|ton", "°": "", "°F": "degrees|degree|", "°C": "degrees|degree|",
    "ml": "mills|mil", "mL": "mills|mil", "c": "cents|cent", "A": "amps|amp", "bps": "basis points|basis point",
    "N": "north", "S": "south", "W": "west", "ft2": "foot two", "ft3": "foot three", "sec": "sec|secs",
}  # fmt: skip
# Ones with so many zeros, more than one of them.
MANY = ("ones", "tens", "hundreds", "thousands", "tens of thousands", "hundreds of thousands", "millions")
DIRECTIONS = {"N": "north", "S": "south", "E": "east", "W": "west"}
STATES = {
    "AL": "alabama", "AK": "alaska", "AZ": "arizona", "AR": "arkansas", "CA": "california", "CO": "colorado",
    "CT": "connecticut", "DE": "delaware", "FL": "florida", "GA": "georgia", "HI": "hawaii", "ID": "idaho",
    "IL": "illinois", "IN": "indiana", "IA": "iowa", "KS": "kansas", "KY": "kentucky", "LA": "louisiana", "ME": "maine",
    "MD": "maryland", "MA": "massachusetts", "MI": "michigan", "MN": "minnesota", "MS": "mississippi", "MO": "missouri",
    "MT": "montana", "NE": "nebraska", "NV": "nevada", "NH": "new hampshire", "NJ": "new jersey", "NM": "new mexico",
    "NY": "new york", "NC": "north carolina", "ND": "north dakota", "OH": "ohio", "OK": "oklahoma", "OR": "oregon",
    "PA": "pennsylvania", "RI": "rhode island", "SC": "south carolina", "SD": "south dakota", "TN": "tennessee",
    "TX": "texas", "UT": "utah", "VT": "vermont", "VA": "virginia", "WA": "washington", "WV": "west virginia",
    "WI": "wisconsin", "WY": "wyoming",
}  # fmt: skip
BEFORE_NUMBERS = {"p": "page", "c": "circa"}
ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "ms": "miz|miss", "dr": "doctor|drive", "prof": "professor", "st": "saint|street",
    "ave": "avenue", "blvd": "boulevard", "rd": "road", "ln": "lane", "mt": "mount", "ft": "fort|feet|featuring",
    "jr": "junior", "sr": "senior", "sgt": "sergeant", "lt": "lieutenant", "col": "colonel|column", "gen": "general",
    "capt": "captain", "cpt": "captain", "cmdr": "commander", "gov": "governor", "sen": "senator",
    "rep": "representative", "rev": "reverend", "hon": "honorable", "pres": "president", "supt": "superintendent",
    "etc": "et cetera", "vs": "versus", "no": "number|no", "nos": "numbers", "approx": "approximately",
    "est": "established|estimated", "dept": "department", "inc": "incorporated|ink", "ltd": "limited",
    "corp": "corporation", "bros": "brothers", "fig": "figure|fig", "figs": "figures", "vol": "volume", "ch": "chapter",
    "pp": "pages", "pg": "page", "ed": "editor|edition|ed", "eds": "editors", "sec": "section|second",
    "min": "minute|minutes|minimum", "max": "maximum|max", "tel": "telephone", "ext": "extension", "apt": "apartment",
    "assn": "association", "govt": "government", "misc": "miscellaneous", "univ": "university",
    "e.g": "for example|e g", "i.e": "that is|i e", "a.m": "a m", "p.m": "p m", "ph.d": "p h d", "ca": "circa|c a",
    "cf": "compare|c f", "al": "al", "oz": "ounces|ounce", "lb": "pounds|pound", "lbs": "pounds", "hr": "hour|hours",
    "hrs": "hours", "mins": "minutes", "in": "in|inches", "w/o": "without", "w/": "with", "b/c": "because",
    "c/o": "care of", "n/a": "not applicable|n a", "adm": "admiral", "maj": "major", "pvt": "private",
    "cpl": "corporal", "fr": "father", "assoc": "associate", "asst": "assistant", "incl": "including",
    "excl": "excluding", "attn": "attention", "feat": "feat|featuring", "ep": "episode|e p", "pt": "part|point|pint",
    "pkg": "package", "doz": "dozen", "fl": "floor|florida", "bldg": "building", "rm": "room", "ste": "suite",
    "hwy": "highway", "rte": "route", "pkwy": "parkway", "tbsp": "tablespoons|tablespoon", "tsp": "teaspoon|teaspoons",
    "gov't": "government", "int'l": "international", "cont'd": "continued", "co": "company|co", "temp": "temperature",
    "viz": "namely", "op": "opus", "eq": "equation", "calif": "california",
}  # fmt: skip
SYMBOLS = {
    "#": "pound|hash|hashtag|number|sharp|", "*": "star|asterisk|times|", "%": "percent", "&": "and|ampersand",
    "@": "at", "+": "plus|and|", "=": "equals|is|is equal to|", "°": "degrees|degree|",
    "<": "less than|under|fewer than|", ">": "greater than|more than|over|", "~": "about|approximately|tilde|",
    "±": "plus or minus", "×": "times|by|x", "÷": "divided by|over", "−": "minus|negative",
    "√": "square root of|root|the square root of", "∞": "infinity",
    "≈": "approximately|about|is approximately equal to", "≤": "less than or equal to|at most",
    "≥": "greater than or equal to|at least", "≠": "not equal to|is not equal to", "^": "to the power of|to the|caret|",
    "§": "section|sections|", "¢": "cents|cent", "‰": "per mille|per thousand", "/": "|slash|or|per|and|over|stroke",
    "\\": "|backslash", "_": "|underscore", "→": "|to", "…": "", "|": "", "¬": "|not", "∼": "about|approximately",
    "½": "half", "№": "number", "⋅": "times|dot", "·": "|dot|times", "¿": "", "¡": "", "∑": "sum", "∫": "integral",
    "∂": "partial", "∅": "empty set", "∆": "delta", "¥": "yen", "₿": "bitcoin|bitcoins",
}  # fmt: skip
# Abbreviations that need no dot.
WITHOUT_DOT = frozenset([
    "mr", "mrs", "dr", "jr", "sr", "prof", "vs", "etc", "approx", "gov't", "int'l", "cont'd",
])  # fmt: skip
# "2 in a row": more often a word behind a number.
UNITS_AND_WORDS = frozenset([
    "in", "ha", "em", "st", "dr", "bar", "d", "c", "A",
])  # fmt: skip
RANGE = "to||through|dash|minus"
# What a Roman numeral counts.
COUNTED_SECTIONS = frozenset([
    "chapter", "part", "act", "scene", "volume", "book", "war", "phase", "type", "class", "level", "stage", "section",
    "article", "title", "appendix", "figure", "table", "grade", "mark", "episode", "season", "round", "week", "step",
    "version", "super", "bowl", "unit", "lesson", "page",
])  # fmt: skip


@cache
def units_by_sign() -> dict[str, list[tuple[str, str]]]:
    """What stands behind a number, as the CLDR writes it short, to its names for one and for more."""
    units: dict[str, list[tuple[str, str]]] = {}
    for length in ("short", "narrow"):
        for identifier in LOCALE.unit_display_names:
            long = [format_unit(count, identifier, "long", locale=LOCALE).partition(" ")[2] for count in (1, 2)]
            names = tuple(" ".join(re.findall("[a-z]+", name.lower())) for name in long)
            short = format_unit(2, identifier, length, locale=LOCALE).removeprefix("2").strip()
            short = short.replace("²", "^2").replace("³", "^3")
            if re.fullmatch(r"(?:sq |fl )?[A-Za-zμΩ°%‰/]+(?:\^[23])?", short) and "[" not in "".join(long):
                units.setdefault(short, [])
                units[short] += [names] if names not in units[short] else []
    units |= {short.replace("^", ""): names for short, names in units.items() if "^" in short}  # m2
    for word, power in (("sq", "^2"), ("sq.", "^2"), ("cu", "^3"), ("cu.", "^3")):  # sq. m
        units |= {f"{word} {short[:-2]}": names for short, names in units.items() if short.endswith(power)}
    del units["pm"], units["ac"]  # nine in the evening, not picometres; 802.11ac, not acres
    units["°"] = [
        ("degree", "degrees"),
        ("degree fahrenheit", "degrees fahrenheit"),
        ("degree celsius", "degrees celsius"),
    ]
    for short, name in _MORE_UNITS.items():
        head, per, rest = name.partition(" per ")
        units[short] = [(name, f"{plural(head)}{per}{rest}")]
    return units


@cache
def currency_land(code: str) -> str:
    """Whose currency it is, as spoken: u s, canadian; empty where its name does not say."""
    words = get_currency_name(code, 2, locale=LOCALE).split()[:-1]
    return " ".join(" ".join(word) if word.isupper() else word for word in words).lower()


@cache
def currency_names(code: str) -> tuple[str, str]:
    """A currency's name for one and for more, as spoken where it is at home: dollar, dollars."""
    one, more = (get_currency_name(code, count, locale=LOCALE).split()[-1].lower() for count in (1, 2))
    return _ascii_word(one), _ascii_word(more)


def _ascii_word(word: str) -> str:
    return re.sub("[^a-z']", "", "".join(map(fold_character, word)))


def plural(words: str) -> str:
    """More than one of what the last word names."""
    last = words.rsplit(" ", 1)[-1]
    if last.endswith("y"):
        return f"{words[:-1]}ies"
    return f"{words}es" if last.endswith(("s", "x")) else f"{words}s"
