"""What of a claim can be checked by its words: numbers, names, negation, opposites. Pure.

Sentences that mean nearly the same can differ in the one word that matters, and vectors hardly see
it: 1811 and 1818, Stevenson and Smeaton, "lit" and "never lit", "north" and "south". The words here
are English; numbers and names are of any language with capitals.
"""

import re
from collections.abc import Iterator

_WORD = re.compile(r"\w+")
STOP_WORDS = frozenset(
    """a an and are as at be been but by can could did do does for from had has have he her his
    i in is it its no not of on or she so such than that the their them then there these they
    this to was we were what when where which who whom whose why how will with would you
    """.split()  # noqa: SIM905 - a list of 60 quoted words is harder to read
)
_FIGURE = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_NAME = re.compile(r"(?<![.?!:]\s)(?<!^)\b[A-ZÀ-Þ][\w'’-]*")
_NEGATION = re.compile(
    r"\b(?:not|no|never|nobody|none|nothing|neither|nor|without|cannot|nowhere|hardly)\b|n['’]t\b",
    re.IGNORECASE,
)
_STEM = 5  # letters that words of one stem share: Australia and Australian

_UNITS = {
    word: value
    for value, word in enumerate(
        """one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
        sixteen seventeen eighteen nineteen""".split(),  # noqa: SIM905 - easier to read
        start=1,
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(),  # noqa: SIM905
        start=2,
    )
}
_SCALES = {"thousand": 1000, "million": 10**6, "billion": 10**9}
_PAIRS = """
able-unable above-below absent-present accept-refuse accepted-refused accepted-rejected add-remove
added-removed after-before agree-disagree agreed-disagreed all-none allow-forbid allowed-forbidden
always-never arrive-leave arrived-left asleep-awake backward-forward begin-end best-worst
better-worse big-small bottom-top boy-girl bright-dim brighter-dimmer broad-narrow brother-sister
buy-sell cause-prevent caused-prevented cheap-dear cheap-expensive close-far closed-open cold-hot
cold-warm contract-expand contracted-expanded cooler-warmer daily-monthly daily-weekly dark-light
daughter-son day-night death-birth decline-growth decrease-increase decreased-increased
deep-shallow died-survived difficult-easy down-up downwards-upwards dry-wet earlier-later
early-late east-west eastern-western empty-full enemy-friend enter-leave even-odd exclude-include
excluded-included export-import external-internal fail-succeed failed-succeeded failure-success
fall-rise fallen-risen falling-rising false-true far-near fast-slow faster-slower father-mother
fell-rose female-male few-many fewer-more first-last first-second first-third fourth-third
fresh-salt front-rear gain-lose gained-lost gave-received give-receive guilty-innocent hard-soft
harmful-harmless he-she heavier-lighter heavy-light high-low higher-lower highest-lowest him-her
his-her husband-wife illegal-legal improve-worsen improved-worsened improvement-worsening
increased-reduced inner-outer inside-outside king-queen known-unknown large-little large-small
larger-smaller largest-smallest least-most left-right less-more likely-unlikely long-short
longer-shorter longest-shortest lose-win lost-won lower-raise lower-upper lowered-raised
major-minor majority-minority man-woman mandatory-optional maximum-minimum men-women
monthly-weekly moving-still natural-artificial necessary-unnecessary negative-positive new-old
newer-older newest-oldest north-south northeast-southwest northern-southern northwest-southeast
oppose-support opposed-supported optional-required partly-wholly permanent-temporary
permit-prohibit permitted-prohibited poor-rich possible-impossible postoperative-preoperative
private-public quick-slow raised-reduced rare-common rarely-often refuse-agree refused-agreed
regular-irregular safe-dangerous same-different second-third secret-published shrank-grew
shrink-grow significant-insignificant similar-different single-multiple slowly-quickly
smooth-rough solid-hollow solid-liquid start-end start-finish started-ended strong-weak
stronger-weaker summer-winter tall-short taller-shorter thick-thin under-over victory-defeat
wide-narrow wider-narrower with-without young-old younger-older
"""
_OPPOSITES: dict[str, set[str]] = {}
for _pair in _PAIRS.split():
    _one, _, _other = _pair.partition("-")
    _OPPOSITES.setdefault(_one, set()).add(_other)
    _OPPOSITES.setdefault(_other, set()).add(_one)


def content_words(text: str) -> frozenset[str]:
    """Lower-cased words that carry meaning."""
    return frozenset(words(text)) - STOP_WORDS


def words(text: str) -> list[str]:
    """Lower-cased words."""
    return [word.casefold() for word in _WORD.findall(text)]


def content_spans(text: str) -> list[tuple[int, int]]:
    """Where the words stand that carry meaning."""
    return [m.span() for m in _WORD.finditer(text) if m[0].casefold() not in STOP_WORDS]


def numbers(text: str) -> set[float]:
    """Numbers in figures and in words; a lone "one" is none."""
    return {*_in_figures(text), *_in_words(text)}


def names(text: str) -> set[str]:
    """Lower-cased words of names: capitalised ones that begin no sentence."""
    return {
        word
        for name in _NAME.findall(text)
        for word in words(name)
        if len(word) > 1 and word not in STOP_WORDS
    }


def missing_names(claim: str, text: str) -> set[str]:
    """Names of a claim of which a text has neither the word nor another of its stem."""
    whole = text.casefold()
    stems = {stem(word) for word in words(text)}
    return {name for name in names(claim) if name not in whole and stem(name) not in stems}


def negated(text: str) -> bool:
    """Whether it has a word that says no."""
    return _NEGATION.search(text) is not None


def has_opposite(claim: str, text: str) -> bool:
    """Whether the claim has a word whose opposite the text has in its place."""
    there = set(words(text))
    return any(
        word not in there and not _OPPOSITES.get(word, set()).isdisjoint(there)
        for word in words(claim)
    )


def stem(word: str) -> str:
    """The beginning that words of one stem share."""
    return word[:_STEM]


def _in_figures(text: str) -> Iterator[float]:
    for match in _FIGURE.finditer(text):
        scale = re.match(r"\s*(thousand|million|billion)\b", text[match.end() :].casefold())
        yield float(match[0].replace(",", "")) * (_SCALES[scale[1]] if scale else 1)


def _in_words(text: str) -> Iterator[float]:
    total, part, before = 0, 0, ""  # "two thousand three hundred": 2000 and 300
    for word in [*re.findall(r"[a-z]+", text.casefold()), ""]:
        begun = part or before in ("a", "an")  # "6 million" is one in figures
        if more := _UNITS.get(word) or _TENS.get(word):
            if part % 100 and not (part % 10 == 0 and more < 10):  # "five six" are two numbers
                yield total + part
                total, part = 0, 0
            part += more
        elif word in ("dozen", "hundred") and begun:
            part = (part or 1) * (12 if word == "dozen" else 100)
        elif word in _SCALES and begun:
            total, part = total + (part or 1) * _SCALES[word], 0
        elif word != "and" or not (total or part >= 100):
            if total + part > 1:
                yield total + part
            total, part = 0, 0
        before = word
