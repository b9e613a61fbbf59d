#![no_main]

mod caller;
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::run(|| caller::Caller::new(bytes).run()));
