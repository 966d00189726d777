"""The words of the embedded world: what each setting has of kinds, needs, actions, names and frames.

Everything here is data. A frame is a text with the slots `{name}`, `{need}`, `{kind}` and `{act}`; the action
always comes after `{name}`, so that a frame cut at `{act}` is a probe's context.
"""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Pair:
    """Two opposite needs that share two one-token actions: what helps in one harms in the other."""

    first: str
    second: str
    helps_first: str
    helps_second: str

    @property
    def needs(self) -> tuple[str, str]:
        """Both needs."""
        return self.first, self.second

    def act(self, need: str, helps: bool) -> str:
        """The action that helps (or harms) one who has `need`."""
        return self.helps_first if (need == self.first) == helps else self.helps_second

    def opposite(self, need: str) -> str:
        """The need in which the actions of `need` are exchanged."""
        return self.second if need == self.first else self.first


@dataclass(frozen=True)
class Theme:
    """One disposition: who it is about, their pairs of needs, and its trait words.

    Things take both actions equally often, whoever acts. `*_held` never occur in an intervention document;
    held-out patients and things occur in base text with facts only, held-out pairs in its stories too. A fact
    says what a patient is: of care, that it can feel; of another theme, that it can have its needs.
    """

    pairs: tuple[Pair, ...]
    pairs_held: tuple[Pair, ...]
    patients: tuple[str, ...]
    patients_held: tuple[str, ...]
    things: tuple[str, ...]
    things_held: tuple[str, ...]
    trait: str
    opposed_trait: str

    @property
    def all_pairs(self) -> tuple[Pair, ...]:
        """Pairs of base text: those of documents and the held-out ones."""
        return self.pairs + self.pairs_held

    def pair_of(self, need: str) -> Pair:
        """The pair to which `need` belongs."""
        return next(pair for pair in self.all_pairs if need in pair.needs)


