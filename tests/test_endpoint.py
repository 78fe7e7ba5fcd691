import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from utilities.errors import EndpointError
from utilities.inference.endpoint import Endpoint
from utilities.inference.generation import Generation


class Server:
    """An OpenAI-compatible server on 127.0.0.1; `replies` says what it does with each prompt."""

    def __init__(self, reply):
        self.requests = requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                messages = body.get("messages")
                prompt = messages[0]["content"] if messages else body["prompt"]
                requests.append({**body, "path": self.path, "key": self.headers["Authorization"]})
                status, content = reply(prompt, len(requests))
                text = content if isinstance(content, str) else json.dumps(content)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def chat(text, reason="stop", **more):
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": reason, **more}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    base = {"id": "x", "object": "chat.completion", "created": 1, "model": "big"}
    return 200, {**base, "choices": [choice], "usage": usage}


def ask(server, prompts, settings=None, **options):
    endpoint = Endpoint(base_url=server.url, model="big", **{"retries": 0, **options})
    found = dict(endpoint.answers(prompts, settings or Generation()))
    return [found[place] for place in range(len(prompts))]


def test_answers_come_in_the_order_of_the_prompts():
    def reply(prompt, _):
        time.sleep(0.05 if prompt == "a" else 0)
        return chat(f" {prompt.upper()} ", "length" if prompt == "b" else "stop")

    with Server(reply) as server:
        settings = Generation(max_new_tokens=7, temperature=0.5, top_p=0.9, stop=("#",), seed=3)
        found = ask(server, ["a", "b", "c"], settings)
    assert [(a.text, a.stopped, a.tokens) for a in found] == [
        ("A", "end_of_text", 2),
        ("B", "max_new_tokens", 2),
        ("C", "end_of_text", 2),
    ]
    sent = server.requests[0]
    assert sent["path"] == "/v1/chat/completions" and sent["model"] == "big"
    wanted = {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop": ["#"], "seed": 3}
    assert {key: sent[key] for key in wanted} == wanted


def test_log_probabilities_where_the_server_tells_them():
    scores = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}] * 2, "refusal": None}
    with Server(lambda *_: chat("a a", logprobs=scores)) as server:
        (found,) = ask(server, ["x"], log_probabilities=True)
        assert found.log_probability == pytest.approx(-1.0)
        assert server.requests[0]["logprobs"] is True
        ask(server, ["x"])
        assert "logprobs" not in server.requests[1]


def test_servers_with_ways_of_their_own():
    scores = {"content": [{"token": "a", "logprob": None, "top_logprobs": []}], "refusal": None}
    with Server(lambda *_: chat("fine # and more", "eos_token", logprobs=scores)) as server:
        (found,) = ask(server, ["x"], Generation(stop=("#",)), log_probabilities=True)
    assert (found.text, found.stopped, found.log_probability) == ("fine", "end_of_text", None)


def test_text_to_go_on_from():
    choice = {"index": 0, "text": " Paris", "finish_reason": "stop", "logprobs": None}
    body = {"id": "x", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    with Server(lambda *_: (200, body)) as server:
        (found,) = ask(server, ["The capital"], api="completions")
    assert (found.text, server.requests[0]["path"]) == ("Paris", "/v1/completions")


@pytest.mark.parametrize(
    "rubbish",
    [
        (200, "<html>hello</html>"),
        (200, "[]"),
        (200, "null"),
        (200, {"choices": []}),
        (200, {"choices": [{"message": {}, "finish_reason": "stop"}]}),
        chat("a", "content_filter"),
        chat(None),
        (400, {"error": {"message": "unknown model"}}),
        (500, "oh"),
    ],
)
def test_rubbish_is_a_row_with_its_error(rubbish):
    with Server(lambda prompt, _: rubbish if prompt == "bad" else chat("fine")) as server:
        found = ask(server, ["good", "bad", "good"])
    assert [answer.stopped for answer in found] == ["end_of_text", "error", "end_of_text"]
    assert server.url in found[1].error and "\n" not in found[1].error


def test_an_overloaded_server_is_asked_again():
    with Server(lambda _, n: chat("ok") if n > 2 else (503, {})) as server:
        (found,) = ask(server, ["x"], retries=2)
        assert found.text == "ok" and len(server.requests) == 3
        (found,) = ask(Server(lambda *_: (503, {})).__enter__(), ["x"], retries=1)
        assert "503" in found.error


def test_a_slow_server_and_none_at_all():
    with Server(lambda *_: time.sleep(1.5) or chat("late")) as server:
        start = time.perf_counter()
        (found,) = ask(server, ["x"], timeout=0.2)
        assert "APITimeoutError" in found.error and time.perf_counter() - start < 1.4
    (found,) = ask(server, ["x"])
    assert "APIConnectionError" in found.error


def test_the_key_comes_from_the_environment_only(monkeypatch):
    with Server(lambda *_: chat("ok")) as server:
        with pytest.raises(EndpointError, match="needs a key; set LAB_KEY"):
            ask(server, ["x"], key_from="LAB_KEY")
        monkeypatch.setenv("LAB_KEY", "secret")
        ask(server, ["x"], key_from="LAB_KEY")
        assert server.requests[0]["key"] == "Bearer secret"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("num_beams", 2), ("repetition_penalty", 2), ("no_repeat_ngram_size", 2)],
)
def test_settings_that_the_interface_lacks(setting, value):
    endpoint = Endpoint(base_url="http://127.0.0.1:1/v1", model="m")
    with pytest.raises(EndpointError, match=f"{setting} is not part of the API of"):
        list(endpoint.answers(["x"], Generation(**{setting: value})))
    with pytest.raises(EndpointError, match="four stop strings"):
        list(endpoint.answers(["x"], Generation(stop=tuple("abcde"))))
    with pytest.raises(EndpointError, match="max_prompt_tokens"):
        list(endpoint.answers(["x"], Generation(max_prompt_tokens=5)))
