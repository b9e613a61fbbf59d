//! A model: its configuration and weights, mapped from one file, and the mathematics of its three parts.

mod block_decoder;
mod config;
mod layout;
mod stack;
mod storage;
mod token_decoder;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use block_decoder::BATCH;
pub use block_decoder::BlockDecoder;
pub use config::{ARCHITECTURE, Config, PAD_TOKEN, Projection, StackConfig, Strategy};
pub use layout::{Role, TensorSpec, tensors};
pub(crate) use stack::Span;
pub use token_decoder::TokenDecoder;
pub use weights::{CHECKSUMS_KEY, Matrix, ModelWeights, RECIPE_KEY, TYPES_KEY, Vector};

use crate::error::{Error, Result};
use crate::gguf::Index;
use crate::kernels::Kernels;
use crate::quant::WeightType;
use storage::Storage;

/// Key of the Hugging Face tokenizer, as JSON text.
pub const TOKENIZER_KEY: &str = "tokenizer.huggingface.json";
/// Key of the token that ends a text.
pub const END_TOKEN_KEY: &str = "tokenizer.ggml.eos_token_id";

/// A model that is ready to run. Cheap to share between sessions and threads.
pub struct Model {
    path: Option<PathBuf>,
    storage: Arc<Storage>,
    config: Config,
    weights: ModelWeights,
    kernels: &'static Kernels,
    end_token: Option<u32>,
}

impl Model {
    /// Maps a model file and checks its header. Weights are not read before they are used.
    ///
    /// # Errors
    /// If the file cannot be read, is not a valid model, or the kernels asked for do not exist.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        let path = path.as_ref();
        let model = Self::from_storage(Storage::open(path)?).map_err(|error| error.in_file(path))?;
        Ok(Model { path: Some(path.to_path_buf()), ..model })
    }

    /// A model from the bytes of a file, which are copied.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Model> {
        Self::from_storage(Storage::copy(bytes))
    }

    /// The same model with the kernels of another instruction set.
    #[must_use]
    pub fn with_kernels(self, kernels: &'static Kernels) -> Model {
        Model { kernels, ..self }
    }

    fn from_storage(storage: Storage) -> Result<Model> {
        let storage = Arc::new(storage);
        let index = Index::parse(&storage, ARCHITECTURE)?;
        let config = Config::read(&index)?;
        let weights = ModelWeights::load(&storage, &index, &config)?;
        let end_token = match index.get(END_TOKEN_KEY) {
            Some(_) => Some(index.integer(END_TOKEN_KEY, 0..=config.vocabulary as u64 - 1)? as u32),
            None => None,
        };
        let kernels = Kernels::choose()?;
        drop(index);
        Ok(Model { path: None, storage, config, weights, kernels, end_token })
    }

    /// Shape of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights.
    pub fn weights(&self) -> &ModelWeights {
        &self.weights
    }

    /// The kernels that were chosen when the model was opened.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> usize {
        self.storage.len()
    }

    /// The token that ends a text, if the file names one.
    pub fn end_token(&self) -> Option<u32> {
        self.end_token
    }

    /// The file's header: all metadata and tensors.
    pub fn index(&self) -> Index<'_> {
        Index::parse(&self.storage, ARCHITECTURE).expect("parsed before")
    }

    /// The tokenizer's JSON text, if the file holds one.
    pub fn tokenizer_json(&self) -> Option<&str> {
        // The index is short-lived, its texts borrow from the storage.
        Index::parse(&self.storage, ARCHITECTURE).ok()?.get(TOKENIZER_KEY)?.as_str()
    }

    /// The types of all tensors, in file order.
    pub fn types(&self) -> Vec<WeightType> {
        weights::types(&self.index()).expect("read before")
    }

    /// Compares every tensor with its stored checksum.
    ///
    /// # Errors
    /// The first tensor that differs.
    pub fn verify(&self) -> Result<()> {
        let index = self.index();
        let checksums = index.list(CHECKSUMS_KEY, index.tensors().len())?;
        for (info, expected) in index.tensors().iter().zip(checksums.iter()) {
            let found = crc32fast::hash(&self.storage[info.start..info.start + info.bytes]);
            if expected.as_u64() != Some(u64::from(found)) {
                let expected = expected.as_u64().unwrap_or_default();
                let error = Error::mismatch(
                    format!("checksum of tensor {:?}", info.name),
                    format!("{found:08x}"),
                    format!("{expected:08x}"),
                );
                return Err(match &self.path {
                    Some(path) => error.in_file(path),
                    None => error,
                });
            }
        }
        Ok(())
    }

    /// Checks that all tokens are in the vocabulary.
    ///
    /// # Errors
    /// The first token that is not.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let vocabulary = self.config.vocabulary;
        match tokens.iter().find(|&&token| token as usize >= vocabulary) {
            None => Ok(()),
            Some(token) => Err(Error::argument(format!(
                "token id {token}: found {token}, expected less than {vocabulary}"
            ))),
        }
    }
}
