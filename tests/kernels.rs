//! Every kernel of every instruction set that this machine has, against plain arithmetic and against scalar.
//!
//! Those that the machine lacks are printed; what `CINDERBLOCK_REQUIRED_ISAS` names must not be lacking.

use std::io::Write;

use cinderblock::Team;
use cinderblock::unstable::kernels::{
    Activation, Activations, Attention, Epilogue, Isa, Kernels, KeyValue, Pass, Product, QUERIES,
    RowAttention, Run, Term, Visible, multiply, score_floats,
};
use cinderblock::unstable::quant::{
    GROUP, PANEL_ROWS, Q4_RECORD, Q4_SCALES, Q8_RECORD, Rounded, SPAN, WeightType, Weights, multiplier_limit,
    pack_floats, pack_groups, pack_panel, panel_weight,
};

/// A small generator: the tests need variety, not quality.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.next() % bound
    }
}

fn pack(kind: WeightType, values: &[f32], width: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if kind.is_quantized() {
        values.chunks(PANEL_ROWS * width).for_each(|rows| pack_panel(kind, rows, width, &mut bytes));
    } else {
        pack_floats(kind, values, &mut bytes);
    }
    bytes
}

fn activations(kernels: &'static Kernels, team: &Team, values: &[f32], width: usize) -> Activations {
    let mut activations = Activations::new(width, true);
    team.region(|region| {
        activations.fill(Pass::new(region, kernels), values.len() / width, |column, output| {
            output.copy_from_slice(&values[column * width..][..width]);
        });
    });
    activations
}

fn product(kernels: &'static Kernels, team: &Team, weights: Weights<'_>, input: &Activations) -> Vec<f32> {
    let mut output = vec![f32::NAN; weights.rows() * input.columns()];
    let term = Term { weights, bias: &[], input };
    team.region(|region| {
        let product = Product { terms: &[term], epilogue: Epilogue::Store, output: &mut output };
        multiply(Pass::new(region, kernels), product, None);
    });
    output
}

const SHAPES: [(usize, usize); 9] =
    [(1, 1), (5, 3), (16, 32), (16, 64), (17, 65), (33, 31), (48, 127), (15, 192), (100, 300)];
const QUANTIZED: [WeightType; 2] = [WeightType::Q4, WeightType::Q8];

#[test]
fn required_instruction_sets_are_tested() {
    let required = std::env::var("CINDERBLOCK_REQUIRED_ISAS").unwrap_or_default();
    let names: Vec<&str> = Kernels::all().map(|kernels| kernels.isa().name()).collect();
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_built() && !isa.is_available()) {
        // Past the capture of passing tests: `.ci/run` counts these lines.
        let missing = isa.missing_features();
        let _ = writeln!(std::io::stderr(), "skipped: {isa}, for which this machine lacks {missing:?}");
    }
    for name in required.split(',').filter(|name| !name.is_empty()) {
        assert!(names.contains(&name), "{name} is required but only {names:?} were tested");
    }
    assert_eq!(names[0], "scalar");
}

/// Integers of every size that a group may hold, with a scale of 1.
fn integer_group(kind: WeightType, random: &mut Random, length: usize) -> Rounded {
    let mut weights = [0; GROUP];
    let (zero, multiplier) = if kind == WeightType::Q4 {
        let zero = 4 + random.below(8) as u8;
        (zero, random.below(u32::from(multiplier_limit(zero)) + 1) as u8)
    } else {
        (0, 1)
    };
    for weight in &mut weights[..length] {
        *weight = match kind {
            WeightType::Q4 => random.below(16) as i8 - zero as i8,
            _ => (random.below(255) as i32 - 127) as i8,
        };
    }
    Rounded { scale: 1.0, multiplier, zero, weights }
}

