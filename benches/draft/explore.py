#!/usr/bin/env python3
"""How often guesses at the tokens of a block come true: the limit, counts, and linear readouts of the context.

Needs numpy, scipy and tokenizers, and a checkpoint like the demo model's: lookup and concat embedder, GPT-NeoX decoders
with heads of 64, prefix strategy, bf16. Texts of the model come from `cinderblock batch`:

    prompts.jsonl: {"id": N, "prompt": "some words", "seed": N} a line, from any text
    cinderblock batch -i train.jsonl -o train.out -n 1000 --ignore-end    (256 prompts)
    cinderblock batch -i test.jsonl -o test.out -n 1000 --ignore-end      (64 other prompts, of which every 4th is used)
    explore.py CHECKPOINT --train train.out --test test.out --held-out held-out.u16 --calibration calibration.txt

The figures are in docs/speculation.md. A guess counts as right if it is the token of the text. Tokens a pass follow from
the rates of the first three tokens of a block. "u" is with the random number: an own text's number is drawn from those
that give its token.
"""
import argparse, json, struct
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from scipy.special import erf
from tokenizers import Tokenizer

F = np.float32
BLOCK, POSITIONS = 4, 3                     # tokens of a block, and those that can be guessed
LAYER = "layers.{}."
random = np.random.default_rng(0)


