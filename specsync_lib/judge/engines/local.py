"""A language model in this process: key-value cache, token trees in one forward pass."""

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from specsync_lib.errors import InputError
from specsync_lib.judge.engines.session import Branch
from specsync_lib.judge.token_tree import TokenTree


class LocalEngine:
    """A causal language model of transformers'.

    Parameters
    ----------
    model : in eval mode; one whose attention slides over a window is refused, for a tree has no such window.
    letters : [15] the token of each viseme.
    name : what was loaded.

    Raises
    ------
    InputError : its output layer is not one matrix, or its attention sees a sliding window.
    """

    def __init__(self, model: nn.Module, letters: Int[Tensor, "15"], name: str = "") -> None:
        output = model.get_output_embeddings()
        if not isinstance(output, nn.Linear) or output.bias is not None:
            raise InputError(f"reasoner {name}: its output layer is not one matrix; choose another model")
        window, kinds = getattr(model.config, "sliding_window", None), getattr(model.config, "layer_types", None)
        if set(kinds or ()) - {"full_attention"} or (window and not kinds):
            raise InputError(
                f"reasoner {name}: its attention slides over a window of {window} tokens; a tree of plans has none: "
                "choose a model of full attention, or put it behind a server"
            )
        self.model, self.about = model, f"{name} in this process"
        self.head = output.weight.detach()[letters.to(output.weight.device)].float()  # [15, width]
        self.device = model.get_input_embeddings().weight.device

    def logits(self, hidden: Float[Tensor, "n width"]) -> Float32[Tensor, "n 15"]:
        """The letters' logits of hidden states, in float32."""
        return hidden.float() @ self.head.T

    def open(self) -> "LocalSession":
        """Begin one recording."""
        return LocalSession(self)


class LocalSession:
    """The cache only follows the text: before each pass it is cut back to the longest beginning that it shares with
    what is to be read. A rejected draft is thus rolled back by the next pass, and what a pass has already computed for
    committed tokens is never computed again, on whichever branch.
    """

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._cache = None
        self._cached = TokenTree()
        self.passes = 0
        self.tokens_read = 0

    def fork(self) -> "LocalSession":
        """Keys and values are shared until a pass replaces them, so a fork costs no memory of its own."""
        twin = copy(self)
        if self._cache is not None:
            twin._cache = copy(self._cache)
            twin._cache.layers = [copy(layer) for layer in self._cache.layers]
        return twin

    def rows(self, text: Sequence[int], branches: Sequence[Branch]) -> list[Float32[Tensor, "asked 15"]]:
        """See `Session.rows`; what branches have in common is read once."""
        tree, places = TokenTree(), []
        end_of_text = tree.extend(-1, text)
        for branch in branches:
            own = tree.alternate(end_of_text, branch.lines, branch.letters)
            places.append(own[-1:] if branch.last else own)
        asked = sorted({place for own in places for place in own})
        logits = self._engine.logits(self._hidden(tree, asked))
        return [logits[np.searchsorted(asked, own)] for own in places]

    def next(self, text: Sequence[int]) -> int:
        """See `Session.next`."""
        tree = TokenTree()
        hidden = self._hidden(tree, [tree.extend(-1, text)])
        return int(self._engine.model.get_output_embeddings()(hidden)[0].argmax())

    @torch.inference_mode()
    def _hidden(self, tree: TokenTree, places: list[int]) -> Float[Tensor, "places width"]:
        """Hidden states at some nodes of a tree, by one forward pass over what the cache does not hold of it.

        All branches begin at the first place or behind it.
        """
        kept = self._cached.follow(tree.tokens[: places[0]])
        first, count = len(kept), len(self._cached.tokens)
        if not first:
            self._cache = None
        elif kept[-1] != first - 1:  # the text goes on along a later branch
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, kept], layer.values[:, :, kept]
        elif first < count:
            self._cache.crop(first - count)  # a negative number is how many tokens to remove
        self._cached = TokenTree()  # should the pass fail, the next one starts afresh
        model, device = self._engine.model.base_model, self._engine.device
        ids = torch.tensor([tree.tokens[first:]], device=device)
        sight = {}  # of a lone text: all that came before, which the model knows
        if tree.parents != list(range(-1, len(tree.tokens) - 1)):
            hidden_from = torch.from_numpy(~tree.sight(first)).to(device)
            mask = torch.zeros(hidden_from.shape, dtype=model.dtype, device=device)
            sight = {
                "attention_mask": mask.masked_fill(hidden_from, torch.finfo(model.dtype).min)[None, None],
                "position_ids": torch.tensor([tree.depths()[first:]], device=device),
            }
        output = model(input_ids=ids, past_key_values=self._cache, use_cache=True, **sight)
        self._cache, self._cached = output.past_key_values, tree
        self.passes += 1
        self.tokens_read += ids.shape[1]
        return output.last_hidden_state[0, [place - first for place in places]].to(self._engine.head.device)
