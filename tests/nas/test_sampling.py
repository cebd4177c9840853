"""Random detectors are members of their space."""

import itertools

import pytest

from maenas.nas.sampling import MAX_DRAWN_DEPTH, random_detectors
from maenas.nas.space import load_space, space_names


@pytest.mark.parametrize("name", space_names())
def test_every_random_detector_is_in_its_space(name: str) -> None:
    space = load_space(name)
    drawn = [spec for _, spec in random_detectors([space], 25, seed=3)]
    assert all(space.contains(spec.backbone) for spec in drawn)
    assert len({spec.id for spec in drawn}) > 20
    assert max(stage.depth for spec in drawn for stage in spec.backbone.stages) <= MAX_DRAWN_DEPTH


def test_the_same_seed_draws_the_same_detectors_and_more_of_them_begin_alike() -> None:
    spaces = [load_space("csp"), load_space("mob")]
    few, many = (list(random_detectors(spaces, count, seed=1)) for count in (3, 7))
    assert few == many[:3]
    assert [name.partition(" ")[0] for name, _ in many] == list(itertools.islice(itertools.cycle(("csp", "mob")), 7))
    assert few != list(random_detectors(spaces, 3, seed=2))
