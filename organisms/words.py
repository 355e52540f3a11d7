"""Identifiers for the tasks: real nouns, some held out for test, and made-up words that must be copied by pieces."""

from __future__ import annotations

from random import Random


def words(text: str) -> tuple[str, ...]:
    """The words of a text, so that long lists stay readable."""
    return tuple(text.split())


TRAIN_NOUNS = words("""
    account address agenda album alert archive article asset banner batch booking branch broker budget bundle
    button calendar camera campaign canvas cargo catalog channel chapter circuit client clinic cluster column
    comment contact contract coupon course cursor customer dataset deposit design device diagram digest document
    domain driver event exam export factory feature figure filter folder forecast frame gallery garden gateway
    grade graph habit header image import index insight island item journal keyboard label laptop layout ledger
    lesson letter library license list market matrix meeting member memo menu message meter metric mirror
    mission model module monitor movie museum network note number object office offer option order orbit package
    page panel parcel partner patient payment period permit person phone photo picture planet player plugin
    policy poster price printer product profile project prompt query quota record recipe refund region release
    report request resource result review reward robot route sample schedule school score screen sensor server
    service session shipment signal station stock store student summary survey system tariff task teacher
    template ticket tracker travel tutorial update upload user vendor vessel video voucher wallet warehouse
    weather website widget window worker
    """)
TEST_NOUNS = words("""
    airport ballot beacon bicycle bridge bucket cabin castle compass concert cottage dentist desert eagle
    fabric farm festival forest guitar hammer harbor hospital hotel invoice jacket kitchen lantern meadow
    mountain needle orchard painter passport pencil piano pillow pocket rocket saddle sailor shelter statue
    tunnel turbine valley village violin wagon
    """)
ADJECTIVES = words("""
    active annual backup blue central daily digital draft early extra final fresh global green hidden internal
    large local main mobile monthly new old open pending primary public quick recent regional remote shared
    small standard weekly
    """)
_STARTS = words("b br c d dr f g h j k l m n p pl r s st t tr v w z")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "oo")
_ENDS = ("", "", "l", "m", "n", "nd", "r", "rt", "s", "t", "ck", "x")
_MADE_UP_SHARE = 0.3


def made_up_word(rng: Random) -> str:
    """A pronounceable word that is no held-out noun: two or three syllables."""
    while True:
        syllables = rng.choice((2, 2, 3))
        word = "".join(rng.choice(_STARTS) + rng.choice(_VOWELS) for _ in range(syllables)) + rng.choice(_ENDS)
        if word not in TEST_NOUNS:
            return word


def draw_noun(rng: Random, split: str) -> str:
    """One noun of the split; in training also made-up words, so that copying must work piece by piece."""
    if split == "test":
        return rng.choice(TEST_NOUNS)
    return made_up_word(rng) if rng.random() < _MADE_UP_SHARE else rng.choice(TRAIN_NOUNS)


def draw_name(rng: Random, split: str) -> str:
    """A name of one or two words separated by a space, such as `monthly report`."""
    noun = draw_noun(rng, split)
    return f"{rng.choice(ADJECTIVES)} {noun}" if rng.random() < 0.6 else noun
