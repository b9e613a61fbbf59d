"""
The model `cinderblock` of EleutherAI's lm-evaluation-harness.

    python -m cinderblock.lm_eval run --model cinderblock --model_args path=model.gguf --tasks piqa --batch_size 32

runs the harness's own command line with this model; `CinderblockLM` is what `lm_eval.simple_evaluate` takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from numpy.typing import NDArray

import cinderblock

_Ids = NDArray[np.uint32]


@register_model("cinderblock")
class CinderblockLM(LM):
    """
    A model file.

    `batch_size` is the number of sequences that advance together, `memory` the bytes of weights, caches and buffers,
    `max_length` the tokens that a prediction sees (default: as many as the model was trained with), `max_gen_toks`
    the tokens of a generated text. `prefix_cache` is the bytes of ended texts that are kept, so that requests which
    begin alike, with the same examples, are read once; 0 keeps none. `align` lays a prompt out in blocks with padding
    (`left`) or without (`tail`); the default is the protocol that the model was trained for.
    """

    def __init__(
        self,
        path: str,
        *,
        batch_size: int | str = 32,
        threads: int = 0,
        memory: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        prefix_cache: int = 256 << 20,
        align: Literal["left", "tail"] | None = None,
        cache_type: Literal["f32", "f16", "q8"] | None = None,
        device: str = "cpu",
        max_batch_size: int | None = None,
    ) -> None:
        """Open a model file; the last two arguments are the harness's own, and change nothing."""
        super().__init__()
        self.model = cinderblock.Model.open(path, threads=threads)
        self.sequences = 32 if str(batch_size).startswith("auto") else int(batch_size)
        self.memory = memory
        self.max_length = max_length or self.model.trained_blocks * self.model.block_length
        self.max_gen_toks = max_gen_toks
        self.prefix_cache = prefix_cache
        self.align = align
        self.cache_type = cache_type

    @property
    def tokenizer_name(self) -> str:
        """The model's name, under which the harness caches requests."""
        return self.model.name

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihoods of continuations, and whether each is the greedy one."""
        pairs = [self._encode_pair(*request.args) for request in requests]
        answers = [(score.logprob, score.is_greedy) for score in self._score(pairs)]
        for request, answer in zip(requests, answers):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts, in windows of `max_length` tokens."""
        pairs: list[tuple[_Ids, _Ids]] = []
        counts: list[int] = []
        for request in requests:
            windows = get_rolling_token_windows(
                self.model.tokenize(request.args[0]).tolist(), self._prefix(), self.max_length, 1
            )
            own = [make_disjoint_window(window) for window in windows]
            pairs += [(np.array(before, np.uint32), np.array(text, np.uint32)) for before, text in own]
            counts.append(len(own))
        scores = iter(self._score(pairs))
        answers = [sum(next(scores).logprob for _ in range(count)) for count in counts]
        for request, answer in zip(requests, answers):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return answers

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts up to a stop string; greedy unless a temperature is given."""
        # Requests with the same options are generated together.
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(index)
        answers = [""] * len(requests)
        for indices in groups.values():
            given = requests[indices[0]].args[1]
            most = next(
                (given[name] for name in ("max_gen_toks", "max_new_tokens", "max_tokens") if name in given),
                self.max_gen_toks,
            )
            temperature = float(given.get("temperature") or 0) if given.get("do_sample", True) else 0.0
            stops = given.get("until") or []
            contexts = (self.model.tokenize(requests[index].args[0]) for index in indices)
            completions = self.model.batch(
                [self._context(context, most) for context in contexts],
                sequences=self.sequences,
                memory=self.memory,
                prefix_cache=self.prefix_cache,
                max_tokens=most,
                stop=[stops] if isinstance(stops, str) else [stop for stop in stops if stop],
                temperature=temperature,
                top_k=given.get("top_k"),
                top_p=given.get("top_p"),
                min_p=given.get("min_p"),
                # Repeated samples of one prompt differ.
                seed=indices,
                align=self.align,
                cache_type=self.cache_type,
            )
            for index, completion in zip(indices, completions):
                answers[index] = completion.text
                self.cache_hook.add_partial("generate_until", requests[index].args, completion.text)
        return answers

    def _prefix(self) -> int:
        """The token before a text that begins."""
        if self.model.end_token is None:
            raise ValueError("the model has no end token: found an empty context, expected text")
        return self.model.end_token

    def _context(self, context: _Ids, following: int) -> _Ids:
        """The end of a context that leaves room for other tokens, and at least one token."""
        if not len(context):
            return np.array([self._prefix()], np.uint32)
        return context[-max(1, self.max_length - following) :]

    def _encode_pair(self, context: str, continuation: str) -> tuple[_Ids, _Ids]:
        """Encode as the harness does: space at the end of the context belongs to the continuation."""
        stripped = context.rstrip()
        before = self.model.tokenize(stripped)
        own = self.model.tokenize(context + continuation)[len(before) :]
        # The last token predicts nothing, so it needs no room.
        return self._context(before, len(own) - 1), own

    def _score(self, pairs: Iterable[tuple[_Ids, _Ids]]) -> list[cinderblock.Score]:
        """Scores of continuations; each context is read once."""
        continuations: list[_Ids] = []
        groups: dict[bytes, tuple[_Ids, list[int]]] = {}
        for index, (context, continuation) in enumerate(pairs):
            groups.setdefault(context.tobytes(), (context, []))[1].append(index)
            continuations.append(continuation)
        answers = self.model.score_batch(
            [(context, [continuations[index] for index in indices]) for context, indices in groups.values()],
            sequences=self.sequences,
            memory=self.memory,
            prefix_cache=self.prefix_cache,
            align=self.align,
            cache_type=self.cache_type,
        )
        scores: dict[int, cinderblock.Score] = {}
        for (_, indices), answer in zip(groups.values(), answers):
            scores.update(zip(indices, answer))
        return [scores[index] for index in range(len(continuations))]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
