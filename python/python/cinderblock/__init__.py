"""
Runs Block Transformer language models on the CPU.

    import cinderblock

    model = cinderblock.Model.open("models/classics.q4.gguf")
    print(model.generate("The rain had stopped, and the village came out to look.", max_tokens=60))
"""

from cinderblock._errors import (
    ArgumentError,
    Error,
    FormatError,
    InternalError,
    Interrupted,
    IoError,
    NumericError,
    ResourceError,
    UnsupportedError,
)
from cinderblock._native import (
    Completion,
    Estimate,
    Model,
    Score,
    Session,
    Step,
    Stream,
    __version__,
    quantize,
)

__all__ = [
    "ArgumentError",
    "Completion",
    "Error",
    "Estimate",
    "FormatError",
    "InternalError",
    "Interrupted",
    "IoError",
    "Model",
    "NumericError",
    "ResourceError",
    "Score",
    "Session",
    "Step",
    "Stream",
    "UnsupportedError",
    "__version__",
    "quantize",
]
