"""Any text in plain letters, digits and signs, whatever it was typed, pasted or saved with.

Mojibake is mended; markdown, subtitle files' cues and the styles of letters go. ``words`` reads what is left.

Source: ftfy (mojibake, entities, quotes, ligatures, widths), markdown-it-py (CommonMark), anyascii (Latin letters
beyond a to z), the Unicode database of Python.
"""

import re
import unicodedata
from functools import cache

import anyascii
import ftfy
from markdown_it import MarkdownIt

_APOSTROPHES = dict.fromkeys(map(ord, "’‘‛ʼʹʻʽ`´′＇"), "'") | dict.fromkeys(map(ord, "‐‑"), "-") | {ord("″"): '"'}
_MARKS = dict.fromkeys(map(ord, "™℠©®℗"), None) | {ord("№"): " number "}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_SUBTITLE_CUE = re.compile(r"(?m)^(?:\d+[ \t]*\r?\n)?[ \t]*(?:\d+:)?\d+:\d\d[.,]\d+[ \t]*-->.*$|\AWEBVTT\b.*$")
_MARKUP = re.compile(r"[*_`~\\#>\[!-]|^\s*\d+[.)]\s", re.MULTILINE)
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
                pieces.append(" " if child.type in ("softbreak", "hardbreak") else child.content)
            pieces.append("\n")
        elif token.type == "fence":
            pieces.append(token.content)
    return "".join(pieces)


def fold(transcript: str) -> str:
    """The text in plain letters, digits and signs, whatever it was typed or copied with.

    Mojibake is mended, entities and light markdown are unescaped, subtitle cues go. Accents, ligatures, widths and
    styles of letters fold to a … z; digits of every script to 0 … 9; superscripts to ^2; quotes, dashes and spaces to
    plain ones. Invisible characters, emoji and trade marks vanish. Letters of other scripts stay for ``spoken`` to
    refuse.
    """
    text = ftfy.fix_text(transcript, unescape_html=True).translate(_MARKS)
    text = _without_markdown(_SUBTITLE_CUE.sub(" ", text))
    text = _SUPERSCRIPT_RUN.sub(lambda run: f"^{run[0].translate(_SUPERSCRIPTS)}", text).translate(_APOSTROPHES)
    return "".join(map(fold_character, text)).replace("''", '"')


@cache
def fold_character(character: str) -> str:
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
    if category in ("Sc", "Sm") or category[0] in "LNP" or character == "°":
        return plain
    return " "
