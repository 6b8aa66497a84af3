"""YAML as cluster/ must have it, and a copy of it with a slip."""

import copy

import pytest
import yaml


class Strict(yaml.SafeLoader):
    """The safe loader, which a key given twice does not get past."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"{node.start_mark}: found {sorted(twice)} twice")
        return super().construct_mapping(node, deep)


@pytest.fixture(scope="session")
def documents():
    """Reads the YAML documents of a file."""
    return lambda path: list(yaml.load_all(path.read_text(), Loader=Strict))


@pytest.fixture(scope="session")
def misspelt():
    """Copies a document, and gives the key at a path of it a letter too many."""

    def make(item, path):
        copied = copy.deepcopy(item)
        *above, key = path
        place = copied
        for step in above:
            place = place[step]
        place[f"{key}x"] = place.pop(key)
        return copied

    return make
