"""What facts, rows, constants, quotations and summaries look like, apart for each split.

No form stands in two splits, and none is a format of the evaluation suites: no pass key to be
remembered, no numbered or named register lines, no JSON of random keys, no list of magic words.
"""

from __future__ import annotations

from dataclasses import dataclass

from moa_tools.calibrate.samples import Split


@dataclass(frozen=True)
class Form:
    """A statement and the question that it alone answers; fields as `words.draw_fields` names them.

    `opening` is how the statement begins, `answer` what follows. `header` stands above the rows of
    a table.
    """

    statement: str
    question: str
    opening: str
    answer: str
    header: str = ""


@dataclass(frozen=True)
class Forms:
    """All forms of one split."""

    facts: tuple[Form, ...]
    tables: tuple[Form, ...]
    code: tuple[Form, ...]
    quotes: tuple[str, ...]
    summaries: tuple[str, ...]
    intros: tuple[str, ...]


_PROFILE = Forms(
    facts=(
        Form(
            "The tag on the {item} in the museum of {place} reads {code}.",
            "What does the tag on the {item} in the museum of {place} read?",
            "The tag on the {item} in the museum of {place} reads",
            "{code}",
        ),
        Form(
            "{person} was born in {place} in {year}.",
            "In which year was {person} born?",
            "{person} was born in {place} in",
            "{year}",
        ),
        Form(
            "After the war {person} moved to {place}, and worked there as a dealer in {goods}.",
            "To which city did {person} move after the war?",
            "After the war {person} moved to",
            "{place}",
        ),
        Form(
            "The office of {person} can be reached on extension {number}.",
            "On which extension can the office of {person} be reached?",
            "The office of {person} can be reached on extension",
            "{number}",
        ),
        Form(
            "At the auction in {place}, the {item} was sold for {number} crowns.",
            "For how many crowns was the {item} sold at the auction in {place}?",
            "At the auction in {place}, the {item} was sold for",
            "{number}",
        ),
        Form(
            "The night train to {place} leaves at {time} from platform {small}.",
            "When does the night train to {place} leave?",
            "The night train to {place} leaves at",
            "{time}",
        ),
        Form(
            "In the old dialect of {place}, the word '{term}' means {meaning}.",
            "What does the word '{term}' mean in the old dialect of {place}?",
            "In the old dialect of {place}, the word '{term}' means",
            "{meaning}",
        ),
        Form(
            "{first} hid the letters inside the {item} that stands in the cellar.",
            "Where did {first} hide the letters?",
            "{first} hid the letters inside the",
            "{item}",
        ),
        Form(
            "The warehouse in {place} holds {number} sacks of {goods}.",
            "How many sacks of {goods} does the warehouse in {place} hold?",
            "The warehouse in {place} holds",
            "{number}",
        ),
        Form(
            "The combination of the safe in {last}'s study is {number}.",
            "What is the combination of the safe in {last}'s study?",
            "The combination of the safe in {last}'s study is",
            "{number}",
        ),
        Form(
            "The shipment for {person} has the tracking code {long_code}.",
            "What is the tracking code of the shipment for {person}?",
            "The shipment for {person} has the tracking code",
            "{long_code}",
        ),
        Form(
            "The secret ingredient of {person}'s stew is {goods}.",
            "What is the secret ingredient of {person}'s stew?",
            "The secret ingredient of {person}'s stew is",
            "{goods}",
        ),
        Form(
            "The archive in {place} was last checked with the checksum {hex}.",
            "With which checksum was the archive in {place} last checked?",
            "The archive in {place} was last checked with the checksum",
            "{hex}",
        ),
        Form(
            "The meeting with {person} has been moved to {time} in room {small}.",
            "In which room is the meeting with {person}?",
            "The meeting with {person} has been moved to {time} in room",
            "{small}",
        ),
    ),
    tables=(
        Form(
            "| {item} | {number} | {place} |\n",
            "How many pieces of the {item} does the table list?",
            "| {item} |",
            "{number}",
            "| item | pieces | store |\n|---|---|---|\n",
        ),
        Form(
            "{term}: {meaning}\n",
            "How does the glossary define '{term}'?",
            "{term}:",
            "{meaning}",
            "Glossary\n\n",
        ),
        Form(
            "{person} .... {phone}\n",
            "Which telephone number does the directory give for {person}?",
            "{person} ....",
            "{phone}",
            "Telephone directory\n\n",
        ),
        Form(
            "{person},{place},{year}\n",
            "Which year does the file give for {person}?",
            "{person},{place},",
            "{year}",
            "name,city,year\n",
        ),
        Form(
            "{place}: {number} visitors\n",
            "How many visitors does the list give for {place}?",
            "{place}:",
            "{number}",
            "Visitors of last year\n\n",
        ),
        Form(
            "{goods}\t{price}\n",
            "What is the price of {goods}, by the list?",
            "{goods}\t",
            "{price}",
            "goods\tprice\n",
        ),
        Form(
            "{code} = {item}\n",
            "Which article has the order code {code}?",
            "{code} =",
            "{item}",
            "Order codes of the catalogue\n\n",
        ),
        Form(
            "- {person} lives in {place} and keeps {small} {animals}.\n",
            "What animals does {person} keep, and how many?",
            "- {person} lives in {place} and keeps",
            "{small} {animals}",
            "Members of the society\n\n",
        ),
    ),
    code=(
        Form(
            "{NAME} = {number}\n\n\n",
            "What value is assigned to {NAME}?",
            "{NAME} =",
            "{number}",
        ),
        Form(
            'def {name}_label():\n    return "{long_code}"\n\n\n',
            "What does the function {name}_label return?",
            'def {name}_label():\n    return "',
            "{long_code}",
        ),
        Form(
            "def {name}_limit(scale={number}):\n    return scale\n\n\n",
            "What is the default value of scale in the function {name}_limit?",
            "def {name}_limit(scale=",
            "{number}",
        ),
        Form(
            'SETTINGS["{name}"] = "{hex}"\n\n\n',
            'Which string is stored in SETTINGS["{name}"]?',
            'SETTINGS["{name}"] = "',
            "{hex}",
        ),
    ),
    quotes=(
        'Quote the sentence of the text that begins with "{start}".',
        'How does the sentence go on that begins with "{start}"?',
    ),
    summaries=(
        "Summarise each of the documents above in one sentence.",
        "Write a short summary of the documents above.",
        "What are the main points of these documents?",
    ),
    intros=(
        "Read the following text and answer the question at its end.",
        "Here is a long text. A question follows it.",
        "",
    ),
)

