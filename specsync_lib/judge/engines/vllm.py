"""A judge behind vLLM: one request of a prompt for every place that is asked for, each with one token to write.

Its ``prompt_logprobs`` would score a draft at once, but they skip the prefix cache (with it on, the prompts of one
request share what they have in common). Asked for are the letters by token, and the 20 likeliest for a version that
does not know ``logprob_token_ids``: there every letter must be among these.

Source: vLLM, ``vllm/entrypoints/openai/completion/protocol.py`` (CompletionRequest) and ``serving.py``.
"""

from collections.abc import Mapping, Sequence

from specsync_lib.judge.engines.served import Server, ServerFault, field, listed, told

TOKEN_MARK = "token_id:"  # of return_tokens_as_token_ids
LIKELIEST = 20  # the most that a server's default allows


class VLLM:
    """See `served.Dialect`."""

    def __init__(self, server: Server, letters: Sequence[int], model: str) -> None:
        self._server, self._letters, self._model = server, list(letters), model
        self.about = f"vLLM {told(server, '/version', 'version')} at {server.url}, model {model}"

    def score(
        self, prompts: Sequence[Sequence[int]], places: Sequence[Sequence[int]]
    ) -> list[list[Mapping[int, float]]]:
        """One request; a beginning that several prompts share is sent once."""
        wanted = [[tuple(prompt[: place + 1]) for place in own] for prompt, own in zip(prompts, places, strict=True)]
        unique = list(dict.fromkeys(beginning for own in wanted for beginning in own))
        found = dict(zip(unique, self._after(unique), strict=True))
        return [[found[beginning] for beginning in own] for own in wanted]

    def _after(self, beginnings: Sequence[Sequence[int]]) -> list[dict[int, float]]:
        choices = self._choices(beginnings, logprob_token_ids=self._letters)
        return [_by_token(field(choice, "logprobs", "top_logprobs", 0)) for choice in choices]

    def _choices(self, prompts: Sequence[Sequence[int]], **more: object) -> list:
        body = {
            "model": self._model,
            "prompt": [list(prompt) for prompt in prompts],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": LIKELIEST,
            "return_tokens_as_token_ids": True,
            "add_special_tokens": False,
            **more,
        }
        choices = listed(field(self._server.ask("/v1/completions", body), "choices"), len(prompts), "choices")
        ordered = {field(choice, "index"): choice for choice in choices}
        if set(ordered) != set(range(len(prompts))):
            raise ServerFault(f"judge: choices of other prompts: {sorted(map(str, ordered))[:4]}")
        return [ordered[index] for index in range(len(prompts))]

    def next(self, text: Sequence[int]) -> int:
        """One token, greedily."""
        (choice,) = self._choices([text])
        return _token(field(choice, "logprobs", "tokens", 0))


def _by_token(likeliest: object) -> dict[int, float]:
    if not isinstance(likeliest, dict):
        raise ServerFault("judge: a choice without log-probabilities; it can not score")
    return {_token(name): value for name, value in likeliest.items()}


def _token(name: object) -> int:
    number = str(name).removeprefix(TOKEN_MARK)
    if not number.isdecimal():
        raise ServerFault(f"judge: a token came as {str(name)[:20]!r}, not as {TOKEN_MARK}N; is it vLLM?")
    return int(number)
