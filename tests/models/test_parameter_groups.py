"""Which weights have a rate of their own."""

import pytest
from tiny_videollama2 import FAMILIES, build

from xmtl_ray.models.parameter_groups import groups


@pytest.mark.parametrize("family", FAMILIES)
def test_eyes_have_a_rate_of_their_own(tmp_path, family):
    """Connector and a tower that learns go by one rate, a frozen tower by none; all that learns goes by one rate."""
    model = build(tmp_path, family)
    model.requires_grad_(True)
    model.tower.requires_grad_(False)
    for begins in (("connector.",), ("connector.", "tower.")):
        found = list(groups(model, separate_connector=True))
        apart = [name for group in found if group.connector for name in group.names]
        assert {name.partition(".")[0] + "." for name in apart} == set(begins)
        together = [name for group in found if not group.connector for name in group.names]
        assert not [name for name in together if name.startswith(begins)]
        learn = {name for name, value in model.named_parameters() if value.requires_grad}
        assert len(apart) + len(together) == len(learn) and {*apart, *together} == learn
        model.tower.thaw()
    assert not any(group.connector for group in groups(model, separate_connector=False))
