from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self, TypeAlias, Unpack

__all__ = [
    "Completion",
    "Estimate",
    "Model",
    "Score",
    "Session",
    "Step",
    "Stream",
    "__version__",
    "main",
    "quantize",
]

__version__: str

_Path: TypeAlias = str | PathLike[str]
# A text, or token ids.
_Prompt: TypeAlias = str | Sequence[int] | NDArray[np.integer[Any]]
_End: TypeAlias = Literal["length", "end of text", "stop", "caller", "time"]
_WeightType: TypeAlias = Literal["f32", "bf16", "f16", "q8", "q4"]

class _SessionOptions(TypedDict, total=False):
    # Blocks that the cache holds; the first sink_blocks are never forgotten.
    cache_blocks: int | None
    sink_blocks: int | None
    cache_type: Literal["f32", "f16", "q8"] | None
    align: Literal["left", "tail"] | None

class _SamplerFilters(TypedDict, total=False):
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    repetition_window: int | None
    logit_bias: Mapping[int, float] | None

class _SamplerOptions(_SamplerFilters, total=False):
    seed: int | None

class _TextOptions(TypedDict, total=False):
    max_tokens: int | None
    # Seconds.
    time_limit: float | None
    stop: str | Sequence[str] | None
    ignore_end: bool | None
    # Log-probabilities of every token, and of this number of the most likely ones.
    logprobs: int | None
    # At most one of these; a schema as an object or as text.
    json_schema: Mapping[str, Any] | str | None
    regex: str | None
    grammar: str | None

class _NewSession(_SessionOptions, _SamplerOptions): ...
class _Generate(_NewSession, _TextOptions): ...

class _Batch(_SessionOptions, _SamplerFilters, _TextOptions, total=False):
    # One for all texts, or one for each.
    seed: int | Sequence[int] | None

@final
class Model:
    @staticmethod
    def open(path: _Path, *, threads: int = 0, in_memory: bool = False) -> Model: ...
    def tokenize(self, text: str, /) -> NDArray[np.uint32]: ...
    def detokenize(self, ids: Sequence[int] | NDArray[np.integer[Any]], /) -> str: ...
    def generate(self, prompt: _Prompt, /, **options: Unpack[_Generate]) -> Completion: ...
    def stream(self, prompt: _Prompt, /, **options: Unpack[_Generate]) -> Stream: ...
    # prefix_cache: bytes of ended texts that are kept, so that prompts that begin alike are read once.
    def batch(
        self,
        prompts: Iterable[_Prompt],
        /,
        *,
        sequences: int = 32,
        memory: int | None = None,
        prefix_cache: int = 0,
        progress: Callable[[int, int], object] | None = None,
        **options: Unpack[_Batch],
    ) -> list[Completion]: ...
    def score(self, prompt: _Prompt, continuations: Iterable[_Prompt], /) -> list[Score]: ...
    def score_batch(
        self,
        questions: Iterable[tuple[_Prompt, Iterable[_Prompt]]],
        /,
        *,
        sequences: int = 32,
        memory: int | None = None,
        prefix_cache: int = 0,
        **options: Unpack[_SessionOptions],
    ) -> list[list[Score]]: ...
    # [(blocks - 1) * block_length, vocabulary]
    def logits(self, text: _Prompt, /) -> NDArray[np.float32]: ...
    # [blocks, hidden]: row i is what the token decoder predicts block i + 1 from.
    def contexts(self, text: _Prompt, /) -> NDArray[np.float32]: ...
    def session(self, **options: Unpack[_NewSession]) -> Session: ...
    def load(self, path: _Path, /) -> Session: ...
    def estimate(self, *, sequences: int = 1, **options: Unpack[_SessionOptions]) -> Estimate: ...
    @property
    def name(self) -> str: ...
    @property
    def block_length(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def trained_blocks(self) -> int: ...
    @property
    def align(self) -> Literal["left", "tail"]: ...
    @property
    def end_token(self) -> int | None: ...
    @property
    def has_tokenizer(self) -> bool: ...
    @property
    def threads(self) -> int: ...
    @property
    def file_bytes(self) -> int: ...

@final
class Session:
    def append(self, prompt: _Prompt, /) -> None: ...
    # [vocabulary]
    def logits(self) -> NDArray[np.float32]: ...
    def next_token(self) -> int: ...
    def generate(self, **options: Unpack[_TextOptions]) -> Completion: ...
    def stream(self, **options: Unpack[_TextOptions]) -> Stream: ...
    def set_sampler(self, **options: Unpack[_SamplerOptions]) -> None: ...
    def rewind(self, blocks: int, /) -> None: ...
    def can_rewind(self, blocks: int, /) -> bool: ...
    def clear(self) -> None: ...
    def save(self, path: _Path, /) -> None: ...
    def recent(self, max_tokens: int, /) -> NDArray[np.uint32]: ...
    # Stops the work of another thread.
    def interrupt(self) -> None: ...
    @property
    def length(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def left_in_block(self) -> int: ...

@final
class Stream:
    def __iter__(self) -> Self: ...
    def __next__(self) -> Step: ...
    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> Step: ...
    def close(self) -> None: ...
    # None before the end.
    @property
    def end(self) -> _End | None: ...

@final
class Step:
    @property
    def text(self) -> str: ...
    # None with text that was held back until the end.
    @property
    def token(self) -> int | None: ...
    @property
    def logprob(self) -> float | None: ...
    @property
    def top(self) -> list[tuple[int, float]]: ...

@final
class Completion:
    @property
    def text(self) -> str: ...
    @property
    def end(self) -> _End: ...
    @property
    def tokens(self) -> NDArray[np.uint32]: ...
    @property
    def logprobs(self) -> NDArray[np.float32] | None: ...
    @property
    def top(self) -> list[list[tuple[int, float]]]: ...

@final
class Score:
    @property
    def logprob(self) -> float: ...
    @property
    def tokens(self) -> int: ...
    @property
    def is_greedy(self) -> bool: ...

@final
class Estimate:
    @property
    def weights(self) -> int: ...
    @property
    def cache(self) -> int: ...
    @property
    def scratch(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def cache_blocks(self) -> int: ...

def quantize(
    checkpoint: _Path,
    output: _Path,
    *,
    type: _WeightType = "q4",
    bits: float | None = None,
    calibrate: _Path | None = None,
    calibration_tokens: int | None = None,
    tensor_types: Mapping[str, _WeightType] | None = None,
    config: _Path | None = None,
    ignore_keys: Sequence[str] | None = None,
    tokenizer: _Path | None = None,
    end_token: int | str | None = None,
    align: Literal["left", "tail"] | None = None,
    name: str | None = None,
    threads: int = 0,
    report: bool = False,
    progress: Callable[[str, int, int], object] | None = None,
) -> dict[str, Any]: ...
def main(words: Sequence[str], /) -> int: ...
