//! A model: its configuration and weights, from one file, and the mathematics of its three parts.

mod attention;
mod block_decoder;
mod config;
mod draft;
mod embedder;
mod format;
mod layout;
mod segment;
mod stack;
mod storage;
mod token_decoder;
mod weights;

use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

pub(crate) use block_decoder::BATCH;
pub use block_decoder::BlockDecoder;
pub use config::{
    Alignment, Config, EmbedderConfig, EncoderConfig, PAD_TOKEN, Projection, Residual, StackConfig, Strategy,
    T5Config, TokenDecoderConfig,
};
pub use draft::{DraftEntry, DraftTable, NO_TOKEN, keys as draft_keys};
pub use format::{ARCHITECTURE, Header, keys};
pub use layout::{Role, TensorSpec, tensors};
pub(crate) use segment::Segment;
pub use token_decoder::TokenDecoder;
pub use weights::{Matrix, ModelWeights, Vector};

use crate::error::{Error, ErrorKind, Result};
use crate::gguf::Index;
use crate::kernels::Kernels;
use crate::quant::WeightType;
pub use storage::OpenOptions;
use storage::Storage;

/// Bytes that [`Model::verify_with`] compares between two calls of its callback.
pub const PROGRESS_BYTES: usize = 1 << 22;

/// A model that is ready to run. Cheap to share between sessions and threads.
pub struct Model {
    path: Option<PathBuf>,
    storage: Arc<Storage>,
    /// Bytes of the file's header.
    header: usize,
    config: Config,
    weights: ModelWeights,
    kernels: &'static Kernels,
    end_token: Option<u32>,
    draft: Option<Arc<DraftTable>>,
}

/// Which model a sequence belongs to, without keeping it open.
#[derive(Clone)]
pub(crate) struct ModelId(Weak<Storage>);

impl PartialEq for ModelId {
    fn eq(&self, other: &ModelId) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl Model {
    /// Maps a model file and checks its header. Weights are not read before they are used.
    ///
    /// # Errors
    /// If the file cannot be read, is not a valid model, or `CINDERBLOCK_ISA` names an instruction set that does not
    /// exist or that this machine lacks.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        Self::open_with(path, OpenOptions::default())
    }

    /// Opens a model file, mapped or read into memory, and checks its header.
    ///
    /// # Errors
    /// As [`Model::open`], and if there is no memory to read it into.
    pub fn open_with(path: impl AsRef<Path>, options: OpenOptions) -> Result<Model> {
        let path = path.as_ref();
        let kernels = Kernels::choose()?;
        let storage = Storage::open(path, options)?;
        let model = Self::from_storage(storage, kernels).map_err(|error| error.in_file(path))?;
        Ok(Model { path: Some(path.to_path_buf()), ..model })
    }

    /// Maps a model that is a part of an open file, such as an archive: `part` in bytes, from a multiple of 64;
    /// `None` is the whole file. The file may be closed afterwards.
    ///
    /// # Errors
    /// As [`Model::open`], and if the part is not inside the file or not aligned.
    pub fn open_file(file: &File, part: Option<Range<u64>>) -> Result<Model> {
        Self::open_file_with(file, part, OpenOptions::default())
    }

    /// As [`Model::open_file`], mapped or read into memory.
    ///
    /// # Errors
    /// As [`Model::open_file`], and if there is no memory to read it into.
    pub fn open_file_with(file: &File, part: Option<Range<u64>>, options: OpenOptions) -> Result<Model> {
        Self::from_storage(Storage::open_part(file, part, options)?, Kernels::choose()?)
    }

    /// A model from the bytes of a file, which are copied.
    ///
    /// # Errors
    /// As [`Model::open`], and if there is no memory for the copy.
    pub fn from_bytes(bytes: &[u8]) -> Result<Model> {
        Self::from_storage(Storage::copy(bytes)?, Kernels::choose()?)
    }

    /// A model that is part of the program (`include_bytes!`), at an address that is a multiple of 64. Nothing is
    /// copied.
    ///
    /// # Errors
    /// If the bytes are not a valid model or not aligned, or `CINDERBLOCK_ISA` as in [`Model::open`].
    pub fn from_static(bytes: &'static [u8]) -> Result<Model> {
        Self::from_storage(Storage::from_static(bytes)?, Kernels::choose()?)
    }