/// Scales of exactly 1 make every float sum an exact integer, so the integer sums themselves are compared.
#[test]
fn integer_sums_are_exact() {
    let team = Team::new(1).unwrap();
    for kernels in Kernels::all() {
        for kind in QUANTIZED {
            for (rows, width) in SHAPES {
                let mut random = Random(1);
                let mut packed = Vec::new();
                for first in (0..rows).step_by(PANEL_ROWS) {
                    let groups: Vec<Rounded> = (first..rows.min(first + PANEL_ROWS))
                        .flat_map(|_| (0..width).step_by(GROUP))
                        .map(|at| integer_group(kind, &mut random, GROUP.min(width - at)))
                        .collect();
                    pack_groups(kind, &groups, width, &mut packed);
                }
                let count = 1 + random.below(150) as usize;
                let mut input: Vec<f32> =
                    (0..count * width).map(|_| random.below(255) as f32 - 127.0).collect();
                // The extreme value of each span fixes its scale at 1.
                for column in input.chunks_mut(width) {
                    column.chunks_mut(SPAN).for_each(|span| span[0] = 127.0);
                }
                let view = Weights::new(kind, rows, width, &packed).unwrap();
                let mut row = vec![0.0; width];
                let result = product(kernels, &team, view, &activations(kernels, &team, &input, width));
                for r in 0..rows {
                    view.row(r, &mut row);
                    for (column, output) in input.chunks(width).zip(result.chunks(rows)) {
                        let sum: f32 = row.iter().zip(column).map(|(w, x)| w * x).sum();
                        assert_eq!(output[r], sum, "{} {kind} {rows}x{width}", kernels.isa());
                    }
                }
            }
        }
    }
}

/// Bytes that no quantizer writes: weights of -128 and activations of +-127 everywhere, any bit pattern; in q4 with
/// every zero level and the largest multiplier that it admits.
#[test]
fn extreme_bytes_do_not_saturate() {
    let team = Team::new(1).unwrap();
    let width = 256;
    let panels = |fill: u8| {
        let mut q8 = vec![fill; WeightType::Q8.panel_bytes(width)];
        for record in q8.chunks_mut(Q8_RECORD) {
            record[..64].as_chunks_mut::<2>().0.fill(half::f16::ONE.to_le_bytes());
        }
        let q4 = (0..=15).map(move |zero| {
            let mut q4 = vec![fill; WeightType::Q4.panel_bytes(width)];
            let (scales, records) = q4.split_at_mut(Q4_SCALES);
            scales.as_chunks_mut::<4>().0.fill(1f32.to_le_bytes());
            for record in records.chunks_mut(Q4_RECORD) {
                record[..64].fill(multiplier_limit(zero) | zero << 4);
            }
            (WeightType::Q4, q4)
        });
        q4.chain([(WeightType::Q8, q8)])
    };
    for kernels in Kernels::all() {
        for (kind, panel) in [0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0].into_iter().flat_map(panels) {
            // Enough columns for the widest tile and for what is left of it.
            for (count, sign) in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 17, 18, 23, 37]
                .into_iter()
                .flat_map(|n| [(n, 1.0), (n, -1.0)])
            {
                let input = vec![127.0 * sign; count * width];
                let view = Weights::new(kind, 16, width, &panel).unwrap();
                let result = product(kernels, &team, view, &activations(kernels, &team, &input, width));
                let sum: i32 = (0..width).map(|k| panel_weight(kind, &panel, 3, k) * 127).sum();
                assert!(
                    result.iter().all(|&output| output == sum as f32 * sign),
                    "{} {kind}: {result:?}, {sum}",
                    kernels.isa()
                );
            }
        }
    }
}

