#!/usr/bin/env python3
"""Writes a vanilla Pythia-410m with random Q4_0 weights as GGUF: make_gguf.py OUT.gguf [LAYERS]

Speed depends on shapes and types, not on what was learned. Norms and biases are F32; the tokens are their
numbers, so that the peer's server can write them.
"""

import os
import random
import struct
import sys

EMBEDDING, HEADS, INNER, VOCABULARY, CONTEXT = 1024, 16, 4096, 50304, 4096
F32, Q4_0 = 0, 2  # tensor types of GGUF
ALIGNMENT = 32


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def pair(key, value):
    """One metadata pair; the types that are needed here are bool, u32, f32, string and a list of strings."""
    if isinstance(value, list):
        body = struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(string, value))
    elif isinstance(value, bool):
        body = struct.pack("<I?", 7, value)
    elif isinstance(value, int):
        body = struct.pack("<II", 4, value)
    elif isinstance(value, float):
        body = struct.pack("<If", 6, value)
    else:
        body = struct.pack("<I", 8) + string(value)
    return string(key) + body


def tensors(layers):
    """Names and shapes, the innermost dimension first, in the order of the file."""
    yield "token_embd", [EMBEDDING, VOCABULARY]
    for layer in range(layers):
        for name, rows, columns in [
            ("attn_norm", EMBEDDING, 0), ("attn_qkv", EMBEDDING, 3 * EMBEDDING), ("attn_output", EMBEDDING, EMBEDDING),
            ("ffn_norm", EMBEDDING, 0), ("ffn_up", EMBEDDING, INNER), ("ffn_down", INNER, EMBEDDING),
        ]:
            yield f"blk.{layer}.{name}", [rows, columns] if columns else [rows]
    yield "output_norm", [EMBEDDING]
    yield "output", [EMBEDDING, VOCABULARY]


def entries(layers):
    """Every stored tensor: name, shape, type and whether it is a norm's weight, which is all ones."""
    for name, shape in tensors(layers):
        yield f"{name}.weight", shape, Q4_0 if len(shape) == 2 else F32, len(shape) == 1
        if name not in ("token_embd", "output"):
            yield f"{name}.bias", shape[-1:], F32, False


def size(shape, kind):
    count = shape[0] * (shape[1] if len(shape) == 2 else 1)
    return count // 32 * 18 if kind == Q4_0 else count * 4


def data(shape, kind, ones, source):
    if kind == F32:
        return struct.pack("<f", 1.0 if ones else 0.0) * shape[0]
    # Blocks of 32 weights: an f16 scale, which gives a deviation of about 0.02, and 16 bytes of nibbles.
    blocks = shape[0] * shape[1] // 32
    out = bytearray(18 * blocks)
    low, high = struct.pack("<e", 0.0043)
    out[0::18], out[1::18] = bytes([low]) * blocks, bytes([high]) * blocks
    for i in range(2, 18):
        out[i::18] = source.randbytes(blocks)
    return out


def write(path, layers=24):
    metadata = {
        "general.architecture": "gptneox", "general.name": "pythia-410m-random",
        "general.file_type": 2, "general.quantization_version": 2, "general.alignment": ALIGNMENT,
        "gptneox.context_length": CONTEXT, "gptneox.embedding_length": EMBEDDING, "gptneox.block_count": layers,
        "gptneox.feed_forward_length": INNER, "gptneox.attention.head_count": HEADS,
        "gptneox.rope.dimension_count": EMBEDDING // HEADS // 4, "gptneox.use_parallel_residual": True,
        "gptneox.attention.layer_norm_epsilon": 1e-5, "gptneox.vocab_size": VOCABULARY,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [f"{token},".rjust(6, "0") for token in range(VOCABULARY)],
        "tokenizer.ggml.merges": ["0 1"],
    }
    listed = list(entries(layers))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(metadata))
    head += b"".join(pair(*item) for item in metadata.items())
    offset = 0
    for name, shape, kind, _ in listed:
        head += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += -(-size(shape, kind) // ALIGNMENT) * ALIGNMENT
    source = random.Random(410)
    part = path + ".part"
    with open(part, "wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT))
        for _, shape, kind, ones in listed:
            body = data(shape, kind, ones, source)
            file.write(body)
            file.write(bytes(-len(body) % ALIGNMENT))
    os.replace(part, path)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    write(sys.argv[1], *map(int, sys.argv[2:]))
