"""Made conversations of two people, as agents remember them: names repeat, talk repeats, and a fact is said once.

Each conversation is of a pair. Most turns are small talk, or talk about a subject that has facts too, so that a
question is near to many turns. A fact has a rare word or two. A question asks for it in words of its own: some it
shares with the turn, some with the talk around it, and it nearly always has a name that stands in every second turn.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

__all__ = ["Conversation", "Question", "Turn", "dialogues"]


@dataclass(frozen=True)
class Turn:
    """What somebody said; `text` begins with the name."""

    id: str
    text: str


@dataclass(frozen=True)
class Question:
    """A question, and the ids of the turns that answer it."""

    text: str
    gold: frozenset[str]


@dataclass
class Conversation:
    """Turns in their order, and questions about them."""

    id: str
    turns: list[Turn] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)


NAMES = [
    "Caroline",
    "Melanie",
    "Jon",
    "Gina",
    "Tim",
    "Andrea",
    "Nate",
    "Joanna",
    "Maria",
    "Evan",
    "Sam",
    "Audrey",
    "Calvin",
    "Dave",
    "Deborah",
    "Jolene",
]

FACTS: dict[str, tuple[list[str], list[str]]] = {
    "pets": (
        [
            "We finally adopted a {animal} from the shelter in {town} and named it {pet}.",
            "{pet} the {animal} chewed through my {thing} while I was at work.",
            "The vet in {town} says {pet} needs drops for its ears twice a day.",
        ],
        [
            "What did {who}'s {animal} destroy?|Which kind of animal did {who} take in?|What is {who}'s new companion called?",
            "What did {pet} do to {who}'s belongings?|What happened to the {thing} that {who} owned?",
            "What medicine does {who} give to {pet}?|Which treatment was {who}'s pet prescribed?",
        ],
    ),
    "work": (
        [
            "They offered me the post of {job} at a firm in {town}, starting in {month}.",
            "My presentation about {science} went so well that the board in {town} asked for a second one.",
            "I handed in my notice on {day}; ten years as {job} are enough.",
        ],
        [
            "What new position did {who} get?|Where will {who} be employed as {job}?|When does {who} begin the new role?",
            "What was {who}'s talk about {science} followed by?|Which subject did {who} speak about to the directors?",
            "When did {who} resign?|Which profession did {who} leave?",
        ],
    ),
    "travel": (
        [
            "In {month} I hiked to the {sight} above {town} and got lost on the way back.",
            "The ferry to {town} was cancelled, so we spent the night in a {place}.",
            "I brought back a {souvenir} from {town} for my sister.",
        ],
        [
            "Which trail did {who} lose the way on?|When did {who} walk to the {sight}?|Where is the {sight} that {who} visited?",
            "Where did {who} sleep when the boat did not run?|Why did {who} stay overnight in a {place}?",
            "What present did {who} buy abroad?|Who got the {souvenir} from {who}?",
        ],
    ),
    "food": (
        [
            "For the party I baked a {cake} with {spice}, and nobody left a crumb.",
            "I found out that {spice} gives me a rash, so no more of that.",
            "My grandmother's {dish} needs {spice} and three hours in the oven.",
        ],
        [
            "What did {who} make for the guests?|Which ingredient was in {who}'s {cake}?",
            "What is {who} allergic to?|Which seasoning does {who} have to avoid?",
            "How long does {who}'s family recipe cook?|What goes into the {dish} of {who}'s grandma?",
        ],
    ),
    "music": (
        [
            "I started taking {instrument} lessons with a teacher from {town} every {day}.",
            "We saw {band} play in {town} and I lost my voice from singing.",
            "My old {instrument} broke, so I sold it to a {job} for parts.",
        ],
        [
            "Which instrument is {who} learning?|On which day does {who} practise the {instrument}?",
            "Which concert did {who} attend?|Where did {who} hear {band}?",
            "What did {who} do with the broken {instrument}?|Who bought {who}'s damaged instrument?",
        ],
    ),
    "health": (
        [
            "The doctor in {town} found that my {bone} is cracked, six weeks without sport.",
            "Since {month} I swim at the {place} before breakfast to get over my back pain.",
            "I gave up {drink} and sleep like a stone.",
        ],
        [
            "Which injury was {who} diagnosed with?|How long must {who} rest because of the {bone}?",
            "What does {who} do against the aching back?|Where does {who} exercise in the morning?",
            "What did {who} stop consuming to sleep better?|Which habit did {who} quit?",
        ],
    ),
    "home": (
        [
            "We painted the kitchen {shade} and put a {thing} where the table was.",
            "The roof of the {place} leaked on {day} and ruined my {souvenir}.",
            "I planted {plant} behind the {place}; the neighbour from {town} gave me seeds.",
        ],
        [
            "Which shade did {who} choose for the walls?|What replaced the table at {who}'s home?",
            "What was damaged by the water at {who}'s place?|When did the rain come in at {who}'s?",
            "What grows in {who}'s garden?|Where did {who} get the {plant} from?",
        ],
    ),
    "books": (
        [
            "I am reading a novel about a {job} who finds a {souvenir} in {town}.",
            "My book club picked a biography of {scientist}, 700 pages until {month}.",
            "I wrote a short story about {science}, and a magazine in {town} will print it.",
        ],
        [
            "What is the story about that {who} is reading?|Which find does the hero of {who}'s novel make?",
            "Whose life is {who}'s reading group studying?|How long is the biography that {who} must finish?",
            "What did {who} get published?|Which topic does {who}'s fiction have?",
        ],
    ),
}

WORDS: dict[str, list[str]] = {
    "animal": [
        "greyhound",
        "parrot",
        "tortoise",
        "ferret",
        "beagle",
        "hedgehog",
        "poodle",
        "iguana",
        "budgie",
        "rabbit",
        "terrier",
        "gecko",
    ],
    "pet": [
        "Biscuit",
        "Pixel",
        "Oscar",
        "Luna",
        "Waffles",
        "Shadow",
        "Pepper",
        "Ziggy",
        "Marble",
        "Toast",
        "Nimbus",
        "Clover",
    ],
    "town": [
        "Leith",
        "Tromso",
        "Cadiz",
        "Bergen",
        "Porto",
        "Galway",
        "Ghent",
        "Lucca",
        "Utrecht",
        "Zadar",
        "Bath",
        "Cork",
        "Turku",
        "Arles",
        "Kotor",
        "Split",
    ],
    "thing": [
        "sofa",
        "bookshelf",
        "hammock",
        "rug",
        "bicycle",
        "laptop",
        "lamp",
        "piano",
        "armchair",
        "tent",
        "mirror",
        "aquarium",
    ],
    "job": [
        "carpenter",
        "nurse",
        "pharmacist",
        "surveyor",
        "translator",
        "librarian",
        "welder",
        "florist",
        "auditor",
        "plumber",
        "geologist",
    ],
    "month": [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
    ],
    "day": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "science": [
        "coral reefs",
        "solar panels",
        "bird migration",
        "river dams",
        "fungal networks",
        "glaciers",
        "earthquakes",
        "antibiotics",
    ],
    "sight": [
        "waterfall",
        "lighthouse",
        "monastery",
        "crater lake",
        "ruined castle",
        "stone bridge",
        "old mine",
        "glacier tongue",
    ],
    "place": [
        "barn",
        "community pool",
        "garage",
        "boathouse",
        "chapel",
        "greenhouse",
        "attic",
        "hostel",
        "conservatory",
        "shed",
    ],
    "souvenir": [
        "compass",
        "carpet",
        "teapot",
        "wooden mask",
        "kite",
        "fossil",
        "accordion",
        "lantern",
        "quilt",
        "telescope",
        "snow globe",
    ],
    "cake": [
        "cheesecake",
        "carrot cake",
        "strudel",
        "tiramisu",
        "lemon tart",
        "brownie tower",
        "gingerbread house",
        "pavlova",
    ],
    "spice": [
        "cardamom",
        "saffron",
        "nutmeg",
        "cinnamon",
        "coriander",
        "turmeric",
        "ginger",
        "paprika",
        "fennel",
        "vanilla",
    ],
    "dish": [
        "lasagne",
        "goulash",
        "moussaka",
        "ratatouille",
        "shepherd's pie",
        "paella",
        "dumplings",
        "casserole",
    ],
    "instrument": [
        "violin",
        "cello",
        "ukulele",
        "saxophone",
        "harp",
        "trumpet",
        "drums",
        "clarinet",
        "banjo",
        "flute",
    ],
    "band": [
        "Summer Sounds",
        "The Paper Boats",
        "Iron Lanterns",
        "Velvet Harbour",
        "Night Ferry",
        "The Blue Herons",
    ],
    "bone": ["wrist", "ankle", "collarbone", "rib", "shin", "elbow", "heel", "kneecap"],
    "drink": ["coffee", "wine", "cola", "beer", "whisky", "energy-drinks"],
    "shade": ["turquoise", "mustard", "burgundy", "lavender", "olive", "apricot", "crimson", "teal"],
    "plant": [
        "tomatoes",
        "sunflowers",
        "rhubarb",
        "lupins",
        "pumpkins",
        "artichokes",
        "dahlias",
        "blueberries",
    ],
    "scientist": [
        "Marie Curie",
        "Ada Lovelace",
        "Charles Darwin",
        "Rosalind Franklin",
        "Alan Turing",
        "Lise Meitner",
    ],
}

TALK: dict[str, list[str]] = {
    "pets": [
        "Pets really make a home, {other}. I could watch animals all day.",
        "How is your pet doing, {other}? Mine sleeps on the bed again.",
        "Taking an animal in is a big step, {other}, but the company is worth it.",
        "My pet destroyed something again, {other}, what kind of training do you do?",
    ],
    "work": [
        "Work is so busy lately, {other}. Did you get any new projects?",
        "I wonder when they decide about the new position, {other}.",
        "You will do great in your role, {other}, your talk was good.",
        "My boss asked about the new subject again, {other}.",
    ],
    "travel": [
        "I would love to visit somewhere new, {other}. Where did you stay last time?",
        "A walk in nature clears the head, {other}. Which trail do you like?",
        "Did you take pictures on your trip, {other}? The boat must have been fun.",
        "I need a present for my trip home, {other}.",
    ],
    "food": [
        "I am trying a new recipe tonight, {other}. What do you cook for guests?",
        "That sounds delicious, {other}! My family loves to eat together.",
        "Which ingredient do you use most, {other}? I am bad at seasoning.",
        "Did you make something for the party, {other}?",
    ],
    "music": [
        "Music keeps me going, {other}. Which instrument would you learn?",
        "A concert with friends is the best, {other}, we should attend one.",
        "I practise every day, {other}, and still sound terrible.",
        "Did you hear the new song, {other}?",
    ],
    "health": [
        "I need to exercise more in the morning, {other}. How is your back?",
        "Take care of yourself, {other}, rest is important after an injury.",
        "I did not sleep well again, {other}. Did you stop your bad habit?",
        "The doctor told me to move more, {other}.",
    ],
    "home": [
        "We want to do up the home, {other}. Which shade do you like for the walls?",
        "The garden looks so good this year, {other}. What grows at yours?",
        "The rain does not stop, {other}. Is your place dry?",
        "I bought a new table, {other}, and the old one is gone.",
    ],
    "books": [
        "I have no time for reading, {other}. What is your story about?",
        "My reading group meets again, {other}. Do you finish every book?",
        "I would love to get something published one day, {other}.",
        "Which topic do you like in a novel, {other}?",
    ],
}

SMALL = [
    "Hey {other}! Good to hear from you. How have you been?",
    "Thanks, {other}! That means a lot to me.",
    "Wow, {other}, that is amazing! I am so happy for you.",
    "Absolutely, {other}. It makes such a difference.",
    "Take care, {other}. Talk to you soon!",
    "I totally get that, {other}. What happened then?",
    "That is so true, {other}. Friends like you are what matters.",
    "Sorry to hear that, {other}. Let me know if I can help.",
    "Sounds great, {other}! When do we meet again?",
    "No way, {other}! Tell me more about it.",
    "I have been thinking about what you said, {other}.",
    "You are the best, {other}! It was a lovely day.",
]


def dialogues(
    seed: int = 11, conversations: int = 10, turns: int = 300, facts: int = 60
) -> list[Conversation]:
    """Make conversations; the same for the same arguments."""
    return [
        _conversation(random.Random(f"{seed} {number}"), number, turns, facts)
        for number in range(conversations)
    ]


@dataclass(frozen=True)
class _Fact:
    turn: str
    who: str
    subject: str
    place: int
    words: dict[str, str]


def _conversation(source: random.Random, number: int, turns: int, facts: int) -> Conversation:
    pair = source.sample(NAMES, 2)
    made = Conversation(f"conversation-{number}")
    told: list[_Fact] = []
    factual = set(source.sample(range(turns), facts))
    for turn in range(turns):
        who, other = pair if turn % 2 == 0 else pair[::-1]
        key = f"{number}:{turn}"
        if turn in factual:
            subject, place = source.choice(list(FACTS)), source.randrange(3)
            words = {name: source.choice(choices) for name, choices in WORDS.items()}
            told.append(_Fact(key, who, subject, place, words))
            text = source.choice(OPENINGS).format(other=other) + FACTS[subject][0][place].format(**words)
        else:
            talk = TALK[source.choice(list(TALK))] if source.random() < 0.5 else SMALL
            text = source.choice(talk).format(other=other)
            if source.random() < 0.7:
                text += source.choice(_LATER).format(source.randrange(2, 30))
        made.turns.append(Turn(key, f"{who}: {text}"))
    for fact in told:
        asked = source.choice(FACTS[fact.subject][1][fact.place].split("|"))
        named = [name for name in WORDS if f"{{{name}}}" in FACTS[fact.subject][0][fact.place]]
        if source.random() < 0.6:
            asked = asked.removesuffix("?") + source.choice(CONTEXTS).format(f"{{{source.choice(named)}}}")
        gold = frozenset(one.turn for one in told if _answers(one, fact, asked))
        made.questions.append(Question(asked.format(who=fact.who, **fact.words), gold))
    return made


def _answers(one: _Fact, fact: _Fact, asked: str) -> bool:
    """Whether a fact is what the question about another asks for: all that it names is in both."""
    same = (one.who, one.subject, one.place) == (fact.who, fact.subject, fact.place)
    return same and all(
        one.words[name] == word for name, word in fact.words.items() if f"{{{name}}}" in asked
    )


CONTEXTS = [", the one with {}?", " in the conversation about {}?", " back when it was about {}?", " ({})?"]

OPENINGS = ["", "{other}, guess what: ", "Oh {other}, ", "You know what? ", "So, "]

_LATER = [
    " It took {} minutes.",
    " We are {} people by now.",
    " I thought about it for {} days.",
    " Give me {} minutes and I call you.",
    " That was {} years ago.",
    " It is {} degrees here.",
]
