"""Texts and an oracle for tokenizers."""

from __future__ import annotations

import random
import unicodedata


def random_texts(count: int) -> list[str]:
    """Odd texts and `count` seeded random ones, in Unicode form NFC."""
    rng = random.Random(0)
    letters = "abc XYZ \n\t'’é東京🙂.,;:!?()[]{}|/\\-_=+*&%$#@~`\"àßжλ \u00a00123456789thequickfox"
    texts = ["", " ", "  two", "It's 1234567 tests, isn't it?", "trailing  \n\n", "<s>", "▁x"]
    for _ in range(count):
        text = "".join(rng.choice(letters) for _ in range(rng.randint(1, 60)))
        texts.append(unicodedata.normalize("NFC", text))
    return texts


def sentencepiece_encode(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece BPE by definition: join the best-scoring neighbours until none is left."""
    symbols = list("\u2581" + text.replace(" ", "\u2581")) if text else []
    while True:
        best = None
        for i in range(len(symbols) - 1):
            score = scores.get(symbols[i] + symbols[i + 1])
            if score is not None and (best is None or score > best[0]):
                best = (score, i)
        if best is None:
            break
        i = best[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    pieces = []
    for symbol in symbols:
        known = symbol in scores
        pieces.extend([symbol] if known else [f"<0x{b:02X}>" for b in symbol.encode("utf-8")])
    return pieces
