"""Words that invented facts are made of. No two splits share a name, a place or a thing."""

from __future__ import annotations

import random
from dataclasses import dataclass

from moa_tools.calibrate.samples import Split

_FIRST = """
Anna Boris Clara Dmitri Elena Farid Greta Hiro Ingrid Jonas Katya Lars Miriam Nikolai Olivia Pavel
Quentin Rosa Stefan Tamara Ursula Viktor Wanda Xenia Yusuf Zora Amir Bettina Carlos Daphne Emil
Fiona Gustav Helga Ivan Judith Kenji Lucia Marek Nadia Oskar Petra Rafael Sabine Tobias Ulrich
Vera Walter Yvonne Zeno Astrid Bruno Celia Dario Edith Felix Gilda Hugo Irene Jakob Karin Leon
Mona Nils Odette Philip Ramona Silvio Thea Urban Violet Wilma Yara Zygmunt Alma Benedict Cora
Desmond Esther Florian
"""
_LAST = """
Abel Brandt Castell Dorn Eriksen Falk Grau Hollis Ivers Jansen Keller Lindqvist Moreau Novak
Okafor Petrov Quist Rossi Sandoval Tanaka Ullmann Varga Winter Yamada Zeller Almeida Becker
Conti Duarte Ekdahl Ferreira Gallo Hoffman Ibsen Jovanov Kowalski Lemaire Mancini Nyberg Orlov
Pereira Quiroga Reinholt Silva Torres Urbina Vogel Weber Yildiz Zanetti Arnault Bergman Cruz
Dahl Engel Fontaine Garnier Hauser Ivanova Jepsen
"""
_PLACES = """
Lisbon Oslo Nairobi Quito Hanoi Prague Dublin Tunis Lima Kyoto Bergen Seville Riga Cairo Havana
Geneva Porto Tallinn Bogota Delhi Zagreb Malmo Verona Accra Osaka Bruges Cusco Izmir Leipzig Turin
Utrecht Vilnius Windhoek Yerevan Antwerp Bilbao Cordoba Dresden Esbjerg Florence Ghent Helsinki
Innsbruck Jakarta Krakow Lyon Marseille Nagoya Odessa Pretoria Quebec Rotterdam Salzburg Toledo
Uppsala Valencia Warsaw Xalapa York Zurich Aarhus Basel Cork Durban Eindhoven Freiburg Granada
Halifax Ibadan Jaipur Kigali Lugano Montreal Naples Oulu Palermo Rabat Split Tirana Tromso
"""
_THINGS = """
ladder telescope lantern kettle violin anchor compass barrel mirror hammer saddle cabinet clock
globe curtain basket trumpet pillow bucket chisel easel fountain goblet harness inkwell jar kayak
lamp mattress needle oven piano quilt rake sail teapot umbrella vase wagon xylophone yoke zither
armchair bell candle drum envelope fiddle gong hatch iron jacket key loom medal net oar plough
rope scale table urn valve wheel apron bench crate desk engine flute gate hinge jug knife lever
mask notebook oilcan pulley radio shovel tripod
"""
_ADJECTIVES = """
red blue green yellow black white grey brown silver golden purple orange old new small large tall
short heavy light round square wooden broken polished dusty narrow wide crooked smooth rusty
painted folded striped plain ancient modern hollow solid bright dark cold warm quiet loud soft hard
spare painted curved flat thick thin sharp blunt empty full early late
"""
_ANIMALS = """
goats geese horses rabbits ducks sheep llamas turkeys donkeys bees pigeons ponies cows hens foxes
otters swans beavers herons badgers owls lambs mules quails ravens seals trout voles wolves yaks
eagles ferrets gulls hounds ibexes jackals kestrels larks moles newts
"""
_GOODS = """
copper cinnamon barley timber cotton salt marble coffee wool amber pepper linen tobacco sugar wheat
ivory silk olives honey ginger leather almonds paper vanilla granite cocoa saffron rice coal tea
figs slate walnuts indigo flax cork lentils dates resin hemp
"""
_MADE_UP = """
velm torrick sabrane quolt mendry ophil drasken lurva pentoy harnix ubrel kestomy jarvil wendast
colbrin fessary tilgon yarrup nostrel bivane gristow zamber ploken rindal ashmery dulvet corvane
emptil fandrel gosteck halvor irmit jostane kreldy lommar munder nirvick osprane pellory quarn
rastil surrock tamplin ulster vorric wistane yoldrim zerrick arbane brellow cindrel dostry
"""
_MEANINGS = """
a_tool_for_cutting_reeds the_first_frost_of_autumn a_debt_paid_in_grain a_small_harbour_boat
the_sound_of_distant_bells a_song_sung_at_weddings a_bridge_made_of_rope a_cloak_worn_by_pilots
the_eldest_daughter_of_a_miller a_fee_for_crossing_a_river a_soup_of_turnips_and_smoke
a_dance_for_seven_people the_shadow_of_a_mountain a_box_for_storing_letters a_knot_that_never_slips
the_last_guest_to_leave_a_feast a_lamp_fed_with_fish_oil a_path_used_only_in_winter
a_wall_built_without_mortar the_smell_of_rain_on_dust a_bed_of_dried_moss a_coin_with_a_square_hole
a_promise_made_before_witnesses the_space_between_two_roofs a_hat_lined_with_feathers
a_field_left_fallow_for_nine_years the_noise_of_a_crowded_market a_rope_used_to_lower_barrels
a_door_that_opens_upwards the_keeper_of_a_lighthouse a_game_played_with_shells a_cart_with_one_wheel
the_colour_of_wet_clay a_letter_that_was_never_sent a_feast_held_at_midnight
a_stone_that_marks_a_well a_whistle_for_calling_dogs the_edge_of_a_frozen_lake a_book_of_tides
a_ladder_for_picking_pears
"""
_BEFORE = ("", "", "", "", "un", "re", "over", "sub", "mar")
_AFTER = ("", "a", "is", "en", "or", "ule", "ing", "ade", "ine")


