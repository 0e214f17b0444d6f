"""A group's split is that of its name's hash; it stays, and every category of three groups is in all of them."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from quell.corpus.splits import SPLITS, split_groups

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def names(count, seed, categories=1):
    rng = np.random.default_rng([seed, count])
    return {f"{rng.integers(2**60)}": f"category{i % categories}" for i in range(count)}


@pytest.mark.parametrize("seed", range(20))
def test_adding_recordings_moves_no_existing_group(seed):
    # With 100 groups in a category, a split is empty and needs a repair once in 0.9**-100 = 40 000 times.
    before = names(300, seed, categories=3)
    added = names(int(np.random.default_rng(seed).integers(1, 500)), seed + 1_000, categories=4)
    assigned = split_groups(before, FRACTIONS)
    after = split_groups(before | added, FRACTIONS)
    assert {group: after[group] for group in before} == assigned


def test_the_split_of_a_group_is_that_of_its_hash_on_every_machine():
    groups = names(200, 0)
    points = {group: int(hashlib.sha256(group.encode()).hexdigest()[:16], 16) / 2**64 for group in groups}
    expected = {g: "train" if x < 0.8 else "validation" if x < 0.9 else "test" for g, x in points.items()}
    assert split_groups(groups, FRACTIONS) == expected


def test_removing_recordings_moves_no_remaining_group():
    before = names(300, 0, categories=3)
    kept = dict(list(before.items())[::2])
    assigned = split_groups(before, FRACTIONS)
    assert split_groups(kept, FRACTIONS) == {group: assigned[group] for group in kept}


@pytest.mark.parametrize("count", [3, 4, 5, 8, 20])
def test_every_category_of_three_groups_is_in_every_split(count):
    for seed in range(40):
        categories = {f"{seed}/{category}/{i}": category for category in "abc" for i in range(count)} | {"x": "rare"}
        assigned = split_groups(categories, FRACTIONS)
        for category in "abc":
            found = {assigned[group] for group, other in categories.items() if other == category}
            assert found == set(SPLITS), (seed, category)


def test_shares_approach_the_fractions():
    fractions = {"train": 0.7, "validation": 0.2, "test": 0.1}
    counts = Counter(split_groups(names(5_000, 0), fractions).values())
    for name, fraction in fractions.items():
        deviation = (fraction * (1 - fraction) / 5_000) ** 0.5
        assert counts[name] / 5_000 == pytest.approx(fraction, abs=4 * deviation)
