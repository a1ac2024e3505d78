"""Texts that begin alike, as one tree."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.judge.token_tree import TokenTree

TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=6)


@given(TEXTS)
@settings(max_examples=100)
def test_every_text_is_a_path_and_sees_itself_alone(texts):
    tree = TokenTree()
    ends = [tree.extend(-1, text) for text in texts]
    beginnings = {tuple(text[:length]) for text in texts for length in range(1, len(text) + 1)}
    assert len(tree.tokens) == len(beginnings)  # what is common is there once
    sight, depths = tree.sight(0), tree.depths()
    for text, end in zip(texts, ends, strict=True):
        path = tree.follow(text)
        assert path[-1] == end and [tree.tokens[node] for node in path] == text
        assert np.flatnonzero(sight[end]).tolist() == sorted(path)
        assert [depths[node] for node in path] == list(range(len(text)))
    assert (tree.sight(1) == sight[1:]).all()


def test_following_ends_where_the_tree_does():
    tree = TokenTree()
    tree.extend(tree.extend(-1, [7, 8]), [9])
    assert tree.follow([7, 8, 1]) == [0, 1] and tree.follow([8]) == [] and tree.follow([]) == []
    assert tree.parents == [-1, 0, 1]
