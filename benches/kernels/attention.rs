//! Attention of a head of 64 dimensions, alone and for the four queries that share a pass: multiply-adds a second.

use cinderblock::unstable::kernels::{Attention, Kernels, KeyValue, QUERIES, Run, Visible, score_floats};
use criterion::{BenchmarkId, Criterion, Throughput};

const WIDTH: usize = 64;

pub fn attention(criterion: &mut Criterion) {
    for kernels in Kernels::all() {
        of_type::<f32>(criterion, kernels, "f32");
        of_type::<u16>(criterion, kernels, "f16");
        of_type::<i8>(criterion, kernels, "q8");
    }
}

fn of_type<E: KeyValue>(criterion: &mut Criterion, kernels: &Kernels, name: &str) {
    let mut group = criterion.benchmark_group(format!("{}/attention {name}", kernels.isa()));
    for positions in [128, 512, 4096] {
        let (mut keys, mut values) =
            (vec![E::default(); positions * WIDTH], vec![E::default(); positions * WIDTH]);
        let mut scales = vec![0.0; positions * E::SCALES];
        for slot in 0..positions {
            let row: Vec<f32> = (0..WIDTH).map(|i| ((i + slot) % 13) as f32 / 13.0).collect();
            let key_scale = E::store_key(kernels, &row, slot, &mut keys);
            let value_scale = E::store(kernels, &row, &mut values[slot * WIDTH..][..WIDTH]);
            for (place, scale) in E::scale_places(slot).zip([key_scale, value_scale]) {
                scales[place] = scale;
            }
        }
        let rows = vec![0.5; QUERIES * WIDTH];
        let (mut scores, mut output) = (vec![0.0; score_floats(positions)], vec![0.0; QUERIES * WIDTH]);
        for queries in [1, QUERIES] {
            let last = positions as u64 - 1;
            let attention = || Attention {
                width: WIDTH,
                queries: &rows[..queries * WIDTH],
                sink_queries: &rows[..queries * WIDTH],
                keys: &keys,
                values: &values,
                scales: &scales,
                visible: Visible {
                    sinks: 0..0,
                    window: [
                        Run { slots: 0..positions, position: 0 },
                        Run { slots: 0..0, position: last + 1 },
                    ],
                },
                windows: [(0, last); QUERIES],
                scale: 0.125,
            };
            group.throughput(Throughput::Elements((2 * queries * positions * WIDTH) as u64));
            group.bench_function(BenchmarkId::new(format!("{queries} of"), positions), |bencher| {
                bencher.iter(|| {
                    E::attend(kernels, &attention(), &mut scores, &mut output[..queries * WIDTH]);
                });
            });
        }
    }
}
