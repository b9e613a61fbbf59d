"""Rounds the matrices of a checkpoint with Python's `gguf` package and writes what they stand for, in f32.

usage: peer.py CHECKPOINT_DIR TYPE OUTPUT_DIR
Prints the bits a weight over all tensors: matrices in TYPE, vectors in f32. A matrix whose rows are no whole
number of TYPE's blocks stays in f16, as llama.cpp's tools would leave it.
"""

import json
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np


def read(path):
    data = np.memmap(path, dtype=np.uint8, mode="r")
    length = int(data[:8].view("<u8")[0])
    header = json.loads(bytes(data[8 : 8 + length]))
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = np.array(data[8 + length + begin : 8 + length + end])
        if entry["dtype"] == "BF16":
            values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = raw.view({"F32": "<f4", "F16": "<f2"}[entry["dtype"]]).astype(np.float32)
        yield name, values.reshape(entry["shape"])


def write(path, tensors):
    header, offset = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, dtype="<f4").tobytes())


def main():
    source, kind, output = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    kind = gguf.GGMLQuantizationType[kind]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    tensors, bits, weights = {}, 0, 0
    for name, values in read(source / "model.safetensors"):
        matrix = values.reshape(values.shape[0], -1) if values.ndim > 1 else values
        if values.ndim == 1:
            stored = values
            bits += 32 * values.size
        else:
            own = kind if matrix.shape[1] % block == 0 else gguf.GGMLQuantizationType.F16
            packed = gguf.quants.quantize(np.ascontiguousarray(matrix), own)
            bits += 8 * packed.nbytes
            stored = gguf.quants.dequantize(packed, own)
        tensors[name] = np.asarray(stored, dtype=np.float32).reshape(values.shape)
        weights += values.size
    output.mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "tokenizer.json"):
        shutil.copy(source / name, output / name)
    write(output / "model.safetensors", tensors)
    print(bits / weights)


if __name__ == "__main__":
    try:
        main()
    except NotImplementedError:
        sys.exit(f"error: this version of gguf does not quantize to {sys.argv[2]}")
