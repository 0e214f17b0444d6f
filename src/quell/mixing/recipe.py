"""The recipe: a number for how a corpus is trained and scored on.

Raise it whenever a number of a training or a score may change: by the corpus, the mixtures, the network, the steps, the
seeds or the metrics. Scores of different recipes cannot be compared: a study has one, and every process that works on
it, or trains one of its trials again, must have the same. `tests/test_recipe.py` fails where numbers have changed and
the recipe has not.
"""

from quell.corpus.memory_map import Corpus, Split
from quell.mixing.excerpts import LONGEST_S, excerpt_starts, speech_only

# 1: commit c087d60 and before, which stored none. 2: long recordings are trained and scored on where there is speech.
RECIPE = 2
# That of a corpus of utterances, whose numbers recipe 2 did not change. The next recipe is that of every corpus.
RECIPE_OF_UTTERANCES = 1
# Of studies that store none.
FIRST_RECIPE = 1


def recipe(corpus: Corpus) -> int:
    """The recipe by which a corpus is trained and validated on."""
    scored = recipe_of_scores(corpus.splits["validation"], corpus.sample_rate)
    return max(scored, _recipe_of_training(corpus.splits["train"], corpus.sample_rate))


def recipe_of_scores(split: Split, sample_rate: int) -> int:
    """The recipe of mixtures that are scored on, of one split."""
    longest = round(LONGEST_S * sample_rate)
    starts = (excerpt_starts(split.stored(clip), longest, sample_rate) for clip in split.of("clean"))
    return RECIPE if any(found.tolist() != [0] for found in starts) else RECIPE_OF_UTTERANCES


def _recipe_of_training(split: Split, sample_rate: int) -> int:
    parts = (speech_only(split, [clip], sample_rate) == [(0, clip)] for clip in split.of("clean"))
    return RECIPE_OF_UTTERANCES if all(parts) else RECIPE
