//! The header of a model file alone, which is fast: keys, tensors and the configuration.

use cinderblock::Config;
use cinderblock::unstable::gguf::Index;
use cinderblock::unstable::model::{ARCHITECTURE, tensors};

use super::check;

pub fn run(bytes: &[u8]) {
    let Some(index) = check(Index::parse(bytes, ARCHITECTURE)) else { return };
    for info in index.tensors() {
        // In bounds, as promised.
        let _ = &bytes[info.start..info.start + info.bytes];
    }
    for (_, value) in index.metadata() {
        let _ = (value.to_string(), value.as_u64(), value.as_f64(), value.as_str());
        let _ = value.as_array().map(|array| array.iter().count());
    }
    if let Some(config) = check(Config::read(&index)) {
        let layers = config.block_decoder.layers + config.token_decoder.layers();
        if layers < 64 {
            assert!(!tensors(&config).is_empty() && config.token_positions() > 0);
        }
    }
}