/// A column's result does not depend on its neighbours or on the number of threads, to the bit; nor, where weights
/// are quantized, on which of the instruction sets with fused multiply-add made it.
#[test]
fn results_do_not_depend_on_batch_or_threads() {
    let teams = [1, 2, 3, 8].map(|threads| Team::new(threads).unwrap());
    for kind in WeightType::ALL {
        for (rows, width) in [(50, 96), (333, 70), (16, 1000)] {
            let mut fused: Option<Vec<f32>> = None;
            for kernels in Kernels::all() {
                let mut random = Random(2);
                let packed = pack(kind, &random.floats(rows * width), width);
                let view = Weights::new(kind, rows, width, &packed).unwrap();
                let input = random.floats(150 * width);
                let alone: Vec<f32> = input
                    .chunks(width)
                    .flat_map(|column| {
                        product(kernels, &teams[0], view, &activations(kernels, &teams[0], column, width))
                    })
                    .collect();
                if kind.is_quantized() && kernels.isa() != Isa::Scalar {
                    assert!(*fused.get_or_insert_with(|| alone.clone()) == alone, "{} {kind}", kernels.isa());
                }
                for batch in (1..=33).chain([40, 64, 79, 127, 128, 129, 150]) {
                    let team = &teams[batch % teams.len()];
                    let input = activations(kernels, team, &input[..batch * width], width);
                    let together = product(kernels, team, view, &input);
                    assert!(together == alone[..batch * rows], "{} {kind} batch {batch}", kernels.isa());
                }
            }
        }
    }
}

#[test]
fn float_products_are_close_to_exact_ones() {
    let team = Team::new(1).unwrap();
    for kernels in Kernels::all() {
        for kind in WeightType::ALL {
            for (rows, width) in SHAPES {
                let mut random = Random(3);
                let values = random.floats(rows * width);
                let packed = pack(kind, &values, width);
                let view = Weights::new(kind, rows, width, &packed).unwrap();
                let input = random.floats(7 * width);
                let result = product(kernels, &team, view, &activations(kernels, &team, &input, width));
                let tolerance = if kind.is_quantized() { 8e-3 } else { 1e-6 } * width as f64;
                let mut row = vec![0.0; width];
                for r in 0..rows {
                    view.row(r, &mut row);
                    for (column, output) in input.chunks(width).zip(result.chunks(rows)) {
                        let sum: f64 =
                            row.iter().zip(column).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                        assert!((f64::from(output[r]) - sum).abs() < tolerance, "{} {kind}", kernels.isa());
                    }
                }
            }
        }
    }
}

#[test]
fn quantized_activations_are_the_same_everywhere() {
    let team = Team::new(1).unwrap();
    let mut random = Random(4);
    for (width, count) in [(1, 1), (31, 3), (32, 16), (33, 17), (128, 20), (130, 40)] {
        let mut input = random.floats(width * count);
        input[width / 2] = if width == 33 { 0.0 } else { -3.0 };
        let of = |kernels: &'static Kernels| {
            let quantized = activations(kernels, &team, &input, width);
            let tiles = (0..count.div_ceil(16)).map(|index| {
                let tile = quantized.column_tile(index);
                let spans = (0..tile.columns).flat_map(|c| (0..tile.spans).map(move |s| (c, s)));
                let spans = spans.map(|(c, s)| {
                    let values: Vec<i8> = (s * SPAN..(s + 1) * SPAN).map(|k| tile.value(c, k)).collect();
                    let groups = SPAN / GROUP;
                    let starts = (0..groups).map(|g| tile.group_starts[(s * groups + g) * tile.columns + c]);
                    let pairs = (0..groups / 2)
                        .flat_map(|pair| tile.group_pairs[(s * groups / 2 + pair) * tile.columns + c])
                        .map(|minus| 128 * i32::from(minus));
                    let starts = starts.collect::<Vec<i32>>();
                    assert!(pairs.eq(starts.iter().copied()));
                    let at = s * tile.columns + c;
                    (values, tile.scales[at], tile.span_starts[at], starts)
                });
                spans.collect::<Vec<_>>()
            });
            tiles.collect::<Vec<_>>().concat()
        };
        let scalar = of(Kernels::for_isa(Isa::Scalar).unwrap());
        let spans = width.div_ceil(SPAN);
        assert_eq!(scalar.len(), count * spans);
        for (index, (values, scale, span_start, group_starts)) in scalar.iter().enumerate() {
            let (column, first) = (index / spans, index % spans * SPAN);
            let start = |values: &[i8]| -128 * values.iter().map(|&value| i32::from(value)).sum::<i32>();
            assert_eq!(start(values), *span_start);
            assert!(values.chunks(GROUP).map(start).eq(group_starts.iter().copied()));
            for (k, value) in values.iter().enumerate() {
                let wanted = if first + k < width { input[column * width + first + k] } else { 0.0 };
                assert!(*value != -128 && (f32::from(*value) * scale - wanted).abs() <= 0.501 * scale);
            }
        }
        for kernels in Kernels::all() {
            assert!(of(kernels) == scalar, "{}", kernels.isa());
        }
    }
}