@dataclass(frozen=True)
class Words:
    """The words of one split."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    places: tuple[str, ...]
    things: tuple[str, ...]
    adjectives: tuple[str, ...]
    animals: tuple[str, ...]
    goods: tuple[str, ...]
    made_up: tuple[str, ...]
    meanings: tuple[str, ...]


def _share(words: str, split: Split) -> tuple[str, ...]:
    """Half of the words for profiling, a quarter for each other split."""
    residues = {"profile": (0, 1), "validate": (2,), "heldout": (3,)}[split]
    unique = list(dict.fromkeys(words.split()))
    return tuple(
        word.replace("_", " ") for index, word in enumerate(unique) if index % 4 in residues
    )


def words_of(split: Split) -> Words:
    """The words that only samples of `split` may use."""
    lists = (
        _FIRST, _LAST, _PLACES, _THINGS, _ADJECTIVES, _ANIMALS, _GOODS, _MADE_UP, _MEANINGS,
    )  # fmt: skip
    return Words(*(_share(words, split) for words in lists))


def draw_fields(rng: random.Random, words: Words) -> dict[str, str]:
    """One value for every field that a form may name."""
    digits = rng.choice((3, 4, 5, 6, 7))
    letters = "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=4))
    hour, minute = rng.randrange(6, 23), rng.randrange(0, 60)
    pair = (rng.choice(words.adjectives), rng.choice(words.things))
    return {
        "first": rng.choice(words.first),
        "person": f"{rng.choice(words.first)} {letters[3]}. {rng.choice(words.last)}",
        "last": rng.choice(words.last),
        "place": rng.choice(words.places),
        "thing": rng.choice(words.things),
        "item": f"{rng.choice(words.adjectives)} {rng.choice(words.things)}",
        "animals": rng.choice(words.animals),
        "goods": rng.choice(words.goods),
        "term": rng.choice(_BEFORE) + rng.choice(words.made_up) + rng.choice(_AFTER),
        "meaning": f"{rng.choice(words.meanings)} in {rng.choice(words.places)}",
        "number": str(rng.randrange(10 ** (digits - 1), 10**digits)),
        "small": str(rng.randrange(11, 999)),
        "code": f"{letters[:2]}-{rng.randrange(100, 9999)}",
        "long_code": f"{letters[:3]}{rng.randrange(10, 99)}-{rng.randrange(1000, 9999)}"
        f"-{letters[3]}{rng.randrange(0, 9)}",
        "hex": f"{rng.getrandbits(rng.choice((24, 32, 48))):06x}",
        "year": str(rng.randrange(1650, 1995)),
        "time": f"{hour}:{minute:02d}",
        "price": f"{rng.randrange(2, 400)}.{rng.randrange(0, 100):02d}",
        "phone": f"{rng.randrange(200, 999)}-{rng.randrange(1000, 9999)}",
        "name": "_".join(pair),
        "NAME": "_".join(pair).upper(),
        "Name": "".join(word.title() for word in pair),
    }
