"""One long prompt with what its answer must hold, for every task."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from moa_rt import ArgumentError, Tokenizer

from moa_tools.calibrate.forms import Form, forms_of
from moa_tools.calibrate.material import CHARACTERS_PER_TOKEN, Material, amount
from moa_tools.calibrate.words import Words, draw_fields, words_of
from moa_tools.text.fit import FillerTooShortError, FrameTooLongError, Needle, chat_ids, fit

# Tokens between the deepest needle and the question would be none at depth 1.
_DEEPEST = 0.95
_MAX_FACTS = 5
# Few rows are what a small model can tell apart, many what a large one is tested by.
_ROWS_IN_PROSE = (2, 3, 4, 6, 10, 16, 24)
_TOKENS_OF_ROW = 48  # more than any has
_WHOLE_TABLES = 0.25  # share of them
_TWO_QUESTIONS = 0.1  # share of the facts
_DRAWS = 20
_START_WORDS = 8  # of a sentence that is to be given back
_TOKENS_PER_ROW = 8  # fewer than any row has: enough rows are drawn, if there are words
# A question; a question with the first words of the answer; the text and those first words only.
_FRAMES = ("question", "begun", "plain")
_FRAME_WEIGHTS = (4, 3, 3)
_BEGIN_QUOTE = "Give one sentence of the text back, word for word."


@dataclass(frozen=True)
class Draft:
    """A prompt without its answer, or (plain text) with it."""

    prompt_ids: tuple[int, ...]
    truths: tuple[str, ...]
    room: int
    stop: tuple[str, ...]
    source: str
    answer_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Context:
    """What all exercises of a split and length share. `room`: tokens for an answer."""

    tokenizer: Tokenizer
    material: Material
    length: int
    room: int

    @property
    def words(self) -> Words:
        """The split's own words."""
        return words_of(self.material.split)


@dataclass(frozen=True)
class _Body:
    """A prompt before it is fitted to its length.

    `request` takes the question's place where the answer is begun: a question that quotes the
    beginning would be what the model copies from.
    """

    units: list[str]
    needles: list[Needle]
    question: str
    opening: str
    truths: tuple[str, ...]
    source: str
    request: str = ""


@dataclass(frozen=True)
class _Fact:
    statement: str
    question: str
    opening: str
    answer: str


def _distinct_facts(rng: random.Random, words: Words, forms: list[Form]) -> list[_Fact]:
    """A fact for each form, no two with the same question or opening; fewer if words run out."""
    facts: list[_Fact] = []
    seen: set[str] = set()
    for form in forms:
        for _ in range(20):
            fields = draw_fields(rng, words)
            parts = (form.statement, form.question, form.opening, form.answer)
            fact = _Fact(*(part.format(**fields) for part in parts))
            keys = {fact.question, "> " + fact.opening}
            if not keys & seen:
                seen |= keys
                facts.append(fact)
                break
    return facts


def _depths(
    rng: random.Random, count: int, start: float = 0.0, end: float = _DEEPEST
) -> list[float]:
    """Depths in every stretch of the text, in random order."""
    found = [start + (end - start) * (i + rng.random()) / count for i in range(count)]
    rng.shuffle(found)
    return found


