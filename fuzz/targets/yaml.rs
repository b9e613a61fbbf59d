#![no_main]

mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::run(|| cinderblock_fuzz::yaml::run(bytes)));
