# ruff: noqa: E501 (word lists)
"""Sentences to be spoken: made by a small grammar, of random common words, and the corpus' own training transcripts.

The grammar is ours; its words cover the sounds of English, so that no viseme is rare. All words are in the aligner's
dictionary (a test holds it).
"""

from collections.abc import Iterator, Sequence

import numpy as np

SHORTEST_CHARACTERS, LONGEST_CHARACTERS = 14, 130
# How often a sentence comes from the grammar, of random words, from the corpus.
SHARES = {"grammar": 0.55, "words": 0.35, "corpus": 0.10}
VERY_COMMON_WORDS, VERY_COMMON_SHARE = 400, 0.4
WORDS_PER_SENTENCE = (4, 14)

_LISTS = """
name: Anna Oliver Beth George Ruth Hugh Joyce Victor Sophie Matthew Chloe Philip Zoe Arthur Julia Thomas Grace Peter Naomi Keith
person: teacher neighbor doctor child brother sister engineer farmer nurse pilot judge baker singer soldier student writer guide mother father uncle stranger captain merchant
thing: house bridge river book window chair letter engine mountain garden picture basket machine bottle ship table village ladder feather mirror hammer blanket treasure kitchen bicycle kettle thimble orchard umbrella telephone
stuff: water bread sugar paper glass wood silver music smoke rain coffee leather wool cheese salt copper money honey butter sand
place: the harbor / the market / the forest / the valley / the museum / the station / the beach / our garage / the church / the office / a narrow street / the north shore / the upper room / their workshop / the old mill
adjective: old young bright quiet heavy yellow beautiful broken gentle thick smooth huge strange narrow warm foolish precious rough cheap thirsty purple whole vague joyful useful early curious golden loud
verb: found carried watched bought pushed measured followed finished painted touched washed showed chose moved gave held brought watched judged fixed
verb_base: find carry watch buy push measure follow finish paint touch wash show choose move give hold bring judge fix reach
intransitive: laughed waited slept shouted vanished arrived returned worked smiled breathed paused jumped whispered coughed swam
adverb: slowly / quickly / carefully / usually / together / already / never / often / clearly / softly / gladly / twice / yesterday / tomorrow / without warning / in the morning / before noon / after the storm / at five o'clock
number: two three four five six seven eight nine ten eleven twelve thirteen fifteen twenty thirty forty fifty sixty
plural: boys girls birds shoes watches fish apples horses thieves months voices clothes bridges judges leaves measures oranges teeth mice clouds
question: why how when where
feeling: happy tired worried sure afraid proud angry curious ready thankful
preposition: near behind above beneath through across beside around toward under
opinion: I think / we believe / they knew / you should know / she heard / he hoped / everyone agreed / nobody thought
month: January February March April May June July August September October November December
day: Monday Tuesday Wednesday Thursday Friday Saturday Sunday
shape: as round as an egg / as thin as a leaf / as sharp as a thorn / as deep as the ocean / as soft as wool
"""
_FRAMES = """
The {adjective} {person} {verb} the {thing} {preposition} {place}.
{name} {verb} {number} {adjective} {plural}, and {name} {verb} the {thing}.
{question} did the {person} {verb_base} that {adjective} {thing}?
{opinion} the {thing} was {adjective}, but the {person} {intransitive} {adverb}.
Please {verb_base} the {stuff} {preposition} the {thing} {adverb}.
On {day} the {number} of {month}, {name} {intransitive} {preposition} {place}.
If you {verb_base} the {thing}, the {person} will be {feeling}.
There were {number} {plural} and a {thing} full of {stuff}.
{name} was {feeling} because the {adjective} {person} had {verb} her {thing}.
Can the {person} {verb_base} the {stuff}, or must we {verb_base} the {thing} {adverb}?
What a {adjective} {thing}! It is {shape}.
My {person} {adverb} {verb} the {thing} with {stuff} and {stuff}.
You could {verb_base} it {adverb}, said {name}, but do not {verb_base} the {plural}.
The {plural} {intransitive} while we {verb} {adjective} {stuff} in {place}.
{number} {plural}, {number} {plural}, and one {thing}.
He would rather {verb_base} a {thing} than {verb_base} the {adjective} {plural} of {place}.
This {thing} is {adjective}, that {thing} is {adjective}, and both are {shape}.
Yes, {opinion} it was {feeling} {name} who {verb} the {plural}.
"""


def _word_lists() -> dict[str, list[str]]:
    """Words by spaces; where a list has a slash, phrases by slashes."""
    lists = dict(line.split(": ", 1) for line in _LISTS.strip().splitlines())
    return {name: words.split(" / ") if "/" in words else words.split() for name, words in lists.items()}


WORDS = _word_lists()
FRAMES = _FRAMES.strip().splitlines()


def from_grammar(rng: np.random.Generator) -> str:
    """One sentence of the grammar."""
    pieces = []
    for piece in FRAMES[rng.integers(len(FRAMES))].split("{"):
        name, brace, rest = piece.partition("}")
        pieces += [str(rng.choice(WORDS[name])), rest] if brace else [name]
    sentence = "".join(pieces)
    return sentence[0].upper() + sentence[1:]


def of_words(words: Sequence[str], rng: np.random.Generator) -> str:
    """Random words, the commonest more often; ``words`` by frequency, the commonest first."""
    very_common = rng.random(rng.integers(*WORDS_PER_SENTENCE)) < VERY_COMMON_SHARE
    ranks = np.where(very_common, min(VERY_COMMON_WORDS, len(words)), len(words))
    return " ".join(words[int(rank * rng.random())] for rank in ranks) + "."


def sentences(words: Sequence[str], corpus: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    """Endless sentences of a speakable length, none twice."""
    said: set[str] = set()
    makers = {
        "grammar": lambda: from_grammar(rng),
        "words": lambda: of_words(words, rng),
        "corpus": lambda: corpus[rng.integers(len(corpus))],
    }
    while True:
        sentence = makers[str(rng.choice(list(SHARES), p=list(SHARES.values())))]()
        if SHORTEST_CHARACTERS <= len(sentence) <= LONGEST_CHARACTERS and sentence not in said:
            said.add(sentence)
            yield sentence