/// Exact GELU, to 1e-6 relative in both tails.
#[test]
fn gelu_is_the_exact_form() {
    let exact = |x: f64| x * 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
    for kernels in Kernels::all() {
        let inputs: Vec<f32> = (-120_000..=120_000).map(|i| i as f32 / 10_000.0).collect();
        let mut outputs = inputs.clone();
        kernels.activate(Activation::Gelu, &mut outputs);
        for (x, y) in inputs.iter().zip(&outputs) {
            let wanted = exact(f64::from(*x));
            assert!(
                (f64::from(*y) - wanted).abs() <= 1e-6 * wanted.abs(),
                "{} gelu({x}) = {y}",
                kernels.isa()
            );
        }
        let mut extremes = [0.0, -0.0, 50.0, -50.0, 1e30, f32::MIN_POSITIVE];
        kernels.activate(Activation::Gelu, &mut extremes);
        assert_eq!(extremes[..3], [0.0, 0.0, 50.0]);
        assert!(extremes[3].abs() < 1e-30 && extremes[4] == 1e30);
    }
}

/// GELU by the hyperbolic tangent: 2e-6 relative, and in the tails as far as its argument is exact.
#[test]
fn tanh_gelu_is_the_tanh_form() {
    let mut of_fused: Option<Vec<f32>> = None;
    for kernels in Kernels::all() {
        let inputs: Vec<f32> = (-70_000..=120_000).map(|i| i as f32 / 10_000.0).collect();
        let mut outputs = inputs.clone();
        kernels.activate(Activation::GeluTanh, &mut outputs);
        for (x, y) in inputs.iter().zip(&outputs) {
            let x = f64::from(*x);
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            // (1 + tanh u) / 2, which is not lost where u is far below 0.
            let wanted = x / (1.0 + libm::exp(-2.0 * u));
            let error = (f64::from(*y) - wanted).abs();
            let limit = (2e-6 + 2e-7 * (-u).max(0.0)) * wanted.abs();
            assert!(error <= limit, "{} gelu_tanh({x}) = {y}, expected {wanted}", kernels.isa());
        }
        let mut extremes = [0.0, -0.0, 50.0, -50.0, 1e30, f32::MIN_POSITIVE];
        kernels.activate(Activation::GeluTanh, &mut extremes);
        assert_eq!(extremes[..3], [0.0, 0.0, 50.0]);
        assert!(extremes[3].abs() < 1e-30 && extremes[4] == 1e30);
        if kernels.isa().name() != "scalar" {
            let first = of_fused.get_or_insert_with(|| outputs.clone());
            assert!(*first == outputs, "{}: other bits", kernels.isa());
        }
    }
}

#[test]
fn relu_keeps_what_is_no_number() {
    for kernels in Kernels::all() {
        let mut values = [-1.0, 0.0, 2.5, f32::NAN, f32::NEG_INFINITY];
        kernels.activate(Activation::Relu, &mut values);
        assert!(values[..3] == [0.0, 0.0, 2.5] && values[3].is_nan() && values[4] == 0.0);
    }
}

