"""The `openai` package against the server."""

import json

import openai

from server import Server, run

PROMPT = "The rain had stopped, and the village came out to look."


def main():
    with Server("--name", "classics") as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        alone = run(PROMPT, 7, 24)["text"]

        assert [model.id for model in client.models.list()] == ["classics"]
        answer = client.completions.create(model="classics", prompt=PROMPT, seed=7, max_tokens=24, logprobs=2)
        assert answer.choices[0].text == alone, (answer.choices[0].text, alone)
        assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 24
        assert len(answer.choices[0].logprobs.top_logprobs) == 24

        many = client.completions.create(model="classics", prompt=[PROMPT, "He"], n=2, seed=7, max_tokens=6)
        assert [choice.index for choice in many.choices] == [0, 1, 2, 3]

        stream = client.completions.create(
            model="classics", prompt=PROMPT, seed=7, max_tokens=24, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == alone
        assert chunks[-1].usage.completion_tokens == 24

        messages = [{"role": "system", "content": "A talk."}, {"role": "user", "content": "Who are you?"}]
        chat = client.chat.completions.create(model="classics", messages=messages, seed=1, max_completion_tokens=16)
        assert chat.choices[0].message.role == "assistant"
        stream = client.chat.completions.create(model="classics", messages=messages, seed=1, max_tokens=16, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == chat.choices[0].message.content, (text, chat)

        # A stream that is closed is cancelled.
        before = server.metrics()["cancelled_total"]
        stream = client.completions.create(model="classics", prompt=PROMPT, max_tokens=4000, stream=True, extra_body={"ignore_end": True})
        next(iter(stream))
        stream.close()
        server.wait_for("cancelled_total", before + 1)

        for error, options in [
            (openai.NotFoundError, {"model": "gpt-4"}),
            (openai.BadRequestError, {"max_tokens": -1}),
            (openai.BadRequestError, {"best_of": 5}),
            (openai.BadRequestError, {"extra_body": {"max_token": 1}}),
        ]:
            try:
                client.completions.create(**{"model": "classics", "prompt": PROMPT, **options})
            except error as found:
                assert found.body["message"] and "\n" not in found.body["message"], found
            else:
                raise AssertionError(f"{options} was accepted")

        schema = {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["name", "age"],
            "additionalProperties": False,
        }
        chat = client.chat.completions.create(
            model="classics",
            messages=messages,
            seed=3,
            max_tokens=64,
            response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
        )
        person = json.loads(chat.choices[0].message.content)
        assert set(person) == {"name", "age"} and isinstance(person["age"], int), person
    print("openai: completions, chats, streams, cancelling, errors, JSON schema")


main()
