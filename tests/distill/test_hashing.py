"""Hashing images while the source is read: results come in order, and little is under way at once."""

from xmtl_ray.distill.plan import in_order


def test_results_come_in_order_and_no_more_than_asked_is_begun_ahead():
    """Of ten pieces of work three are under way at most; nothing is begun before it is needed, and nothing lost."""
    begun, ended, most = [], [], 0

    def works():
        for number in range(10):
            begun.append(number)
            yield number

    def result(number):
        nonlocal most
        most = max(most, len(begun) - len(ended))
        ended.append(number)
        return number * number

    found = in_order(works(), result, 3)
    assert begun == []
    assert next(found) == 0 and len(begun) == 3
    assert [0, *found] == [number * number for number in range(10)] and most == 3
    assert list(in_order([], result, 3)) == [] and list(in_order([4], result, 3)) == [16]
