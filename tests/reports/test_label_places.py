"""Names of points: inside the plot, and not on each other, where there is room."""

from hypothesis import given
from hypothesis import strategies as st

from maenas.reports.label_places import SIDES, _box, _shared, place_labels

SIZE = (300.0, 400.0)


def test_a_name_at_the_edge_stands_inside() -> None:
    points = [(2.0, 200.0), (298.0, 200.0), (150.0, 1.0), (150.0, 399.0)]
    labels = place_labels(points, ["a long name"] * 4, [], SIZE)
    for point, label in zip(points, labels, strict=True):
        box = _box(point, label.lines, label.side)
        assert _shared(box, (0.0, 0.0, *SIZE)) == (box[2] - box[0]) * (box[3] - box[1])


def test_points_at_one_place_share_a_label() -> None:
    labels = place_labels([(100.0, 100.0), (101.0, 100.0)], ["spec", "weights"], [], SIZE)
    assert [label.lines for label in labels] == [("spec", "weights"), ()]


def test_a_long_name_is_cut() -> None:
    (label,) = place_labels([(150.0, 100.0)], ["x" * 100], [], SIZE)
    assert len(label.lines[0]) == 22


@given(st.lists(st.tuples(st.floats(100, 900), st.floats(60, 340)), min_size=2, max_size=2))
def test_two_names_away_from_the_edges_do_not_cover_each_other(points: list[tuple[float, float]]) -> None:
    size = (1000.0, 400.0)
    one, other = place_labels(points, ["first", "second"], [], size)
    assert {one.side, other.side} <= set(SIDES)
    if other.lines:
        assert _shared(_box(points[0], one.lines, one.side), _box(points[1], other.lines, other.side)) == 0
