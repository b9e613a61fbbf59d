"""What a codebook of 16 unequal levels would gain over the equal ones of q4, without calibration: the squared error of
groups of 32 weights relative to their squares, each group with the best of its scales.

    python3 benches/quantization/codebook.py models/classics

Equal levels have the zero levels that q4 has. The codebooks were fitted to these weights; each group may mirror and
shift one, which costs about as many bits as a zero level. `small` levels are integers that a multiplier up to 8 keeps in
a byte, as the format's integer multipliers need. Needs gguf and numpy.
"""

import sys
from pathlib import Path

import numpy
from peer import read

SCALES = numpy.arange(0.8, 1.11, 0.05)
FITTED = numpy.array([-127, -101, -79, -61, -46, -33, -20, -9, 2, 13, 24, 36, 49, 64, 83, 109])
SMALL = numpy.array([0, 3, 6, 9, 11, 12, 14, 16, 17, 18, 20, 21, 23, 25, 28, 31])


def groups(checkpoint):
    """60,000 groups of the decoders' matrices."""
    tensors = read(Path(checkpoint) / "model.safetensors")
    chosen = lambda name: ".layers." in name and name.endswith("weight")
    rows = [values.reshape(-1, 32) for name, values in tensors if chosen(name) and values.ndim == 2]
    rows = numpy.concatenate(rows)
    return rows[numpy.random.default_rng(0).permutation(len(rows))[:60000]]


def error(weights, variants):
    """Relative squared error if every group takes the best of the sets of levels and of the scales."""
    largest = numpy.abs(weights).max(1, keepdims=True) + 1e-20
    best = numpy.full(len(weights), numpy.inf)
    for levels in variants:
        levels = numpy.sort(levels).astype(numpy.float32)
        middles = (levels[1:] + levels[:-1]) / 2
        for scale in SCALES:
            rounded = levels[numpy.searchsorted(middles, weights * numpy.abs(levels).max() / (largest * scale))]
            squares = (rounded * rounded).sum(1)
            fitted = (rounded * weights).sum(1) / numpy.maximum(squares, 1e-20)
            best = numpy.minimum(best, ((weights - rounded * fitted[:, None]) ** 2).sum(1))
    return best.mean() / (weights**2).sum(1).mean()


def main(checkpoint):
    weights = groups(checkpoint)
    equal = error(weights, [numpy.arange(16) - zero for zero in range(5, 11)])
    print(f"equal levels, 6 zero levels        {equal:.5f}")
    for name, variants in (
        ("fitted levels, mirrored", [FITTED, -FITTED]),
        ("fitted levels, mirrored, 5 shifts", [sign * (FITTED + d) for d in (-12, -6, 0, 6, 12) for sign in (1, -1)]),
        ("small levels, mirrored, 7 shifts", [sign * (SMALL - zero) for zero in range(12, 19) for sign in (1, -1)]),
    ):
        found = error(weights, variants)
        print(f"{name:34} {found:.5f}  {100 * (found / equal - 1):+.0f} %")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
