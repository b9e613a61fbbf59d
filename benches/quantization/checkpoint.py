"""Write a checkpoint of the 1.2b shape with random weights, to measure what quantizing one takes.

    python3 benches/quantization/checkpoint.py models/classics DIR

The layout, the names and the tokenizer are those of the given checkpoint. Needs gguf, numpy and pyyaml.
"""

import json
import shutil
import struct
import sys
from pathlib import Path

import numpy
import yaml
from peer import read

HIDDEN, LAYERS, VOCABULARY = 2048, 12, 50304


def shape(small, config):
    """The shape that a tensor of the small checkpoint has in the large one."""
    hidden = config["block_decoder"]["config"]["hidden_size"]
    embedding, vocabulary = (config["embedder"]["config"][key] for key in ("hidden_size", "vocab_size"))
    table = {vocabulary: VOCABULARY, embedding: HIDDEN // config["block_length"], 1: 1}
    return [table[size] if size in table else size // hidden * HIDDEN for size in small]


def names(header):
    """Every tensor of the large checkpoint, with the one of the small one that it is like."""
    for name in sorted(header):
        parts = name.split(".layers.")
        if len(parts) == 1:
            yield name, name
        elif parts[1].startswith("0."):
            for layer in range(LAYERS):
                yield f"{parts[0]}.layers.{layer}.{parts[1][2:]}", name


def main(source, target):
    source, target = Path(source), Path(target)
    target.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load((source / "config.yaml").read_text())
    small = {name: values.shape for name, values in read(source / "model.safetensors")}
    shapes = {name: shape(small[like], config) for name, like in names(small)}
    header, at = {}, 0
    for name, dimensions in shapes.items():
        size = 2 * int(numpy.prod(dimensions))
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    random = numpy.random.default_rng(0)
    with open(target / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dimensions in shapes.items():
            values = random.standard_normal(int(numpy.prod(dimensions)), dtype=numpy.float32)
            values *= 0.02
            if "norm.weight" in name:
                values += 1
            (values.view(numpy.uint32) >> 16).astype("<u2").tofile(file)

    for part in ("block_decoder", "token_decoder"):
        config[part]["config"] |= {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS}
    config["embedder"]["config"] |= {"vocab_size": VOCABULARY, "hidden_size": HIDDEN // config["block_length"]}
    config["name"] = "block_main_b4_1.2b with random weights"
    (target / "config.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(source / "tokenizer.json", target)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