class Model:
    """The forward pass in f32: contexts, and the input of the vocabulary head at each position of each block."""

    def __init__(self, folder):
        raw = (folder / "model.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        self.w = {}
        for name, tensor in json.loads(raw[8:8 + length]).items():
            if name != "__metadata__":
                start, end = (8 + length + offset for offset in tensor["data_offsets"])
                words = np.frombuffer(raw[start:end], "<u2").astype(np.uint32) << 16
                self.w[name] = words.view(F).reshape(tensor["shape"])
        self.head = self.w["token_decoder.embed_out.weight"]
        self.embeddings = self.w["token_decoder.gpt_neox.embed_in.weight"]

    def linear(self, x, name):
        return x @ self.w[name + ".weight"].T + self.w[name + ".bias"]

    def norm(self, x, name):
        d = x - x.mean(-1, keepdims=True)
        return d / np.sqrt((d * d).mean(-1, keepdims=True) + F(1e-5)) * self.w[name + ".weight"] + self.w[name + ".bias"]

    def stack(self, x, part):
        n, length, hidden = x.shape
        layers = 1 + max(int(name.split("layers.")[1].split(".")[0]) for name in self.w if name.startswith(part + "layers."))
        mask = np.where(np.tril(np.ones((length, length), bool)), 0, -1e30).astype(F)
        angle = np.outer(np.arange(length), 10000.0 ** (-np.arange(0, 16, 2) / 16))
        cos, sin = (f(np.hstack([angle, angle])).astype(F) for f in (np.cos, np.sin))

        def turn(x):
            r = x[..., :16]
            return np.concatenate([r * cos + np.concatenate([-r[..., 8:], r[..., :8]], -1) * sin, x[..., 16:]], -1)

        for layer in range(layers):
            name = part + LAYER.format(layer)
            h = self.linear(self.norm(x, name + "input_layernorm"), name + "attention.query_key_value")
            h = h.reshape(n, length, hidden // 64, 192).transpose(0, 2, 1, 3)
            s = turn(h[..., :64]) @ turn(h[..., 64:128]).transpose(0, 1, 3, 2) * F(0.125) + mask
            s = np.exp(s - s.max(-1, keepdims=True))
            a = (s / s.sum(-1, keepdims=True) @ h[..., 128:]).transpose(0, 2, 1, 3).reshape(n, length, hidden)
            m = self.linear(self.norm(x, name + "post_attention_layernorm"), name + "mlp.dense_h_to_4h")
            m = m * F(0.5) * (1 + erf(m * F(0.5 ** 0.5)))
            x = x + self.linear(a, name + "attention.dense") + self.linear(m, name + "mlp.dense_4h_to_h")
        return self.norm(x, part + "final_layer_norm")

    def text(self, tokens):
        """contexts [n, hidden], the block before [n, 4], the block [n, 4], inputs of the head [n, 4, hidden]"""
        blocks = np.array(tokens[:len(tokens) // BLOCK * BLOCK]).reshape(-1, BLOCK)
        embedded = self.w["embedder.embeddings.weight"][blocks].reshape(1, len(blocks), -1)
        context = self.stack(embedded, "block_decoder.gpt_neox.")[0, :-1]
        prefix = context @ self.w["token_decoder.expansion_layer.weight"][..., 0].T
        prefix = (prefix + self.w["token_decoder.expansion_layer.bias"]).reshape(len(context), 2, -1)
        columns = np.concatenate([prefix, self.embeddings[blocks[1:, :-1]]], 1)
        return context, blocks[:-1], blocks[1:], self.stack(columns, "token_decoder.gpt_neox.")[:, 1:]


class Texts:
    def __init__(self, model, texts):
        parts = [model.text(text) for text in texts]
        self.context, self.before, self.block, self.inputs = (np.concatenate(part) for part in zip(*parts))

    def prefix(self, position):
        return np.concatenate([self.before, self.block[:, :position]], 1)


def filtered(logits, temperature):
    """The sampler's defaults: ids [n, 40] and probabilities, the likeliest first."""
    ids = np.argpartition(-logits, 39, 1)[:, :40]
    values = np.take_along_axis(logits, ids, 1)
    order = np.argsort(-values, 1, kind="stable")
    ids, values = (np.take_along_axis(x, order, 1) for x in (ids, values))
    w = np.exp((values - values[:, :1]) / temperature)
    w[w < 0.05] = 0
    w *= np.cumsum(w, 1) - w < 0.95 * w.sum(1, keepdims=True)
    return ids, w / w.sum(1, keepdims=True)


def numbers(ids, w, tokens):
    """A random number that gives each token; any number where none does."""
    at = (ids == tokens[:, None]) & (w > 0)
    index = at.argmax(1)[:, None]
    top, p = (np.take_along_axis(x, index, 1)[:, 0] for x in (np.cumsum(w, 1), w))
    return np.where(at.any(1), top - p * random.random(len(tokens)), random.random(len(tokens))).clip(0, 0.999999)


def drawn(ids, w, u):
    index = (np.cumsum(w, 1) <= u[:, None]).sum(1).clip(0, 39)
    return np.take_along_axis(ids, index[:, None], 1)[:, 0]


class Counts:
    """The likeliest tokens after the last `order` tokens or fewer, by Witten-Bell smoothing."""

    def __init__(self, texts, order, kept):
        self.tables = []
        for length in range(1, order + 1):
            found = defaultdict(Counter)
            for text in texts:
                for at in range(length, len(text)):
                    found[tuple(text[at - length:at])][text[at]] += 1
            table = {}
            for context, counter in found.items():
                n, kinds = sum(counter.values()), len(counter)
                if length > 1 and n < 2:
                    continue
                p = {token: count / (n + kinds) for token, count in counter.items()}
                for token, q in self.after(context):
                    p[token] = p.get(token, 0) + q * kinds / (n + kinds)
                table[context] = sorted(p.items(), key=lambda x: (-x[1], x[0]))[:kept]
            self.tables.append(table)

    def after(self, context):
        for length in range(len(self.tables), 0, -1):
            found = self.tables[length - 1].get(tuple(context[len(context) - length:]))
            if found:
                return found
        return []

    def logits(self, texts, position, vocabulary):
        p = np.full((len(texts.block), vocabulary), 1e-5, F)
        for row, context in zip(p, texts.prefix(position).tolist()):
            for token, share in self.after(context):
                row[token] += share
        return np.log(p)


def features(model, texts, position, kind):
    prefix = texts.prefix(position)
    parts = [np.ones((len(prefix), 1), F)]
    if "context" in kind:
        parts.append(texts.context)
    if "tokens" in kind:
        parts += [10 * model.embeddings[prefix[:, -1]], 10 * model.embeddings[prefix[:, -2]]]
    return np.hstack(parts)


def readout(model, train, position, kind, rank):
    """Ridge regression to the inputs of the head, cut to a rank in the metric of the logits."""
    x, y = features(model, train, position, kind), train.inputs[:, position]
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += 1e-3 * len(x)
    w = np.linalg.solve(gram, x.T @ y)
    if rank:
        values, vectors = np.linalg.eigh(model.head.T @ model.head)
        root = np.sqrt(np.maximum(values, 1e-9))
        z = x @ w @ (vectors * root)
        basis = np.linalg.svd(z.T @ z)[2][:rank]
        w = w @ (vectors * root) @ basis.T @ basis @ (vectors / root).T
    return w


def report(name, guesses):
    """`guesses`: for each position, a list of arrays that say where a guess was right."""
    for label in guesses[0]:
        rates = [position[label].mean() for position in guesses]
        passes = 1 + sum(1 - rate for rate in rates)
        print(f"{name:34} {label:10} right {' '.join(f'{rate:.3f}' for rate in rates)}  tokens a pass {4 / passes:.3f}", flush=True)


def judge(logits, tokens, u, temperature=1.0):
    ids, w = filtered(logits, temperature)
    right = {f"best {n}": (ids[:, :n] == tokens[:, None]).any(1) for n in (1, 2, 4)}
    return right if u is None else {**right, "u": drawn(ids, w, u) == tokens}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    for name in ("train", "test", "held-out", "calibration"):
        parser.add_argument("--" + name, type=Path, required=True)
    a = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(a.checkpoint / "tokenizer.json"))
    own = lambda path: [json.loads(line)["tokens"] for line in path.read_text().splitlines()]
    calibration = tokenizer.encode(a.calibration.read_text(), add_special_tokens=False).ids
    train_texts = own(a.train)
    model = Model(a.checkpoint)
    vocabulary = len(model.head)
    train = Texts(model, train_texts[::4])
    held_out = np.fromfile(a.held_out, "<u2").astype(int).reshape(-1, 1024)[::4]
    texts = {"own": Texts(model, own(a.test)[::4]), "held out": Texts(model, held_out)}
    u = {name: [None] * POSITIONS for name in texts}
    for name, text in texts.items():
        rows = []
        for position in range(POSITIONS):
            logits, tokens = text.inputs[:, position] @ model.head.T, text.block[:, position]
            if name == "own":
                u[name][position] = numbers(*filtered(logits, 0.8), tokens)
            rows.append(judge(logits, tokens, None, 0.8))
        report(f"{name}, the model itself", rows)
    sources = {"calibration": [calibration], "own text": train_texts, "both": [calibration] + train_texts}
    for order in (2, 3):
        for source, given in sources.items():
            counts = Counts(given, order, 8)
            for name, text in texts.items():
                rows = [judge(counts.logits(text, k, vocabulary), text.block[:, k], u[name][k]) for k in range(POSITIONS)]
                report(f"{name}, {order} back, {source}", rows)
    table = Counts(sources["both"], 2, 8)
    for kind, rank in (("context", 0), ("tokens", 0), ("context tokens", 0), ("context tokens", 128), ("context tokens", 64)):
        maps = [readout(model, train, k, kind, rank) for k in range(POSITIONS)]
        for name, text in texts.items():
            alone, mixed = [], []
            for k in range(POSITIONS):
                logits = features(model, text, k, kind) @ maps[k] @ model.head.T
                alone.append(judge(logits, text.block[:, k], u[name][k], 0.8))
                logp = logits - logits.max(1, keepdims=True)
                logp -= np.log(np.exp(logp).sum(1, keepdims=True))
                mixed.append(judge(0.8 * logp + table.logits(text, k, vocabulary), text.block[:, k], u[name][k]))
            label = f"{name}, {kind}" + (f", rank {rank}" if rank else "")
            report(label, alone)
            report(label + " + table", mixed)


if __name__ == "__main__":
    main()
