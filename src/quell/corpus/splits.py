"""Assigns groups of recordings to train, validation and test by a hash of their names.

All recordings of a group are in one split. A group is a speaker, or the source from which several noise takes were cut.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate, pairwise
from pathlib import Path

from quell.errors import CorpusError

SPLITS = ("train", "validation", "test")


def group_of(path: Path, rule: str) -> str:
    """The group that a file belongs to.

    Args:
        path: relative to the folder of recordings.
        rule: "parent" (its folder), "file" (each file is a group), or a regular expression with one group, which is
            searched in the file name.

    Raises:
        CorpusError: the file name does not match the regular expression.
    """
    if rule == "parent":
        return path.parent.as_posix()
    if rule == "file":
        return path.as_posix()
    match = re.search(rule, path.name)
    if match is None:
        raise CorpusError(f"{path}: name without a group, expected a match of {rule!r}; rename it or correct the rule")
    return str(match.group(1))


def split_groups(categories: Mapping[str, str], fractions: Mapping[str, float]) -> dict[str, str]:
    """Split of each group: "train", "validation" or "test".

    SHA-256 of a group's name gives a point in [0, 1), and the splits are consecutive intervals of [0, 1), so a group
    keeps its split when others are added or removed. One exception cannot be avoided: where a category has at least
    three groups and none in some split, the group nearest to that interval is moved there, until another group falls
    into it.

    Args:
        categories: group -> category; a category with three groups is represented in every split.
        fractions: share of each split, in (0, 1), adding up to 1.

    Raises:
        CorpusError: fewer than three groups.
    """
    if len(categories) < 3:
        raise CorpusError(f"{len(categories)} groups, expected at least 3, one for each split; add recordings")
    edges = accumulate((fractions[name] for name in SPLITS), initial=0.0)
    bounds = dict(zip(SPLITS, pairwise(edges), strict=True))
    points = {group: point(group) for group in categories}
    assigned = {
        group: next((name for name in SPLITS if at < bounds[name][1]), SPLITS[-1]) for group, at in points.items()
    }
    strata = [[g for g in points if categories[g] == category] for category in sorted(set(categories.values()))]
    for stratum in [*(members for members in strata if len(members) >= 3), list(points)]:
        for name in reversed(SPLITS):
            counts = Counter(assigned[group] for group in stratum)
            if counts[name] == 0:
                donor = max(SPLITS, key=lambda split: counts[split])
                low, high = bounds[name]
                candidates = [group for group in stratum if assigned[group] == donor]
                assigned[min(candidates, key=lambda g: (max(low - points[g], points[g] - high), g))] = name
    return assigned


def point(group: str) -> float:
    """The point in [0, 1) of a name, the same on all machines."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
