"""A judge behind SGLang: ``POST /generate`` scores a draft in one request, exactly, and reuses what it has read.

Source: SGLang, ``python/sglang/srt/managers/io_struct.py`` (GenerateReqInput) and the scheduler's
``add_input_logprob_return_values``: of ``input_token_ids_logprobs`` entry i tells what was likely in place of token
``logprob_start_len + i``, and the first entry is null.
"""

from collections.abc import Mapping, Sequence

from specsync_lib.judge.engines.served import Server, ServerFault, field, listed, told


class SGLang:
    """See `served.Dialect`."""

    def __init__(self, server: Server, letters: Sequence[int]) -> None:
        self._server, self._letters = server, list(letters)
        version = told(server, "/get_server_info", "version")
        model = told(server, "/get_model_info", "model_path")
        self.about = f"SGLang {version} at {server.url}, model {model}"

    def score(
        self, prompts: Sequence[Sequence[int]], places: Sequence[Sequence[int]]
    ) -> list[list[Mapping[int, float]]]:
        """One request of all prompts."""
        starts = [own[0] for own in places]
        body = {
            "input_ids": [list(prompt) for prompt in prompts],
            "sampling_params": {"max_new_tokens": 0, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": starts,
            "token_ids_logprob": [self._letters] * len(prompts),
        }
        answers = listed(self._server.ask("/generate", body), len(prompts), "answers of /generate")
        return [self._rows(*each) for each in zip(answers, prompts, places, strict=True)]

    def _rows(self, answer: object, prompt: Sequence[int], places: Sequence[int]) -> list[Mapping[int, float]]:
        start = places[0]
        found = listed(
            field(answer, "meta_info", "input_token_ids_logprobs"), len(prompt) - start, "input_token_ids_logprobs"
        )
        echoed = field(answer, "meta_info", "input_token_logprobs")
        rows = []
        for place in places:
            index = place + 1 - start
            if field(echoed, index, 1) != prompt[place + 1]:
                raise ServerFault(f"judge: token {place + 1} came back as another; is a middle layer in between?")
            rows.append(by_token(found[index]))
        return rows

    def next(self, text: Sequence[int]) -> int:
        """One token, greedily."""
        body = {
            "input_ids": list(text),
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
        }
        return int(field(self._server.ask("/generate", body), "meta_info", "output_token_logprobs", 0, 1))


def by_token(entries: object) -> dict[int, float]:
    """[[log-probability, token, text], ...] by token."""
    if not isinstance(entries, list):
        raise ServerFault("judge: a place without log-probabilities; it can not score a prompt")
    return {field(entry, 1): field(entry, 0) for entry in entries}
