"""Token trees: several texts that begin alike, read by a language model in one forward pass.

Source: Miao et al., "SpecInfer: Accelerating Large Language Model Serving with Tree-based Speculative Inference and
Verification", 2305.09781, section 4.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


class TokenTree:
    """Texts with common beginnings: every node is a token behind its parent's; a lone text is a tree without branches.

    Attributes
    ----------
    tokens, parents : by node, a parent before its children; the parent of a text's first token is -1.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def extend(self, node: int, tokens: Sequence[int]) -> int:
        """Walk from a node along a text, adding what is not there yet; the node of its last token."""
        for token in tokens:
            child = self._children.setdefault((node, token), len(self.tokens))
            if child == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(node)
            node = child
        return node

    def alternate(self, node: int, lines: Sequence[Sequence[int]], answers: Sequence[int]) -> list[int]:
        """Write lines with an answer behind each but the last; the node where each line ends."""
        ends: list[int] = []
        for index, line in enumerate(lines):
            ends.append(self.extend(node, line))
            node = self.extend(ends[-1], answers[index : index + 1])
        return ends

    def follow(self, tokens: Sequence[int]) -> list[int]:
        """The nodes of the longest beginning of a text that the tree holds."""
        nodes: list[int] = []
        for token in tokens:
            node = self._children.get((nodes[-1] if nodes else -1, token))
            if node is None:
                break
            nodes.append(node)
        return nodes

    def depths(self) -> list[int]:
        """How many tokens stand before each node in its own text."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
        return depths

    def sight(self, first: int) -> Bool[np.ndarray, "nodes all"]:
        """What every node from ``first`` on attends to: itself and all that stands before it in its own text."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen[first:]