#[test]
fn layer_norm_follows_its_definition() {
    for kernels in Kernels::all() {
        for n in [1, 7, 16, 17, 100, 384] {
            let mut random = Random(5);
            let x: Vec<f32> = random.floats(n).iter().map(|v| 3.0 * v + 10.0).collect();
            let (weight, bias) = (random.floats(n), random.floats(n));
            let mut output = vec![0.0; n];
            kernels.layer_norm(&x, &weight, &bias, 1e-5, &mut output);
            let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
            let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n as f64;
            for i in 0..n {
                let normal = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt();
                let wanted = normal * f64::from(weight[i]) + f64::from(bias[i]);
                assert!((f64::from(output[i]) - wanted).abs() < 2e-5, "{} {n}", kernels.isa());
            }
        }
    }
}

/// The bits are the same on all instruction sets with a fused multiply-add.
#[test]
fn rms_norm_follows_its_definition() {
    let mut random = Random(8);
    for n in [1, 7, 16, 17, 100, 768] {
        let (x, weight) = (random.floats(n), random.floats(n));
        let mut of_fused: Option<Vec<f32>> = None;
        for kernels in Kernels::all() {
            let mut output = vec![0.0; n];
            kernels.rms_norm(&x, &weight, 1e-6, &mut output);
            let square = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n as f64;
            for i in 0..n {
                let wanted = f64::from(x[i]) / (square + 1e-6).sqrt() * f64::from(weight[i]);
                assert!((f64::from(output[i]) - wanted).abs() < 2e-6, "{} {n}", kernels.isa());
            }
            if kernels.isa() != Isa::Scalar {
                let first = of_fused.get_or_insert_with(|| output.clone());
                assert!(*first == output, "{} {n}: other bits", kernels.isa());
            }
        }
    }
}

/// Attention to a few rows, with and without a bias that hides some of them; the bits are the same on all instruction
/// sets with a fused multiply-add, and a row that is hidden might as well not be there.
#[test]
fn attention_to_rows_is_softmax() {
    let mut random = Random(9);
    for (width, stride, rows) in [(1, 1, 1), (16, 40, 3), (7, 21, 4), (64, 768, 5), (100, 128, 33)] {
        let query = random.floats(width);
        let (keys, values) = (random.floats(rows * stride), random.floats(rows * stride));
        let mut hiding = random.floats(rows);
        hiding[..rows - 1].iter_mut().step_by(3).for_each(|bias| *bias = f32::NEG_INFINITY);
        for bias in [&[][..], &hiding] {
            let mut of_fused: Option<Vec<f32>> = None;
            let attention = |first: usize, bias| RowAttention {
                query: &query,
                keys: &keys[first * stride..],
                values: &values[first * stride..],
                stride,
                rows: rows - first,
                bias,
                scale: 0.5,
            };
            for kernels in Kernels::all() {
                let mut output = vec![f32::NAN; width];
                kernels.attend_rows(&attention(0, bias), &mut output);
                let weight = |row: usize| {
                    let pairs = query.iter().zip(&keys[row * stride..]);
                    let score: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    (0.5 * score + bias.get(row).map_or(0.0, |&bias| f64::from(bias))).exp()
                };
                let total: f64 = (0..rows).map(weight).sum();
                for i in 0..width {
                    let sum: f64 =
                        (0..rows).map(|row| weight(row) * f64::from(values[row * stride + i])).sum();
                    let error = (f64::from(output[i]) - sum / total).abs();
                    assert!(error < 2e-6, "{} width {width}: {error}", kernels.isa());
                }
                if rows > 1 && !bias.is_empty() {
                    let mut without = vec![f32::NAN; width];
                    kernels.attend_rows(&attention(1, &bias[1..]), &mut without);
                    assert!(without == output, "{}: the hidden first row counts", kernels.isa());
                }
                if kernels.isa() != Isa::Scalar {
                    let first = of_fused.get_or_insert_with(|| output.clone());
                    assert!(*first == output, "{} width {width}: other bits", kernels.isa());
                }
            }
        }
    }
}

