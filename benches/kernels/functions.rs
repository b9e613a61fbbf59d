//! Norms, GELU and the quantization of activations, on columns of 2048 floats: floats a second.

use cinderblock::Team;
use cinderblock::unstable::kernels::{Activation, Activations, Kernels, Pass};
use criterion::{Criterion, Throughput};

const WIDTH: usize = 2048;

pub fn functions(criterion: &mut Criterion) {
    let team = Team::new(1).expect("a team of one needs no threads");
    let input: Vec<f32> = (0..WIDTH).map(|i| (i % 13) as f32 - 6.0).collect();
    let ones = vec![1.0; WIDTH];
    let mut output = vec![0.0; WIDTH];
    for kernels in Kernels::all() {
        let mut group = criterion.benchmark_group(format!("{}/functions", kernels.isa()));
        group.throughput(Throughput::Elements(WIDTH as u64));
        group.bench_function("layer_norm", |bencher| {
            bencher.iter(|| kernels.layer_norm(&input, &ones, &ones, 1e-5, &mut output));
        });
        group.bench_function("rms_norm", |bencher| {
            bencher.iter(|| kernels.rms_norm(&input, &ones, 1e-5, &mut output));
        });
        for activation in Activation::ALL {
            group.bench_function(activation.name(), |bencher| {
                bencher.iter(|| {
                    output.copy_from_slice(&input);
                    kernels.activate(activation, &mut output);
                });
            });
        }
        let mut activations = Activations::new(WIDTH, true);
        group.bench_function("quantize", |bencher| {
            bencher.iter(|| {
                team.region(|region| {
                    let write = |_, floats: &mut [f32]| floats.copy_from_slice(&input);
                    activations.fill(Pass::new(region, kernels), 1, write);
                });
            });
        });
    }
}
