"""Servers that speak SGLang's, vLLM's and OpenAI's requests over the tiny language model, well or with a fault."""

import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from tests.toys.reasoner import CLASSES, byte_tokenizer, tiny_llama

KINDS = ("sglang", "vllm", "openai")
REQUEST_KEYS = {
    "/generate": {
        "input_ids", "sampling_params", "return_logprob", "logprob_start_len", "token_ids_logprob",
    },
    "/v1/completions": {
        "model", "prompt", "max_tokens", "temperature", "logprobs", "logprob_token_ids", "echo",
        "return_tokens_as_token_ids", "add_special_tokens",
    },
}  # fmt: skip


class ToyServer:
    """What the server knows. ``fault`` changes an answer before it is sent; ``failures`` of the next requests end with
    status 500; ``cuts`` of them in the middle of the answer; while ``answers`` is not set, none comes."""

    def __init__(self) -> None:
        self.model, tokenizer = tiny_llama(), byte_tokenizer()
        self.letters = tokenizer.encode(" X P F T D K C S N R A E I O U")
        self.texts = [tokenizer.decode([token]) for token in range(self.model.config.vocab_size)]
        self.fault: Callable[[object], object] = lambda answer: answer
        self.failures = self.cuts = 0
        self.answers = threading.Event()
        self.answers.set()
        self.knows_tokens = True  # whether vLLM is new enough for logprob_token_ids
        self.requests: list[tuple[str, dict]] = []

    @torch.inference_mode()
    def log_probabilities(self, tokens: list[int]) -> torch.Tensor:
        """[n, vocabulary] of what follows each token."""
        return self.model(input_ids=torch.tensor([tokens])).logits[0].float().log_softmax(dim=1)

    def answer(self, path: str, body: dict | None) -> object:
        if body is None:
            return {
                "/get_server_info": {"version": "0.5"}, "/get_model_info": {"model_path": "tiny"},
                "/version": {"version": "0.2"}, "/v1/models": {"data": [{"id": "tiny"}]},
            }[path]  # fmt: skip
        assert set(body) <= REQUEST_KEYS[path], set(body) - REQUEST_KEYS[path]
        return self.generate(body) if path == "/generate" else self.complete(body)

    def generate(self, body: dict) -> object:
        """SGLang's: the first entry of a prompt's is null, the last token's own row is the output's."""
        one = not isinstance(body["input_ids"][0], list)
        prompts = [body["input_ids"]] if one else body["input_ids"]
        answers = []
        for index, prompt in enumerate(prompts):
            rows = self.log_probabilities(prompt)
            start = len(prompt) if one else body["logprob_start_len"][index]
            letters = [] if one else body["token_ids_logprob"][index]
            echoed = [[None if at == start else rows[at - 1, prompt[at]].item(), prompt[at], None]
                      for at in range(start, len(prompt))]  # fmt: skip
            found = [None if at == start else [[value, letter, None] for value, letter
                     in zip(rows[at - 1, letters].tolist(), letters, strict=True)]
                     for at in range(start, len(prompt))]  # fmt: skip
            written = [[rows[-1].max().item(), int(rows[-1].argmax()), None]]
            meta = {"input_token_logprobs": echoed, "output_token_logprobs": written}
            answers.append({"text": "", "meta_info": meta | ({} if one else {"input_token_ids_logprobs": found})})
        return answers[0] if one else answers

    def complete(self, body: dict) -> object:
        """vLLM's, and with ``echo`` any other's."""
        by_id = body.get("return_tokens_as_token_ids", False)
        name = lambda token: f"token_id:{token}" if by_id else self.texts[token]  # noqa: E731
        choices = []
        for index, prompt in enumerate(body["prompt"]):
            rows = self.log_probabilities(prompt)
            places = [*range(len(prompt) - 1)] if body.get("echo") else [len(prompt) - 1]
            likeliest = []
            for place in places:
                asked = rows[place].topk(body["logprobs"]).indices.tolist()
                if self.knows_tokens and "logprob_token_ids" in body:
                    asked = [int(rows[place].argmax()), *body["logprob_token_ids"]]
                if body.get("echo"):  # a server whose likeliest hold every letter
                    asked = [*asked, *self.letters]
                likeliest.append(dict(zip(map(name, asked), rows[place, asked].tolist(), strict=True)))
            written = prompt[1:] if body.get("echo") else [int(rows[-1].argmax())]
            tokens = [name(token) for token in ([prompt[0]] if body.get("echo") else []) + written]
            top = [None, *likeliest] if body.get("echo") else likeliest
            choices.append({"index": index, "text": "", "logprobs": {"tokens": tokens, "top_logprobs": top}})
        return {"choices": choices[::-1]}  # in an order of its own


