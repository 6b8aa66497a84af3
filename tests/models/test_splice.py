"""Places of visual tokens, by hand."""

import torch

from xmtl_ray.models.splice import EMPTY, IGNORED, VISUAL, Row, lay_out, merged_length, pack

TEXT = Row([5, 6, 7], [-100, 6, 7])
IMAGE = Row([5, -200, 6], [-100, -200, 6])
VIDEO = Row([-201, 9, 8, 7], [-100, 9, 8, 7])
V, E, X = VISUAL, EMPTY, IGNORED


def test_rows_padded_on_the_right():
    """A tag is N places that nothing is learnt at, whatever its label; padding is neither seen nor learnt."""
    layout = lay_out([IMAGE, TEXT], tokens=2)
    assert layout.ids.tolist() == [[5, V, V, 6], [5, 6, 7, E]]
    assert layout.labels.tolist() == [[X, X, X, 6], [X, 6, 7, X]]
    assert layout.mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert layout.positions.tolist() == [[0, 1, 2, 3]] * 2
    assert merged_length(IMAGE.ids, 2) == 4 and merged_length(TEXT.ids, 2) == 3


def test_rows_padded_on_the_left():
    """Positions begin where the row does, and every row ends at the last place."""
    layout = lay_out([IMAGE, TEXT], tokens=2, left=True)
    assert layout.ids.tolist() == [[5, V, V, 6], [E, 5, 6, 7]]
    assert layout.mask.tolist() == [[True] * 4, [False] + [True] * 3]
    assert layout.positions[1, 1:].tolist() == [0, 1, 2]


def test_packing():
    """First fit, longest first; positions start anew, nothing is predicted over a border, the order is told."""
    layout, order = pack([TEXT, IMAGE, VIDEO, TEXT], tokens=3, capacity=9)
    assert order == [2, 0, 1, 3]  # lengths 3, 5, 6, 3
    assert layout.ids.tolist() == [[V, V, V, 9, 8, 7, 5, 6, 7], [5, V, V, V, 6, 5, 6, 7, E]]
    assert layout.labels.tolist() == [[X, X, X, 9, 8, 7, X, 6, 7], [X, X, X, X, 6, X, 6, 7, X]]
    assert layout.positions.tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2], [0, 1, 2, 3, 4, 0, 1, 2, 3]]
    assert layout.mask.sum() == 17


def test_a_first_label_predicts_nothing_over_a_border():
    """A row that learns its first id would otherwise be predicted by the sequence before it."""
    layout, order = pack([Row([1, 2], [1, 2]), Row([3, 4], [3, 4])], tokens=1, capacity=4)
    assert order == [0, 1] and layout.labels.tolist() == [[X, 2, X, 4]]


def test_a_row_longer_than_the_capacity_is_alone():
    """Nothing is cut off."""
    layout, order = pack([TEXT, VIDEO], tokens=9, capacity=4)
    assert order == [1, 0] and layout.mask.sum(1).tolist() == [12, 3]


def test_moving():
    """Every part goes to the device."""
    moved = lay_out([TEXT], 1).to(torch.device("meta"))
    assert {part.device.type for part in (moved.ids, moved.labels, moved.positions, moved.mask)} == {"meta"}
