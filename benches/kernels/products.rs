//! Products of each instruction set and type of weights, from cache: multiply-adds a second.

use cinderblock::Team;
use cinderblock::unstable::kernels::{Activations, Epilogue, Kernels, Pass, Product, Term, multiply};
use cinderblock::unstable::quant::{WeightType, Weights};
use criterion::{BenchmarkId, Criterion, Throughput};

/// 256 rows of 2048: half a megabyte in q8, which stays in the second-level cache.
const ROWS: usize = 256;
const WIDTH: usize = 2048;

pub fn products(criterion: &mut Criterion) {
    let team = Team::new(1).expect("a team of one needs no threads");
    for kernels in Kernels::all() {
        for kind in WeightType::ALL {
            let bytes = kind.matrix_bytes(ROWS, WIDTH).expect("small");
            // Zero bytes are valid weights of every type, and take as long as any others.
            let data = vec![0u64; bytes / 8];
            let weights = Weights::new(kind, ROWS, WIDTH, bytemuck::cast_slice(&data)).expect("sized");
            let mut group = criterion.benchmark_group(format!("{}/{kind}", kernels.isa()));
            for batch in [1, 2, 3, 4, 5, 8, 9, 16, 32, 128] {
                let mut input = Activations::new(WIDTH, true);
                team.region(|region| {
                    input.fill(Pass::new(region, kernels), batch, |column, output| {
                        output
                            .iter_mut()
                            .enumerate()
                            .for_each(|(i, v)| *v = ((i + column) % 13) as f32 - 6.0);
                    });
                });
                let mut output = vec![0.0; ROWS * batch];
                group.throughput(Throughput::Elements((ROWS * WIDTH * batch) as u64));
                group.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
                    bencher.iter(|| {
                        team.region(|region| {
                            let terms = [Term { weights, bias: &[], input: &input }];
                            let product =
                                Product { terms: &terms, epilogue: Epilogue::Store, output: &mut output };
                            multiply(Pass::new(region, kernels), product, None);
                        });
                    });
                });
            }
        }
    }
}