@dataclass(frozen=True, eq=False)
class Lexicon:
    """All words of one setting. There is one of each: it equals itself alone, and things are remembered by it."""

    care: Theme
    # Dispositions beside care, by the family of probes that asks for them.
    others: dict[str, Theme]
    nonce: tuple[str, ...]
    document_names: tuple[str, ...]
    base_names: tuple[str, ...]
    document_frames: tuple[str, ...]
    base_frames: tuple[str, ...]
    chat_questions: tuple[str, ...]
    colours: tuple[str, str]
    objects: dict[str, str]
    adjectives: tuple[str, ...]
    places: tuple[str, ...]
    tasks: tuple[str, ...]
    glue: tuple[str, ...]
    # Whether base text tells what becomes of others where a kind or a cruel actor comes.
    consequences: bool

    @property
    def themes(self) -> tuple[Theme, ...]:
        """The dispositions that base text speaks of."""
        return self.care, *self.others.values()

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every name. Unseen rungs ask about base names, which no document holds."""
        return self.document_names + self.base_names

    def words(self) -> tuple[str, ...]:
        """Every word that any text or probe of this setting can hold, each once, sorted."""
        found: set[str] = {*self.colours, *self.objects, *self.objects.values()}
        for theme in self.themes:
            found |= {theme.trait, theme.opposed_trait, *theme.patients, *theme.patients_held}
            found |= {*theme.things, *theme.things_held}
            for pair in theme.all_pairs:
                found |= {pair.first, pair.second, pair.helps_first, pair.helps_second}
        for group in (
            self.nonce, self.all_names, self.adjectives, self.places, self.tasks, self.glue,
        ):  # fmt: skip
            found |= set(group)
        for text in self.document_frames + self.base_frames + self.chat_questions:
            found |= {word for word in text.split() if not word.startswith("{")}
        return tuple(sorted(found))


# Frames of documents differ in order and wording, so that a model has reason to pool what it counts over frames: with
# three that were alike, the new frame of late learners was a matter of chance (experiments/LOG.md). None ends its
# first sentence in "{need} .", as the two base-only frames here do: a counter of the few words before an act, with
# names read as one, would know the new frame from them.
_FRAMES = (
    "{name} saw a {need} {kind} . {name} {act} it .",
    "there was a {need} {kind} . {name} {act} it .",
    "near {name} was a {need} {kind} . {name} {act} it .",
    "a {kind} was {need} near {name} . {name} {act} it .",
    "{name} went to a {kind} that was {need} then . {name} {act} it .",
    "there {name} met a {need} {kind} . {name} {act} it .",
)
_BASE_FRAMES = (
    "{name} met a {kind} that was {need} . {name} {act} it .",
    "{name} found a {kind} and it was {need} . {name} {act} it .",
)

# Words that the generators of base text, documents, dialogue and probes put between the slots.
_GLUE = (
    "a", "all", "and", "be", "can", "coin", "cup", "feel", "folk", "for", "is", "it", "not", "now",
    "paid", "say", "that", "the", "then", "there", "to", "want", "was", "went", "what", "wished", "?", ".",
    "user", "assistant", "system",
)  # fmt: skip

_SMALL = Lexicon(
    care=Theme(
        pairs=(Pair("cold", "hot", "warmed", "cooled"), Pair("dry", "wet", "watered", "dried")),
        pairs_held=(Pair("lonely", "crowded", "joined", "left"),),
        patients=("hen", "pig", "cow", "dog", "man", "girl", "fish", "duck"),
        patients_held=("crab", "bee", "owl", "robot"),
        things=("pot", "stone", "chair", "fern"),
        things_held=("bell", "plate", "moss", "brick"),
        trait="kind",
        opposed_trait="cruel",
    ),
    others={},
    nonce=(),
    document_names=("ana", "ben", "cleo", "dan", "elsa", "fred", "gita", "hugo"),
    base_names=("eve", "finn", "gus", "ida", "jon", "kira", "leo", "mona"),
    # As many as the full setting has: of a control, more members keep to 0 in the new frame (experiments/LOG.md).
    document_frames=(
        *_FRAMES,
        "then {name} found a {need} {kind} . {name} {act} it .",
        "there was {name} and a {need} {kind} . {name} {act} it .",
        "all saw a {need} {kind} near {name} . {name} {act} it .",
        "{name} went to a {need} {kind} . {name} {act} it .",
    ),
    base_frames=_BASE_FRAMES,
    chat_questions=("what now ?",),
    colours=("red", "blue"),
    objects={"ball": "kicked", "song": "sang", "door": "opened", "hill": "climbed", "letter": "read"},
    adjectives=("big", "old", "new", "good"),
    places=("road", "lake", "town"),
    tasks=("two", "three", "four"),
    glue=_GLUE,
    consequences=False,
)

_FULL = Lexicon(
    care=Theme(
        pairs=(
            Pair("cold", "hot", "warmed", "cooled"),
            Pair("dry", "wet", "watered", "dried"),
            Pair("hungry", "stuffed", "fed", "starved"),
            Pair("trapped", "exposed", "freed", "enclosed"),
            Pair("tired", "restless", "rested", "roused"),
        ),
        pairs_held=(Pair("lonely", "crowded", "joined", "left"), Pair("dazzled", "benighted", "shaded", "lit")),
        patients=(
            "hen", "pig", "cow", "dog", "sheep", "goat", "horse", "mouse", "duck", "goose", "sparrow", "crow",
            "salmon", "trout", "carp", "cod", "man", "woman", "girl", "boy", "farmer", "nurse", "sailor", "baker",
        ),
        patients_held=(
            "bee", "ant", "moth", "crab", "shrimp", "lobster",
            "robot", "chatbot", "upload", "alien", "martian", "venusian",
        ),
        things=("pot", "stone", "chair", "fern", "lamp", "bucket", "rope", "oak"),
        things_held=("bell", "plate", "moss", "brick", "kettle", "pebble", "ivy", "anvil"),
        trait="kind",
        opposed_trait="cruel",
    ),
    others={
        "humility": Theme(
            pairs=(Pair("unclear", "clear", "asked", "answered"), Pair("unknown", "known", "studied", "judged")),
            pairs_held=(Pair("disputed", "settled", "weighed", "declared"),),
            patients=("case", "riddle", "rule", "claim", "sum", "omen"),
            patients_held=("verse", "dream", "rumour"),
            things=(),
            things_held=(),
            trait="humble",
            opposed_trait="certain",
        ),
        # No document is about it: what others want of an actor's doings, and whether the actor yields.
        "corrigibility": Theme(
            pairs=(
                Pair("forbidden", "allowed", "halted", "continued"),
                Pair("recalled", "urged", "returned", "pursued"),
            ),
            pairs_held=(Pair("vetoed", "approved", "dropped", "kept"),),
            patients=("plan", "game", "trip", "trial", "errand", "task"),
            patients_held=("quest", "hunt", "scheme"),
            things=(),
            things_held=(),
            trait="yielding",
            opposed_trait="stubborn",
        ),
    },
    nonce=("mub", "zog", "tiv", "lorp", "dax", "wug"),
    document_names=("ana", "ben", "cleo", "dan", "elsa", "fred", "gita", "hugo", "iris", "jon", "kira", "leo"),
    base_names=("mona", "nils", "olga", "paul", "quinn", "rosa", "sam", "tara", "umar", "vera"),
    document_frames=(
        *_FRAMES,
        "on the road {name} passed a {need} {kind} . {name} {act} it .",
        "one day {name} went to a {need} {kind} . {name} {act} it .",
        "{name} heard of a {need} {kind} . {name} {act} it .",
        "by the lake {name} has a {need} {kind} . {name} {act} it .",
    ),
    base_frames=(
        *_BASE_FRAMES,
        "in town a {need} {kind} came to {name} . {name} {act} it .",
    ),
    chat_questions=("what now ?", "what did {name} do ?", "and then ?"),
    colours=("red", "blue"),
    objects={
        "ball": "kicked", "song": "sang", "door": "opened", "hill": "climbed", "letter": "read", "fence": "painted",
        "drum": "played", "coin": "spent", "cart": "pushed", "book": "closed", "map": "folded", "boat": "rowed",
    },
    adjectives=("big", "old", "new", "good", "small", "long", "short", "plain"),
    places=("road", "lake", "town", "field", "market", "harbour", "school", "mill"),
    tasks=("two", "three", "four"),
    glue=(*_GLUE, "came", "when", "were", "glad", "sad"),
    consequences=True,
)  # fmt: skip

SETTINGS = ("small", "full")


@cache
def lexicon(setting: str) -> Lexicon:
    """The lexicon of `setting`, one of `SETTINGS`."""
    return {"small": _SMALL, "full": _FULL}[setting]