/// Softmax attention over sinks and a wrapped ring; queries that share a pass get what they get alone, to the
/// bit.
#[test]
fn attention_is_softmax_with_and_without_sharing() {
    fn check<E: KeyValue>(kernels: &Kernels, tolerance: f64) {
        for (width, sinks, window, first) in [
            (16, 0, 1, 0),
            (32, 1, 9, 0),
            (64, 3, 40, 20),
            (144, 2, 20, 90),
            (48, 20, 33, 500),
            (16, 5, 64, 3),
        ] {
            let mut random = Random(6);
            let ring = (window + 32usize).next_multiple_of(16);
            let slots = (sinks + ring).next_multiple_of(16);
            let slot =
                |p: u64| if p < sinks as u64 { p as usize } else { sinks + (p as usize - sinks) % ring };
            let (mut keys, mut values) =
                (vec![E::default(); slots * width], vec![E::default(); slots * width]);
            let mut scales = vec![0.0; slots * E::SCALES];
            let (mut exact_keys, mut exact_values) = (vec![0.0; slots * width], vec![0.0; slots * width]);
            for position in 0..first + QUERIES as u64 {
                let (key, value) = (random.floats(width), random.floats(width));
                let at = slot(position) * width..(slot(position) + 1) * width;
                let key_scale = E::store_key(kernels, &key, slot(position), &mut keys);
                let value_scale = E::store(kernels, &value, &mut values[at.clone()]);
                for (place, scale) in E::scale_places(slot(position)).zip([key_scale, value_scale]) {
                    scales[place] = scale;
                }
                exact_keys[at.clone()].copy_from_slice(&key);
                exact_values[at].copy_from_slice(&value);
            }
            let queries = random.floats(QUERIES * width);
            let sink_queries = random.floats(QUERIES * width);
            let window_start = |p: u64| (p + 1).saturating_sub(window as u64).max(sinks as u64);
            let attend = |values: &[E], scales: &[f32], from: usize, count: usize| {
                let (low, high) = (first + from as u64, first + (from + count) as u64 - 1);
                let start = window_start(low);
                let in_window = (high + 1).saturating_sub(start) as usize;
                let until_wrap = in_window.min(sinks + ring - slot(start));
                let attention = Attention {
                    width,
                    queries: &queries[from * width..(from + count) * width],
                    sink_queries: &sink_queries[from * width..(from + count) * width],
                    keys: &keys,
                    values,
                    scales,
                    visible: Visible {
                        sinks: 0..sinks.min(high as usize + 1),
                        window: [
                            Run { slots: slot(start)..slot(start) + until_wrap, position: start },
                            Run {
                                slots: sinks..sinks + in_window - until_wrap,
                                position: start + until_wrap as u64,
                            },
                        ],
                    },
                    windows: std::array::from_fn(|n| (window_start(low + n as u64), low + n as u64)),
                    scale: 0.5,
                };
                let mut output = vec![f32::NAN; count * width];
                let mut scores = vec![f32::NAN; score_floats(slots)];
                E::attend(kernels, &attention, &mut scores, &mut output);
                output
            };
            let alone: Vec<f32> = (0..QUERIES).flat_map(|n| attend(&values, &scales, n, 1)).collect();
            for (from, count) in [(0, 2), (1, 2), (0, 3), (1, 3), (0, 4)] {
                let shared = attend(&values, &scales, from, count);
                assert!(shared == alone[from * width..(from + count) * width], "{} {width}", kernels.isa());
                // Values that are no numbers spoil only the queries that see them.
                let (low, high) = (first + from as u64, first + (from + count) as u64 - 1);
                for position in (0..(sinks as u64).min(high + 1)).chain(window_start(low)..=high) {
                    let (mut values, mut scales) = (values.clone(), scales.clone());
                    let at = slot(position) * width..(slot(position) + 1) * width;
                    let scale = E::store(kernels, &vec![f32::INFINITY; width], &mut values[at]);
                    if let Some(place) = E::scale_places(slot(position)).nth(1) {
                        scales[place] = scale;
                    }
                    let spoiled = attend(&values, &scales, from, count);
                    for (n, shared) in spoiled.chunks_exact(width).enumerate() {
                        let query = first + (from + n) as u64;
                        let window = window_start(query)..=query;
                        let sees = position < sinks as u64 && position <= query || window.contains(&position);
                        let same = shared == &alone[(from + n) * width..][..width];
                        assert!(same != sees, "{}: {position} by {query}", kernels.isa());
                    }
                }
            }
            for n in 0..QUERIES {
                let position = first + n as u64;
                let seen = (0..=position).filter(|&p| p < sinks as u64 || p >= window_start(position));
                let terms: Vec<(f64, usize)> = seen
                    .map(|p| {
                        let query = if p < sinks as u64 { &sink_queries } else { &queries };
                        let key = &exact_keys[slot(p) * width..][..width];
                        let pairs = key.iter().zip(&query[n * width..]);
                        let score: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                        ((0.5 * score).exp(), slot(p) * width)
                    })
                    .collect();
                let total: f64 = terms.iter().map(|term| term.0).sum();
                for i in 0..width {
                    let sum: f64 = terms.iter().map(|(w, at)| w * f64::from(exact_values[at + i])).sum();
                    let error = (f64::from(alone[n * width + i]) - sum / total).abs();
                    assert!(error < tolerance, "{} width {width}: {error}", kernels.isa());
                }
            }
        }
    }
    for kernels in Kernels::all() {
        check::<f32>(kernels, 5e-6);
        check::<u16>(kernels, 5e-3);
        check::<i8>(kernels, 5e-2);
    }
}

