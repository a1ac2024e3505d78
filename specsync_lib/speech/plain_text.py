"""Any text in plain letters, digits and signs, whatever it was typed, pasted or saved with.

Mojibake is mended; markdown, subtitle files' cues and the styles of letters go. ``words`` reads what is left.

Source: ftfy (mojibake, entities, quotes, ligatures, widths), markdown-it-py (CommonMark), anyascii (Latin letters
beyond a to z), the Unicode database of Python.
"""

import json
import re
import unicodedata
from functools import cache

import anyascii
import ftfy
from markdown_it import MarkdownIt

_BLANKS = dict.fromkeys(map(ord, "\v\f\x1c\x1d\x1e\x1f"), "\n")  # which would join the words beside them
_APOSTROPHES = dict.fromkeys(map(ord, "’‘‛ʼʹʻʽ`´′＇"), "'") | dict.fromkeys(map(ord, "‐‑"), "-") | {ord("″"): '"'}
_LOOKALIKES = {ord("‒"): "–", ord("―"): "—", ord("˚"): "°", ord("【"): "[", ord("】"): "]"}
_MARKS = dict.fromkeys(map(ord, "™℠©®℗"), None) | {ord("№"): " number ", ord("♭"): " flat ", ord("♯"): "#"}
_SWAPPED = str.maketrans(".,", ",.")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
# Letters raised: st in 1ˢᵗ. Behind a letter they are footnote marks.
_RAISED = re.compile(
    "(?<![^\\W\\d_])[{}]+".format(
        "".join(
            letter
            for letter in map(chr, range(0x3000))
            if unicodedata.category(letter) == "Lm" and unicodedata.normalize("NFKC", letter).isascii()
        )
    )
)
_LOST_APOSTROPHE = re.compile(r"(?<=[A-Za-z])\ufffd(?=(?:s|t|d|m|re|ve|ll)\b)")
_SIGN_BEHIND = re.compile(r"([$€£])[-−](?=\d)")  # $-5
_DEGREE = re.compile("(?<=\\d)( ?)º")
# Digits in groups of three as they are not written in English: narrow blanks, 1'000, 1.234,56.
_GROUPS = re.compile("(?<![\\d.,])[1-9]\\d{0,2}([\u00a0\u2007\u2009\u202f'’])\\d{3}(?:\\1\\d{3}){0,4}(?![\\d'’])")
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\.\d{3})+,\d{1,2}|(?:\.\d{3}){2})(?!\d|[.,]\d)")
_STAMP = r"\d+:\d[\d:.,]*"
_SUBTITLE_CUE = re.compile(
    rf"(?m)^(?:\d+[ \t]*\n)?[ \t]*{_STAMP}[ \t]*-->.*$"  # SubRip, and WebVTT
    rf"|<{_STAMP}>|<\|[^|<>\n]{{0,40}}\|>|\{{\\[^{{}}\n]{{0,100}}\}}"  # the time of a word; <|en|>; {{\an8}}
    r"|^Dialogue: (?:[^,\n]{0,80},){9}"  # Advanced SubStation
    r"|^\d+:\d\d:\d\d\.\d+,\d+:\d\d:\d\d\.\d+$"  # YouTube's SubViewer
)
# WebVTT: what stands at its head, its comments and styles up to the next empty line, the names of its cues.
_WEBVTT_REST = re.compile(
    r"(?m)\AWEBVTT\b.*(?:\n[A-Za-z-]+[:=].*)*|(?<=\n\n)(?:NOTE|STYLE|REGION)\b.*(?:\n.+)*"
    rf"|(?<=\n\n)[^\n]{{1,80}}\n(?=[ \t]*{_STAMP}[ \t]*-->)"
)
# What someone does and nobody says: *laughs*.
_STAGE_DIRECTIONS = [
    "laughs", "laughing", "laughter", "chuckles", "chuckling", "giggles", "giggling", "sighs", "sighing", "coughs",
    "coughing", "gasps", "gasping", "sniffs", "sniffles", "sobs", "sobbing", "cries", "crying", "groans", "grunts",
    "whispers", "whispering", "shouts", "shouting", "screams", "screaming", "yells", "yelling", "mutters", "clears",
    "clearing", "smiles", "smiling", "grins", "winks", "shrugs", "nods", "pauses", "pause", "applause", "claps",
    "clapping", "music", "sings", "singing", "hums", "humming", "yawns", "breathes", "inhales", "exhales", "sneezes",
    "snorts", "snores", "whistles", "silence", "beat", "inaudible", "cheering", "knocks", "knocking",
]  # fmt: skip
_STAGE_DIRECTION = re.compile(rf"(?i)(?<![*\w])\*((?:{'|'.join(_STAGE_DIRECTIONS)})(?: [^*\n]{{1,40}})?)\*(?![*\w])")
_MARKUP = re.compile(r"[*_`~\\#>\[!-]|^[ \t]*\d+[.)]\s", re.MULTILINE)
_INLINE_RULES = ("emphasis", "strikethrough", "backticks", "link", "image", "escape")
_BLOCK_RULES = ("heading", "list", "blockquote", "fence", "hr")


