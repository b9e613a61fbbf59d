//! Speed of everything that a pass consists of, on one thread.
//!
//! `cargo bench --bench kernels -- avx2/q4` runs what has this in its name: the products of an instruction set with a
//! type of weights. `peak` is the multiply instruction of each instruction set alone, from registers.

mod attention;
mod functions;
mod peaks;
mod products;
mod runtime;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400));
    targets = peaks::peaks, products::products, attention::attention, functions::functions, runtime::runtime
}
criterion_main!(benches);