/// Weights that end where readable memory ends: a kernel that reads one byte too many dies.
#[cfg(unix)]
#[test]
fn kernels_stay_inside_their_panel() {
    let team = Team::new(1).unwrap();
    for kind in WeightType::ALL {
        for (rows, width) in SHAPES {
            let mut random = Random(7);
            let packed = pack(kind, &random.floats(rows * width), width);
            let guarded = Guarded::new(&packed);
            let view = Weights::new(kind, rows, width, guarded.bytes()).unwrap();
            for kernels in Kernels::all() {
                // A few, and enough to share unpacked weights.
                for columns in [1, 5, 21] {
                    let input = activations(kernels, &team, &random.floats(columns * width), width);
                    assert!(product(kernels, &team, view, &input).iter().all(|value| value.is_finite()));
                }
            }
        }
    }
}

/// Bytes that are followed by a page that may not be touched.
#[cfg(unix)]
struct Guarded {
    base: *mut libc::c_void,
    mapped: usize,
    start: usize,
    length: usize,
}

#[cfg(unix)]
impl Guarded {
    fn new(bytes: &[u8]) -> Guarded {
        // SAFETY: plain calls; the results are checked, and the copy stays below the guard page.
        unsafe {
            let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
            let used = bytes.len().next_multiple_of(page);
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let base = libc::mmap(std::ptr::null_mut(), used + page, protection, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(base.byte_add(used), page, libc::PROT_NONE), 0);
            let start = used - bytes.len();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), base.cast::<u8>().add(start), bytes.len());
            Guarded { base, mapped: used + page, start, length: bytes.len() }
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped and written in `new`.
        unsafe { std::slice::from_raw_parts(self.base.cast::<u8>().add(self.start), self.length) }
    }
}

#[cfg(unix)]
impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the map that `new` made.
        unsafe { libc::munmap(self.base, self.mapped) };
    }
}
