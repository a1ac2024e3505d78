"""A judge behind any server with OpenAI's completions, if it echoes a prompt with the log-probabilities of its tokens.

Only the likeliest tokens come, by their text: a place where a letter is not among them is refused, never guessed.

Source: OpenAI, API reference, "Create completion" (legacy): echo, logprobs, max_tokens.
"""

from collections.abc import Mapping, Sequence

from specsync_lib.errors import InputError
from specsync_lib.judge.engines.served import Server, ServerFault, field, listed
from specsync_lib.judge.script import Script

LIKELIEST = 20


class OpenAI:
    """See `served.Dialect`.

    Raises
    ------
    InputError : two letters are the same text.
    """

    def __init__(self, server: Server, script: Script, model: str) -> None:
        self._server, self._script, self._model = server, script, model
        self._letters = {script.decode([letter]): letter for letter in script.alphabet.tolist()}
        if len(self._letters) != len(script.alphabet):
            raise InputError("judge: two letters are the same text, and this server names tokens by text; use another")
        self.about = f"completions at {server.url}, model {model}"

    def score(
        self, prompts: Sequence[Sequence[int]], places: Sequence[Sequence[int]]
    ) -> list[list[Mapping[int, float]]]:
        """One request of all prompts."""
        answer = self._ask(prompts, max_tokens=0, echo=True)
        choices = listed(field(answer, "choices"), len(prompts), "choices")
        ordered = sorted(choices, key=lambda choice: str(field(choice, "index")).zfill(6))
        return [self._rows(*each) for each in zip(ordered, prompts, places, strict=True)]

    def _rows(self, choice: object, prompt: Sequence[int], places: Sequence[int]) -> list[Mapping[int, float]]:
        likeliest = field(choice, "logprobs", "top_logprobs")
        if not isinstance(likeliest, list) or len(likeliest) not in (len(prompt), len(prompt) + 1):
            raise ServerFault(f"judge: top_logprobs: expected those of {len(prompt)} echoed tokens; it can not score")
        rows = []
        for place in places:
            found = likeliest[place + 1]
            if not isinstance(found, dict):
                raise ServerFault("judge: a place without log-probabilities; it can not score a prompt")
            rows.append({self._letters[text]: value for text, value in found.items() if text in self._letters})
        return rows

    def _ask(self, prompts: Sequence[Sequence[int]], **more: object) -> object:
        body = {"model": self._model, "prompt": [list(prompt) for prompt in prompts], "temperature": 0}
        return self._server.ask("/v1/completions", body | {"logprobs": LIKELIEST} | more)

    def next(self, text: Sequence[int]) -> int:
        """One token, greedily.

        Raises
        ------
        ServerFault : its text is not one token here.
        """
        said = field(self._ask([text], max_tokens=1), "choices", 0, "logprobs", "tokens", 0)
        tokens = self._script.encode(str(said))
        if len(tokens) != 1:
            raise ServerFault(f"judge: wrote {str(said)[:20]!r}, which is not one token here; it can not reason aloud")
        return tokens[0]