def _handler(toy: ToyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body go out as they are written, as real servers do

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.reply(None)

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body: dict | None) -> None:
            if body is not None:
                toy.requests.append((self.path, body))
                toy.answers.wait()
            try:
                status, answer = 200, toy.answer(self.path, body)
            except KeyError:
                status, answer = 404, {"error": "no such path"}
            if body is not None:
                answer = toy.fault(answer)
                if toy.failures:
                    toy.failures, status, answer = toy.failures - 1, 500, {"error": "out\nof memory"}
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if toy.cuts and body is not None:
                toy.cuts -= 1
                content = content[: len(content) // 2]
                self.close_connection = True
            try:
                self.wfile.write(content)
            except OSError:  # who asked has gone
                self.close_connection = True

    return Handler


@contextmanager
def serving(toy: ToyServer) -> Iterator[str]:
    """The address of a server while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(toy))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def nobody_listening() -> Iterator[str]:
    """An address where nobody listens and, while the block runs, nobody else can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def spoiled(answer, spoil):
    """Every number of an answer that stands for a log-probability, spoiled."""
    if isinstance(answer, list):
        if len(answer) == 3 and isinstance(answer[0], float):
            return [spoil(answer[0]), *answer[1:]]
        return [spoiled(one, spoil) for one in answer]
    if isinstance(answer, dict):
        return {key: spoil(one) if isinstance(one, float) else spoiled(one, spoil) for key, one in answer.items()}
    return answer


def without_a_letter(answer):
    """The letters' first is gone."""
    (letter,) = byte_tokenizer().encode(" X")
    if isinstance(answer, list):
        entries = [one for one in answer if not (len(answer) == CLASSES and isinstance(one, list) and one[1] == letter)]
        return [without_a_letter(one) for one in entries]
    if isinstance(answer, dict):
        return {key: without_a_letter(one) for key, one in answer.items() if key not in (" X", f"token_id:{letter}")}
    return answer


def shortened(answer):
    """One entry too few, wherever entries are listed."""
    if isinstance(answer, list):
        return [shortened(one) for one in answer[:-1]] if len(answer) > 3 else [shortened(one) for one in answer]
    return {key: shortened(one) for key, one in answer.items()} if isinstance(answer, dict) else answer


FAULTS = {
    "NaN": (lambda answer: spoiled(answer, lambda _: math.nan), "no finite number"),
    "infinity": (lambda answer: spoiled(answer, lambda _: -math.inf), "no finite number"),
    "words": (lambda answer: spoiled(answer, lambda _: "likely"), "no finite number"),
    "zeros": (lambda answer: spoiled(answer, lambda _: 0.0), "add up to more than 1"),
    "probabilities": (lambda answer: spoiled(answer, math.exp), "add up to more than 1"),
    "a missing letter": (without_a_letter, "1 of 15 letters are missing"),
    "a wrong length": (shortened, "expected"),
    "no JSON": (lambda _: b"<html>", "no JSON"),
    "deep JSON": (lambda _: b"[" * 100_000, "no JSON"),
    "null": (lambda _: None, "expected|without"),
    "a list": (lambda _: [], "expected|without"),
    "an error as success": (lambda _: {"error": {"message": "no"}}, "expected|without"),
    "null log-probabilities": (
        lambda answer: spoiled(answer, lambda _: None), "no finite number"
    ),
}  # fmt: skip