@cache
def _markdown(blocks: bool) -> MarkdownIt:
    parser = MarkdownIt("zero", {"maxNesting": 20}).enable(list(_INLINE_RULES))
    return parser.enable(list(_BLOCK_RULES)) if blocks else parser


def _without_markdown(text: str) -> str:
    """The text of light markdown: emphasis, code, links, headings, lists and quotes lose their marks.

    One line is no document: there "# to exit" is a key to press, not a heading.
    """
    if not _MARKUP.search(text):
        return text
    text = re.sub(r"(?<=\d)\*(?=\d)", "×", text)
    pieces: list[str] = []
    for token in _markdown(blocks="\n" in text.strip()).parse(text):
        if token.type == "list_item_open" and token.info:
            pieces.append(f"{token.info}. ")
        elif token.type == "inline":
            for child in token.children or []:
                pieces.append("\n" if child.type in ("softbreak", "hardbreak") else child.content)
            pieces.append("\n")
        elif token.type == "fence":
            pieces.append(token.content)
    return "".join(pieces)


def _without_cues(text: str) -> str:
    """The text of a subtitle file: its times, numbers, styles and comments go."""
    if text.startswith("WEBVTT"):
        text = _WEBVTT_REST.sub("", text)
    elif text.startswith("[Script Info]"):  # Advanced SubStation
        text = "\n".join(line for line in text.split("\n") if line.startswith("Dialogue: "))
    elif text.startswith(("<?xml", "<tt", "<html", "<!DOCTYPE")):  # TTML
        text = text.partition("</head>")[2] or text
    elif text.startswith("start\tend\ttext\n"):  # Whisper's table
        text = re.sub(r"(?m)^(?:\d+\t\d+|start\tend\ttext$)", "", text)
    text, cues = _SUBTITLE_CUE.subn(" ", text)
    return re.sub(r"\\[Nn]", "\n", text) if cues else text


def _of_json(text: str) -> str:
    """The words of a recogniser's JSON, as Whisper writes it; any other text as it is."""
    try:
        found = json.loads(text) if text.lstrip().startswith(("{", "[")) else None
    except (ValueError, RecursionError):
        return text
    segments = found.get("segments") if isinstance(found, dict) else found
    said = [one.get("text") for one in (segments if isinstance(segments, list) else [found]) if isinstance(one, dict)]
    return "\n".join(said) if said and all(isinstance(words, str) for words in said) else text


def _with_commas(number: re.Match[str]) -> str:
    return number[0].replace(number[1], ",")


def fold(transcript: str) -> str:
    """The text in plain letters, digits and signs, whatever it was typed or copied with.

    Mojibake is mended, entities and light markdown are unescaped, subtitle cues go, *laughs* becomes (laughs). Accents,
    ligatures, widths and styles of letters fold to a … z; digits of every script to 0 … 9; superscripts to ^2; quotes,
    dashes and spaces to plain ones; numbers in groups to 1,234.56. Invisible characters, emoji and trade marks vanish.
    Letters of other scripts stay for ``words.spoken`` to refuse.
    """
    text = ftfy.fix_text(_of_json(transcript).translate(_BLANKS), unescape_html=True).translate(_MARKS | _LOOKALIKES)
    text = re.sub(r"(?<!\w)\[([A-Za-z])\](?=[a-z])", r"\1", text)  # [H]e said
    text = re.sub(r"([$€£]\d*)½", r"\1.5", text)
    text = _SIGN_BEHIND.sub(r"-\1", _LOST_APOSTROPHE.sub("'", text))
    text = _without_markdown(_STAGE_DIRECTION.sub(r"(\1)", _without_cues(text)))
    text = _RAISED.sub(lambda run: unicodedata.normalize("NFKC", run[0]), _DEGREE.sub(r"\1°", text))
    text = _DECIMAL_COMMA.sub(lambda number: number[0].translate(_SWAPPED), _GROUPS.sub(_with_commas, text))
    text = _SUPERSCRIPT_RUN.sub(lambda run: f"^{run[0].translate(_SUPERSCRIPTS)}", text).translate(_APOSTROPHES)
    return "".join(map(fold_character, text)).replace("''", '"')


@cache
def fold_character(character: str) -> str:
    """A character as the readings know it: Latin letters without marks, a blank or nothing for what says nothing."""
    if character.isascii():
        return character if character.isprintable() or character == "\n" else " "
    category = unicodedata.category(character)
    if category == "Cf":  # zero-width, soft hyphen, byte order mark
        return ""
    if unicodedata.decimal(character, None) is not None:
        return str(unicodedata.decimal(character))
    plain = unicodedata.normalize("NFKC", character).replace("⁄", "/")
    if category == "No" and "SUBSCRIPT" not in unicodedata.name(character):  # ½ ①
        return f" {plain} "
    if category[0] == "M" or category in ("Lm", "Sk"):
        return ""
    if plain.isascii():
        return plain
    if category[0] == "L" and unicodedata.name(character, "").startswith("LATIN"):
        return re.sub("[^A-Za-z']", "", anyascii.anyascii(character))
    if category in ("Sc", "Sm") or category[0] in "LNP" or "°" in plain:  # ℃
        return plain
    return " "
