"""Text for tokenizer tests: long mixed text, short random strings; the same for the same seed."""

from __future__ import annotations

import inspect
import json
import random
import textwrap
import unicodedata
from functools import cache
from pydoc_data.topics import topics

# One line per script or habit of writing that a tokenizer may treat in its own way.
SAMPLES = (
    "The quick brown fox can't jump; he'd SAY 'THAT'S it', we'll've done. It’s naïve – café №5…",
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列張。我能吞下玻璃而不伤身体。「東京都」で会いましょう。",
    "안녕하세요, 세계! 나는 유리를 먹을 수 있어요. \u1112\u1161\u11ab\u1100\u1173\u11af",
    "السلام عليكم ورحمة الله وبركاته، كَيْفَ حَالُكَ؟ ١٢٣٤٥ ۴۵۶",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ελληνικά: Ξεσκεπάζω τὴν ψυχοφθόρα.",
    "שלום עולם! זה כיף. नमस्ते दुनिया, मैं काँच खा सकता हूँ। สวัสดีชาวโลก เป็นมนุษย์สุดประเสริฐ",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪🇯🇵 1️⃣ ☃️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ❤️‍🔥 emoji😀😀😀in😀words 🧑🏿‍🚀",
    "e\u0301a\u0308\u0323o\u0323\u0302 \u212b\u2126 Z\u0335\u0321\u0321a\u0334l\u0358g\u0489o "
    "q\u0307\u0323 \u0344 \u0f73 \ufb01\ufb03 \u1e9b\u0323",
    "def f(x):\n    return {'a': [1, 22, 333, 4444, 55555], \"b\": x ** 2}"
    "  # 3.14159e-10\n\n\n\t\tpass",
    "tabs\t\tand  two   three    four     spaces \r\n\r\n crlf\n \n  \n\nend   ",
    "\u00a0no\u00a0break\u2003em\u3000ideographic\u2028line\u2029paragraph\u0085next\u200bzero\ufeff",
    "½ ⅔ Ⅳ ⅷ ² ₃ ① ⑳ ㉑ 〇 ೧೨೩ 𝟘𝟙𝟚 x²+y³ 10⁻⁹ 1,000,000.00 0x1F 1st 2nd",
    "ſtraſse ''S'ſ'T don'T 'rE 'VE 'm 'LL 'D ''''s \u2581low\u2581line <0x41> <0x> <s> </s> [INST]",
)

_SPACES = [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, 0x180E, *range(0x2000, 0x2010)]
_SPACES += [0x2028, 0x2029, 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF]


@cache
def assigned() -> list[str]:
    """Characters assigned in the Unicode version of this Python.

    utf8proc and the `tokenizers` library each carry tables of a later version, in which these
    characters have the same general category: categories of assigned characters are stable but for
    a handful, see `UNSTABLE`. Unassigned ones differ between the two and are not drawn.
    """
    return [
        chr(c)
        for c in range(0x110000)
        if unicodedata.category(chr(c)) not in ("Cn", "Cs") and chr(c) not in UNSTABLE
    ]


# Category changed after Unicode 14 (UCD, DerivedAge and change logs of 15.0 to 16.0).
UNSTABLE = frozenset("\u0cf3\u1734\U00011720\U00011721")


def mixed_text(size: int) -> str:
    """At least `size` bytes of UTF-8: prose, source code, and lines of many scripts."""
    rng = random.Random(20)
    prose = "\n".join(topics[name] for name in sorted(topics))
    code = "\n".join(inspect.getsource(module) for module in (json, random, textwrap))
    paragraphs = (prose + "\n\n" + code).split("\n\n")
    parts: list[str] = []
    written = 0
    while written < size:
        part = rng.choice(paragraphs) if rng.random() < 0.6 else rng.choice(SAMPLES)
        if rng.random() < 0.1:
            part = "".join(chr(rng.randrange(0x4E00, 0x9FA6)) for _ in range(40))
        part += rng.choice(("\n\n", "\n", " ", "\r\n"))
        parts.append(part)
        written += len(part.encode())
    return "".join(parts)


def random_string(rng: random.Random, spellings: list[str]) -> str:
    """A short string in which neighbours of very different kinds meet.

    `spellings` are drawn now and then: the added tokens of the tokenizer under test.
    """
    pieces: list[str] = []
    for _ in range(rng.randrange(1, 25)):
        kind = rng.randrange(10)
        if kind < 2:
            pieces.append(rng.choice(assigned()))
        elif kind < 4:
            pieces.append(chr(rng.choice(_SPACES)) * rng.choice((1, 1, 2, 5)))
        elif kind < 6:
            pieces.append(chr(rng.randrange(0x80)))
        elif kind == 6:
            pieces.append(rng.choice(spellings) if spellings else "x")
        elif kind == 7:
            pieces.append(rng.choice(("'s", "'LL", " the", "123456", "\r\n", "...\n", "ab", "'ſ")))
        else:
            sample = rng.choice(SAMPLES)
            start = rng.randrange(len(sample))
            pieces.append(sample[start : start + rng.randrange(1, 8)])
    return "".join(pieces)