    /// The same model with the kernels of another instruction set.
    #[doc(hidden)]
    #[must_use]
    pub fn with_kernels(self, kernels: &'static Kernels) -> Model {
        Model { kernels, ..self }
    }

    fn from_storage(storage: Storage, kernels: &'static Kernels) -> Result<Model> {
        let storage = Arc::new(storage);
        let index = Index::parse(&storage, ARCHITECTURE)?;
        let config = Config::read(&index)?;
        let weights = ModelWeights::load(&storage, &index, &config)?;
        let end_token = format::end_token(&index, &config)?;
        let draft = DraftTable::read(&index, &config)?.map(Arc::new);
        let header = index.data_start() as usize;
        drop(index);
        Ok(Model { path: None, storage, header, config, weights, kernels, end_token, draft })
    }

    /// The same for all that share these weights.
    pub(crate) fn id(&self) -> ModelId {
        ModelId(Arc::downgrade(&self.storage))
    }

    /// Shape of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights.
    #[doc(hidden)]
    pub fn weights(&self) -> &ModelWeights {
        &self.weights
    }

    /// The kernels that were chosen when the model was opened.
    #[doc(hidden)]
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

    /// What the file says about how texts usually go on, if it has a draft table.
    #[doc(hidden)]
    pub fn draft(&self) -> Option<&Arc<DraftTable>> {
        self.draft.as_ref()
    }

    /// The file's header: all metadata and tensors.
    ///
    /// # Panics
    /// If the header of a mapped file has been written over.
    #[doc(hidden)]
    pub fn index(&self) -> Index<'_> {
        Index::parse(&self.storage, ARCHITECTURE).expect("parsed before")
    }

    /// The tokenizer's JSON text, if the file holds one.
    pub fn tokenizer_json(&self) -> Option<&str> {
        // The index is short-lived, its texts borrow from the storage.
        Index::parse(&self.storage, ARCHITECTURE).ok()?.get(keys::TOKENIZER)?.as_str()
    }

    /// The types of all tensors, in file order.
    ///
    /// # Panics
    /// As [`Model::index`].
    #[doc(hidden)]
    pub fn types(&self) -> Vec<WeightType> {
        format::types(&self.index()).expect("read before")
    }

    /// Compares every tensor with its stored checksum.
    ///
    /// # Errors
    /// The first tensor that differs.
    pub fn verify(&self) -> Result<()> {
        self.verify_with(|_, _| ControlFlow::Continue(()))
    }

    /// As [`Model::verify`], calling `progress` with the bytes compared so far and all that will be: first
    /// with none, at last with all, and at least once for every [`PROGRESS_BYTES`].
    ///
    /// # Errors
    /// The first tensor that differs, or the header if it has been written over; `Interrupted` if `progress` breaks.
    pub fn verify_with(&self, mut progress: impl FnMut(u64, u64) -> ControlFlow<()>) -> Result<()> {
        let index = Index::parse(&self.storage, ARCHITECTURE)?;
        let checksums = index.list(keys::CHECKSUMS, index.tensors().len())?;
        let total = index.tensors().iter().map(|info| info.bytes as u64).sum();
        let mut done = 0;
        let mut report = |bytes: usize| {
            done += bytes as u64;
            match progress(done, total) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => {
                    Err(Error::new(ErrorKind::Interrupted, "verifying was interrupted"))
                }
            }
        };
        report(0)?;
        for (info, expected) in index.tensors().iter().zip(checksums.iter()) {
            let mut hasher = crc32fast::Hasher::new();
            for part in self.storage[info.start..info.start + info.bytes].chunks(PROGRESS_BYTES) {
                hasher.update(part);
                report(part.len())?;
            }
            let found = hasher.finalize();
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

    /// A number that identifies the model: FNV-1a over its file's header, which holds the checksum of every
    /// tensor. It tells models apart; it does not withstand someone who forges it.
    pub fn fingerprint(&self) -> u64 {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        self.storage[..self.header].iter().fold(0xcbf2_9ce4_8422_2325, step)
    }

    /// Checks that all tokens are in the vocabulary.
    ///
    /// # Errors
    /// The first token that is not.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let vocabulary = self.config.vocabulary;
        match tokens.iter().find(|&&token| token as usize >= vocabulary) {
            None => Ok(()),
            Some(token) => {
                Err(Error::argument(format!("token id: found {token}, expected less than {vocabulary}")))
            }
        }
    }
}