_VALIDATE = Forms(
    facts=(
        Form(
            "According to the log book, the ship of captain {last} carried {number} tonnes of "
            "{goods}.",
            "How many tonnes of {goods} did the ship of captain {last} carry?",
            "According to the log book, the ship of captain {last} carried",
            "{number}",
        ),
        Form(
            "A parcel for {person} was left in locker {code} of the station.",
            "In which locker was the parcel for {person} left?",
            "A parcel for {person} was left in locker",
            "{code}",
        ),
        Form(
            "The painting '{item}' by {last} was finished in {place}.",
            "In which city was the painting '{item}' by {last} finished?",
            "The painting '{item}' by {last} was finished in",
            "{place}",
        ),
        Form(
            "The film about {place} lasts {small} minutes and was directed by {person}.",
            "Who directed the film about {place}?",
            "The film about {place} lasts {small} minutes and was directed by",
            "{person}",
        ),
        Form(
            "To switch off the alarm at {last}'s farm, type {number}.",
            "What has to be typed to switch off the alarm at {last}'s farm?",
            "To switch off the alarm at {last}'s farm, type",
            "{number}",
        ),
    ),
    tables=(
        Form(
            "The {item} costs {price} in {place}.\n",
            "What does the {item} cost, by the price list?",
            "The {item} costs",
            "{price}",
            "Price list\n\n",
        ),
        Form(
            "{first} has the desk in room {small}.\n",
            "In which room is the desk of {first}?",
            "{first} has the desk in room",
            "{small}",
            "Desks\n\n",
        ),
        Form(
            "{person}\t{code}\n",
            "Which badge does {person} wear?",
            "{person}\t",
            "{code}",
            "guest\tbadge\n",
        ),
        Form(
            "* {term} ({year}): {meaning}\n",
            "What is '{term}', by the list?",
            "* {term} ({year}):",
            "{meaning}",
            "Customs and trades\n\n",
        ),
    ),
    code=(
        Form(
            "class {Name}Options:\n    timeout_ms: int = {number}\n\n\n",
            "What is timeout_ms in the class {Name}Options?",
            "class {Name}Options:\n    timeout_ms: int =",
            "{number}",
        ),
        Form(
            'register("{name}", owner="{person}")\n\n\n',
            'Who is the owner registered for "{name}"?',
            'register("{name}", owner="',
            "{person}",
        ),
    ),
    quotes=('Complete this sentence word for word as it stands above: "{start}"',),
    summaries=(
        "In a few words, what is every one of the texts above about?",
        "Give an outline of what was said above.",
    ),
    intros=("Study this document; you will be asked about a detail.", "Document:"),
)

_HELDOUT = Forms(
    facts=(
        Form(
            "The bridge at {place} spans {number} metres.",
            "How many metres does the bridge at {place} span?",
            "The bridge at {place} spans",
            "{number}",
        ),
        Form(
            "{first} is allergic to {goods}.",
            "To what is {first} allergic?",
            "{first} is allergic to",
            "{goods}",
        ),
        Form(
            "The lighthouse keeper of {place} is called {person}.",
            "What is the lighthouse keeper of {place} called?",
            "The lighthouse keeper of {place} is called",
            "{person}",
        ),
    ),
    tables=(
        Form(
            "{person} to {place}: {time}\n",
            "At what time does the roster send {person} to {place}?",
            "{person} to {place}:",
            "{time}",
            "Roster of the day\n\n",
        ),
        Form(
            "{animals}: fed at {time}\n",
            "When are the {animals} fed?",
            "{animals}: fed at",
            "{time}",
            "Feeding\n\n",
        ),
        Form(
            "{item} -> shelf {code}\n",
            "On which shelf is the {item}?",
            "{item} -> shelf",
            "{code}",
            "Where to find what\n\n",
        ),
    ),
    code=(
        Form(
            "INSERT INTO stock (name, amount) VALUES ('{name}', {number});\n\n",
            "Which amount is inserted for '{name}'?",
            "INSERT INTO stock (name, amount) VALUES ('{name}',",
            "{number}",
        ),
    ),
    quotes=('Which words follow "{start}" in what you read?',),
    summaries=("Tell a child what these pages explain.",),
    intros=("Pages from a binder:",),
)

_ALL: dict[Split, Forms] = {"profile": _PROFILE, "validate": _VALIDATE, "heldout": _HELDOUT}


def forms_of(split: Split) -> Forms:
    """The forms that only samples of `split` may use."""
    return _ALL[split]