def _few(rng: random.Random, context: Context, low: int, high: int, tokens: int) -> int:
    """A number in [low, high), or as many things of that many tokens as the length has room for."""
    return min(rng.randrange(low, high), max(1, context.length // tokens))


def _facts(rng: random.Random, context: Context) -> _Body:
    """Facts in running text, some of the same form as decoys; a question about one or two."""
    forms = forms_of(context.material.split).facts
    asked = 2 if rng.random() < _TWO_QUESTIONS else 1
    chosen = rng.sample(forms, min(asked, len(forms)))
    others = [rng.choice((*chosen, *forms)) for _ in range(_few(rng, context, 0, _MAX_FACTS, 128))]
    facts = _distinct_facts(rng, context.words, [*chosen, *others])
    kind = rng.choice(("sentences", "paragraphs"))
    units, source = context.material.filler(rng, context.length, kind)
    end = " " if kind == "sentences" else "\n\n"
    depths = _depths(rng, len(facts))
    needles = [Needle(d, fact.statement + end) for d, fact in zip(depths, facts, strict=True)]
    wanted = facts[:asked]
    return _Body(
        units,
        needles,
        " ".join(fact.question for fact in wanted),
        wanted[0].opening if len(wanted) == 1 else "",
        tuple(fact.answer for fact in wanted),
        source,
    )


def _table(rng: random.Random, context: Context) -> _Body:
    """A question about one row of a table: the whole text, or some rows amid prose."""
    form = rng.choice(forms_of(context.material.split).tables)
    rows: list[_Fact] = []
    whole = rng.random() < _WHOLE_TABLES
    if whole:
        rows = _distinct_facts(rng, context.words, [form] * (context.length // _TOKENS_PER_ROW))
        text = "".join(row.statement for row in rows[1:])
        whole = len(context.tokenizer.encode(text)) > context.length
    if not whole:
        count = min(rng.choice(_ROWS_IN_PROSE), max(2, context.length // _TOKENS_OF_ROW))
        rows = _distinct_facts(rng, context.words, [form] * count)
    fact = rows.pop()
    if whole:
        units = [row.statement for row in rows]
        needles = [Needle(-1.0, form.header), Needle(_DEEPEST * rng.random(), fact.statement)]
        source = "invented rows"
    else:
        units, source = context.material.filler(rng, context.length, "paragraphs")
        lines = [row.statement for row in rows]
        lines.insert(rng.randrange(len(lines)), fact.statement)
        table = "\n\n" + form.header + "".join(lines) + "\n\n"
        needles = [Needle(_DEEPEST * rng.random(), table)]
    return _Body(units, needles, fact.question, fact.opening, (fact.answer,), source)


def _code(rng: random.Random, context: Context) -> _Body:
    """Constants among the functions of real modules."""
    forms = forms_of(context.material.split).code
    chosen = rng.choice(forms)
    others = [
        rng.choice((chosen, *forms)) for _ in range(_few(rng, context, 0, _MAX_FACTS - 1, 128))
    ]
    facts = _distinct_facts(rng, context.words, [chosen, *others])
    units, source = context.material.filler(rng, context.length, "code")
    depths = _depths(rng, len(facts))
    needles = [Needle(d, fact.statement) for d, fact in zip(depths, facts, strict=True)]
    fact = facts[0]
    return _Body(units, needles, fact.question, fact.opening, (fact.answer,), source)


def _quote(rng: random.Random, context: Context) -> _Body:
    """A sentence of another document, to be given back word by word from how it begins."""
    sentences = context.material.quotable(rng, _few(rng, context, 2, 5, 128))
    units, source = context.material.filler(rng, context.length, "sentences")
    depths = _depths(rng, len(sentences))
    needles = [Needle(d, text + " ") for d, text in zip(depths, sentences, strict=True)]
    words = sentences[0].split()
    start = " ".join(words[:_START_WORDS])
    question = rng.choice(forms_of(context.material.split).quotes).format(start=start)
    return _Body(
        units, needles, question, start, (" ".join(words[_START_WORDS:][:5]),), source, _BEGIN_QUOTE
    )


_BODIES: dict[str, Callable[[random.Random, Context], _Body]] = {
    "facts": _facts,
    "tables": _table,
    "code": _code,
    "quote": _quote,
}


def _recall(task: str, rng: random.Random, context: Context) -> Draft:
    body = _BODIES[task](rng, context)
    weights = _FRAME_WEIGHTS if body.opening else (1, 0, 0)
    frame = rng.choices(_FRAMES, weights)[0]
    intro = rng.choice(forms_of(context.material.split).intros)
    head = intro + "\n\n" if intro and frame != "plain" else ""

    def encode(text: str) -> list[int]:
        text = head + text.rstrip()
        if frame == "plain":
            return context.tokenizer.encode(f"{text}\n\n{body.opening}")
        if frame == "begun":
            request = body.request or body.question
            return chat_ids(context.tokenizer, f"{text}\n\n{request}", body.opening)
        return chat_ids(context.tokenizer, f"{text}\n\n{body.question}")

    room = min(context.room, context.length // 4)
    ids = fit(encode, body.units, body.needles, context.length - room)
    stop = ("\n",) if frame != "question" else ()
    return Draft(tuple(ids), body.truths, room, stop, body.source)


def _summary(rng: random.Random, context: Context) -> Draft:
    """Pieces of several documents and a request to summarise them."""
    count = rng.randrange(2, 5)
    share = 4 * context.length // count  # characters: about four of them in a token
    units: list[str] = []
    names: list[str] = []
    for name, piece in context.material.pieces(rng, share):
        units += [f"Document {len(names) + 1}\n\n", piece, "\n\n"]
        names.append(name)
        if sum(map(len, units)) > CHARACTERS_PER_TOKEN * context.length:
            break
    request = rng.choice(forms_of(context.material.split).summaries)
    room = min(2 * context.room, context.length // 4)
    ids = fit(
        lambda text: chat_ids(context.tokenizer, f"{text.rstrip()}\n\n{request}"),
        units,
        [],
        context.length - room,
    )
    return Draft(tuple(ids), (), room, (), ", ".join(names)[:190])


def _continuation(rng: random.Random, context: Context) -> Draft:
    """Plain text, prose or code; the answer is its own last quarter, or 512 tokens of it."""
    kind = rng.choice(("paragraphs", "paragraphs", "code"))
    units, source = context.material.filler(rng, context.length, kind)
    ids = tuple(fit(context.tokenizer.encode, units, [], context.length))
    room = min(512, context.length // 4)
    return Draft(ids[:-room], (), room, (), source, ids[-room:])


TASKS = ("facts", "tables", "code", "quote", "summary", "text")
RECALL_TASKS = tuple(_BODIES)


def make_draft(task: str, context: Context, seed: str) -> Draft:
    """The prompt that `seed` gives. Equal arguments, equal ids.

    Raises ArgumentError if the text of the split is too short for the length.
    """
    try:
        return _draft(task, context, random.Random(seed))
    except FillerTooShortError as error:
        material = context.material
        raise ArgumentError(
            f"source: the split {material.split!r} has {amount(material.prose)}, too little for a "
            f"sample of {context.length} tokens: {error}; it takes {error.want - error.got} "
            "tokens more of text in this split, or shorter lengths"
        ) from error


def _draft(task: str, context: Context, rng: random.Random) -> Draft:
    if task == "summary":
        return _summary(rng, context)
    if task == "text":
        return _continuation(rng, context)
    for _ in range(_DRAWS):
        try:
            return _recall(task, rng, context)
        except FrameTooLongError:
            continue  # too many rows or facts for a short text; the next ones may be fewer
    return _recall(task, rng, context)
