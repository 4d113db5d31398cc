"""The words that the text demo's passages and questions are made of."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words("ann ben carl dora emma finn gina hugo iris jack kate liam mary nick olga paul rosa sam tina viktor")
PLACES = _words("kitchen garden attic cellar office library station bakery museum harbour school tower")
COLOURS = _words("red orange yellow green blue purple pink brown grey black white golden")
THINGS = _words("hat cup box bag book lamp chair coat key bowl ring shoe kite clock pen rope vase brush")
DAYS = _words("monday tuesday wednesday thursday friday saturday sunday")
NUMBERS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen twenty"
)
TOPICS = {
    "sport": _words("goal match team coach race ball tennis runner league medal stadium player"),
    "food": _words("bread soup cheese rice apple cake butter salad onion pepper sausage honey"),
    "music": _words("song drum guitar piano choir band concert tune violin singer melody flute"),
    "weather": _words("rain storm snow wind cloud sunshine fog hail thunder frost breeze drizzle"),
    "money": _words("bank price tax loan coin market profit wage debt budget trade salary"),
    "animals": _words("horse sheep tiger rabbit eagle whale goat spider lion donkey camel beetle"),
}
FIRST_OPPOSITES = _words("big hot old fast dark loud wet heavy full clean strong thick hard wide deep sweet")
SECOND_OPPOSITES = _words("small cold new slow bright quiet dry light empty dirty weak thin soft narrow shallow sour")
OPPOSITES = tuple(zip(FIRST_OPPOSITES, SECOND_OPPOSITES, strict=True))
QUALITIES = (*FIRST_OPPOSITES, *SECOND_OPPOSITES)
PRAISE = _words("good great lovely superb charming clever fresh funny brilliant splendid pleasant perfect")
BLAME = _words("bad awful dull boring clumsy stale silly terrible horrible dreadful annoying poor")
REVIEWED = _words("film book play meal hotel show story plot music acting service ending")
