"""Words for names: common, short, no two alike, so that a name is a few tokens everywhere."""

from __future__ import annotations

ADJECTIVES = (
    "amber", "bold", "brisk", "calm", "crisp", "dull", "dusty", "eager", "early", "faint",
    "giddy", "hollow", "icy", "jolly", "keen", "lively", "mellow", "noisy", "odd", "pale",
    "quiet", "rusty", "shy", "tidy", "torpid", "urban", "vivid", "witty", "young", "zesty",
    "ancient", "broken", "clever", "distant", "elegant", "famous", "gentle", "honest", "humble",
    "jealous", "lonely", "modern", "narrow", "orange", "purple", "rapid", "silent", "tender",
    "unusual", "violet", "wild", "yellow",
)  # fmt: skip
NOUNS = (
    "apple", "bread", "bottle", "castle", "cloud", "desert", "engine", "forest", "garden",
    "guitar", "hammer", "horse", "island", "jacket", "kettle", "kid", "ladder", "lamp",
    "mirror", "needle", "ocean", "pencil", "piano", "planet", "rabbit", "river", "saddle",
    "stone", "table", "tiger", "tunnel", "valley", "wagon", "window", "anchor", "basket",
    "candle", "dragon", "eagle", "farmer", "hunter", "insect", "jungle", "kitchen", "lemon",
    "magnet", "napkin", "palace", "rocket",
)  # fmt: skip
CITIES = (
    "Athens", "Berlin", "Cairo", "Dublin", "Geneva", "Havana", "Jakarta", "Lisbon", "London",
    "Madrid", "Mumbai", "Moscow", "Nairobi", "Oslo", "Paris", "Prague", "Quito", "Riga",
    "Seoul", "Sydney", "Tokyo", "Tunis", "Vienna", "Warsaw", "Zurich",
)  # fmt: skip
