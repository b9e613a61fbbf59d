//! The state of a session as bytes: versioned, bound to its model, checked before anything is believed.
//!
//! Little-endian: the header of 72 bytes, the digest of all blocks and the context of the last one (f32), the tokens of
//! the open block (u32), what the cache remembers ([`crate::cache`]) and the tokens of those blocks, the sampler if
//! there is one, and the CRC-32 of all that.
//! `docs/format.md` has the layout. A session that was loaded gives the logits that the saved one would have
//! given, to the bit on the same instruction set. What the token decoder has seen of the open block is not kept: it is
//! computed again from the block's tokens.
//!
//! The header alone decides how many bytes there must be, so a file that lies is refused before memory is
//! allocated for it.

use std::borrow::Cow;
use std::path::Path;

use byteorder::{ByteOrder, LE};

use super::sampler::Sampler;
use super::sampler_options::{MAX_WINDOW, SamplerOptions};
use crate::cache::{Cache, CacheShape, CacheType};
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::memory::reserve;
use crate::model::{Alignment, BlockDecoder, Model};
use crate::session::{Runtime, Session, SessionOptions, block_log};

const MAGIC: &[u8; 8] = b"CINDERSN";
/// The only version that is read and written.
pub const VERSION: u32 = 2;
const HEADER_BYTES: usize = 72;
/// Bytes of a sampler without its recent tokens.
const SAMPLER_BYTES: usize = 64;
/// More positions than anything will ever see, and small enough that counting them cannot overflow.
const MAX_BLOCKS: u64 = 1 << 48;
const CACHE_TYPES: [(u32, CacheType); 3] = [(0, CacheType::F32), (1, CacheType::F16), (2, CacheType::Q8)];
const ALIGNMENTS: [(u32, Alignment); 2] = [(0, Alignment::Left), (1, Alignment::Tail)];

/// A saved session.
pub struct Snapshot<'b> {
    header: Header,
    bytes: Cow<'b, [u8]>,
}

/// What decides the rest. Fields in the order of the file.
#[derive(Clone, Debug, PartialEq)]
struct Header {
    cache_type: CacheType,
    fingerprint: u64,
    model_bytes: u64,
    cache_blocks: usize,
    sink_blocks: usize,
    /// Whole blocks, forgotten ones included.
    length: u64,
    /// Tokens of the open block.
    open: usize,
    /// Recent tokens of the sampler, if there is one.
    recent: Option<usize>,
    alignment: Alignment,
    /// Biased tokens of the sampler.
    biased: usize,
}

/// Bytes of the parts after the header.
struct Parts {
    context: usize,
    open: usize,
    cache: usize,
    log: usize,
    sampler: usize,
}

/// The value of a code.
fn decode<T: Copy>(table: &[(u32, T)], code: u32, what: &str, expected: &str) -> Result<T> {
    let entry = table.iter().find(|entry| entry.0 == code);
    entry.map(|entry| entry.1).ok_or_else(|| Error::mismatch(what, code, expected))
}

/// The code of a value.
fn code<T: PartialEq>(table: &[(u32, T)], value: &T) -> u32 {
    table.iter().find(|entry| entry.1 == *value).map_or(u32::MAX, |entry| entry.0)
}

/// Takes little-endian numbers from bytes that are known to be enough.
struct Cursor<'b>(&'b [u8]);

impl<'b> Cursor<'b> {
    fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn u32(&mut self) -> u32 {
        LE::read_u32(self.take(4))
    }

    fn u64(&mut self) -> u64 {
        LE::read_u64(self.take(8))
    }

    fn size(&mut self, what: &str) -> Result<usize> {
        let value = self.u64();
        usize::try_from(value)
            .map_err(|_| Error::mismatch(what, value, "a size that this machine can address"))
    }

    fn f32(&mut self) -> f32 {
        LE::read_f32(self.take(4))
    }
}

impl Header {
    fn read(model: &Model, bytes: &[u8]) -> Result<Header> {
        if bytes.len() < HEADER_BYTES {
            return Err(Error::mismatch(
                "session file",
                format!("{} bytes", bytes.len()),
                format!("at least {HEADER_BYTES}"),
            ));
        }
        let mut cursor = Cursor(bytes);
        if cursor.take(8) != MAGIC {
            return Err(Error::format("start of session file: expected \"CINDERSN\""));
        }
        let version = cursor.u32();
        if version != VERSION {
            return Err(Error::mismatch("session file version", version, VERSION));
        }
        let cache_type = decode(&CACHE_TYPES, cursor.u32(), "cache type", "0 (f32), 1 (f16) or 2 (q8)")?;
        let header = Header {
            cache_type,
            fingerprint: cursor.u64(),
            model_bytes: cursor.u64(),
            cache_blocks: cursor.size("cache blocks")?,
            sink_blocks: cursor.size("pinned blocks")?,
            length: cursor.u64(),
            open: cursor.u32() as usize,
            recent: cursor.u32().checked_sub(1).map(|count| count as usize),
            alignment: decode(&ALIGNMENTS, cursor.u32(), "alignment", "0 (left) or 1 (tail)")?,
            biased: cursor.u32() as usize,
        };
        let identity = (model.fingerprint(), model.file_bytes() as u64);
        if (header.fingerprint, header.model_bytes) != identity {
            return Err(Error::mismatch(
                "model of the session",
                format!("{:016x} of {} bytes", header.fingerprint, header.model_bytes),
                format!("{:016x} of {} bytes", identity.0, identity.1),
            ));
        }
        let most = model.config().block_length - 1;
        // A first block that is filled up from the left is whole at once.
        let most = if header.length == 0 && header.alignment == Alignment::Left { 0 } else { most };
        if header.length > MAX_BLOCKS {
            return Err(Error::mismatch(
                "blocks of the session",
                header.length,
                format!("at most {MAX_BLOCKS}"),
            ));
        }
        if header.open > most {
            return Err(Error::mismatch("tokens of the open block", header.open, format!("at most {most}")));
        }
        if header.recent.is_some_and(|recent| recent > MAX_WINDOW) {
            return Err(Error::mismatch(
                "recent tokens",
                header.recent.unwrap_or(0),
                format!("at most {MAX_WINDOW}"),
            ));
        }
        let most = if header.recent.is_some() { model.config().vocabulary } else { 0 };
        if header.biased > most {
            return Err(Error::mismatch("biased tokens", header.biased, format!("at most {most}")));
        }
        Ok(header)
    }

    fn of(session: &Session, sampler: Option<&Sampler>) -> Header {
        let (cache, open, _) = session.sequence().state();
        let options = session.options();
        Header {
            cache_type: cache.kind(),
            fingerprint: session.model().fingerprint(),
            model_bytes: session.model().file_bytes() as u64,
            cache_blocks: cache.shape().sinks + cache.shape().window,
            sink_blocks: options.sink_blocks,
            length: cache.length(),
            open: open.tokens().len(),
            recent: sampler.map(|sampler| sampler.state().1.len()),
            alignment: options.alignment.unwrap_or(Alignment::Left),
            biased: sampler.map_or(0, |sampler| sampler.options().logit_bias.len()),
        }
    }

    fn write(&self, output: &mut Vec<u8>) {
        output.extend(MAGIC);
        output.extend(VERSION.to_le_bytes());
        output.extend(code(&CACHE_TYPES, &self.cache_type).to_le_bytes());
        let sizes = [self.cache_blocks as u64, self.sink_blocks as u64];
        for number in [self.fingerprint, self.model_bytes, sizes[0], sizes[1], self.length] {
            output.extend(number.to_le_bytes());
        }
        output.extend((self.open as u32).to_le_bytes());
        output.extend((self.recent.map_or(0, |count| count + 1) as u32).to_le_bytes());
        output.extend(code(&ALIGNMENTS, &self.alignment).to_le_bytes());
        output.extend((self.biased as u32).to_le_bytes());
    }

    fn shape(&self, model: &Model) -> Result<CacheShape> {
        let window = self.cache_blocks.checked_sub(self.sink_blocks).filter(|&window| window > 0);
        let window = window.ok_or_else(|| {
            let expected = format!("more than the {} pinned ones", self.sink_blocks);
            Error::mismatch("cache blocks", self.cache_blocks, expected)
        })?;
        Ok(BlockDecoder::cache_shape(model.config(), self.sink_blocks, window))
    }

    fn parts(&self, model: &Model) -> Result<Parts> {
        let shape = self.shape(model)?;
        let positions = Cache::remembered(&shape, self.length);
        let bytes = |position: usize| {
            let bytes = positions.checked_mul(position as u64).filter(|&bytes| bytes < 1 << 60);
            bytes.and_then(|bytes| usize::try_from(bytes).ok())
        };
        let cache = bytes(Cache::position_bytes(&shape, self.cache_type));
        let log = bytes(block_log::bytes(1, model.config().block_length));
        let (Some(cache), Some(log)) = (cache, log) else {
            return Err(Error::format("session file: its cache overflows"));
        };
        let context = 8 + 4 * model.config().block_decoder.hidden;
        let sampler = |recent| SAMPLER_BYTES + 4 * recent + 8 * self.biased;
        Ok(Parts {
            context: if self.length == 0 { 0 } else { context },
            open: 4 * self.open,
            cache,
            log,
            sampler: self.recent.map_or(0, sampler),
        })
    }

    /// Bytes of the whole file, the header and the checksum included.
    fn total(&self, model: &Model) -> Result<u64> {
        let Parts { context, open, cache, log, sampler } = self.parts(model)?;
        Ok([HEADER_BYTES, context, open, cache, log, sampler, 4].iter().map(|&bytes| bytes as u64).sum())
    }
}

impl<'b> Snapshot<'b> {
    /// The state of a session, and of its sampler.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn save(session: &Session, sampler: Option<&Sampler>) -> Result<Snapshot<'static>> {
        let header = Header::of(session, sampler);
        let total = header.total(session.model())?;
        let mut bytes = Vec::new();
        let room = usize::try_from(total).ok().filter(|&total| bytes.try_reserve_exact(total).is_ok());
        if room.is_none() {
            let detail = format!("a session of {total} bytes, for which there is no memory");
            return Err(Error::new(ErrorKind::Resource, detail));
        }
        header.write(&mut bytes);
        let (cache, open, digest) = session.sequence().state();
        if header.length > 0 {
            bytes.extend(digest.to_le_bytes());
            bytes.extend_from_slice(bytemuck::cast_slice(open.context()));
        }
        bytes.extend_from_slice(bytemuck::cast_slice(open.tokens()));
        cache.write(&mut bytes);
        for (tokens, digest) in session.sequence().remembered() {
            bytes.extend_from_slice(bytemuck::cast_slice(tokens));
            bytes.extend(digest.to_le_bytes());
        }
        if let Some(sampler) = sampler {
            write_sampler(sampler, &mut bytes);
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        Ok(Snapshot { header, bytes: Cow::Owned(bytes) })
    }

    /// How many bytes [`Snapshot::save`] would give.
    ///
    /// # Errors
    /// If the number overflows.
    pub fn size(session: &Session, sampler: Option<&Sampler>) -> Result<u64> {
        Header::of(session, sampler).total(session.model())
    }

    /// Checks everything about bytes that [`Snapshot::bytes`] gave but the numbers inside the cache.
    ///
    /// # Errors
    /// If they are damaged, or of another version or model.
    pub fn from_bytes(model: &Model, bytes: impl Into<Cow<'b, [u8]>>) -> Result<Snapshot<'b>> {
        let bytes = bytes.into();
        let header = Header::read(model, &bytes)?;
        let total = header.total(model)?;
        if bytes.len() as u64 != total {
            return Err(Error::mismatch("session file", format!("{} bytes", bytes.len()), total));
        }
        let (content, checksum) = bytes.split_at(bytes.len() - 4);
        let (found, expected) = (crc32fast::hash(content), Cursor(checksum).u32());
        if found != expected {
            return Err(Error::mismatch(
                "checksum of the session",
                format!("{found:08x}"),
                format!("{expected:08x}"),
            ));
        }
        Ok(Snapshot { header, bytes })
    }

    /// Reads a file as [`Snapshot::from_bytes`] reads bytes.
    ///
    /// # Errors
    /// As [`Snapshot::from_bytes`], and if the file cannot be read.
    pub fn read(model: &Model, path: &Path) -> Result<Snapshot<'static>> {
        let (mut file, length) = files::open(path)?;
        let mut read = || {
            let mut bytes = files::read(&mut file, path, HEADER_BYTES as u64)?;
            let total = Header::read(model, &bytes)?.total(model)?;
            if length != total {
                return Err(Error::mismatch("session file", format!("{length} bytes"), total));
            }
            let rest = files::read(&mut file, path, total - HEADER_BYTES as u64)?;
            bytes.extend(rest);
            Snapshot::from_bytes(model, bytes)
        };
        read().map_err(|error: Error| error.in_file(path))
    }

    /// Writes a file that is there whole or not at all, which only its owner may read.
    ///
    /// # Errors
    /// If it cannot be written; then what was there before is untouched.
    pub fn write(&self, path: &Path) -> Result<()> {
        files::replace(path, &self.bytes)
    }

    /// The bytes to keep.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The options with which the session was made.
    pub fn options(&self) -> SessionOptions {
        SessionOptions {
            cache_blocks: Some(self.header.cache_blocks),
            sink_blocks: self.header.sink_blocks,
            cache_type: Some(self.header.cache_type),
            alignment: Some(self.header.alignment),
        }
    }

    /// The session, and its sampler if that was saved. The runtime has the model that the snapshot was checked
    /// against.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, the sampler contradicts itself, or the cache cannot be allocated.
    pub fn restore(&self, runtime: &Runtime) -> Result<(Session, Option<Sampler>)> {
        let model = runtime.model();
        let parts = self.header.parts(model)?;
        let mut cursor = Cursor(&self.bytes[HEADER_BYTES..]);
        let mut context = Cursor(cursor.take(parts.context));
        let digest = if parts.context == 0 { block_log::EMPTY } else { context.u64() };
        let open: Vec<u32> = numbers(cursor.take(parts.open)).collect();
        let cache = cursor.take(parts.cache);
        let block = model.config().block_length;
        let log = cursor.take(parts.log).chunks_exact(block_log::bytes(1, block));
        let mut tokens = Vec::new();
        reserve(&mut tokens, log.len() * block, "tokens of a session")?;
        log.clone().for_each(|entry| tokens.extend(numbers(&entry[..4 * block])));
        model.check_tokens(&open)?;
        model.check_tokens(&tokens)?;
        let Header { recent, biased, .. } = self.header;
        let sampler = recent.map(|recent| read_sampler(&mut cursor, (recent, biased), model)).transpose()?;
        let mut session = runtime.session(&self.options())?;
        let digests = log.map(|entry| Cursor(&entry[4 * block..]).u64());
        let remembered = tokens.chunks_exact(block).zip(digests);
        session.sequence_mut().restore((&open, digest), remembered, |blocks, stream| {
            bytemuck::cast_slice_mut::<f32, u8>(stream)[..context.0.len()].copy_from_slice(context.0);
            blocks.read(self.header.length, cache);
        });
        Ok((session, sampler))
    }
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(LE::read_u32)
}

fn write_sampler(sampler: &Sampler, output: &mut Vec<u8>) {
    let options = sampler.options();
    let (random, recent, oldest) = sampler.state();
    for number in [options.temperature, options.top_p, options.min_p, options.repetition_penalty] {
        output.extend(number.to_le_bytes());
    }
    let sizes = [options.top_k as u64, options.repetition_window as u64];
    for number in [sizes[0], sizes[1], options.seed, random, oldest as u64, 0] {
        output.extend(number.to_le_bytes());
    }
    output.extend_from_slice(bytemuck::cast_slice(recent));
    for (token, bias) in &options.logit_bias {
        output.extend(token.to_le_bytes());
        output.extend(bias.to_le_bytes());
    }
}

fn read_sampler(cursor: &mut Cursor, (recent, biased): (usize, usize), model: &Model) -> Result<Sampler> {
    let [temperature, top_p, min_p, repetition_penalty] = std::array::from_fn(|_| cursor.f32());
    let mut options = SamplerOptions {
        temperature,
        top_p,
        min_p,
        repetition_penalty,
        top_k: cursor.size("top-k")?,
        repetition_window: cursor.size("repetition window")?,
        seed: cursor.u64(),
        logit_bias: Vec::new(),
    };
    let (random, oldest, reserved) = (cursor.u64(), cursor.size("oldest recent token")?, cursor.u64());
    let recent: Vec<u32> = numbers(cursor.take(4 * recent)).collect();
    model.check_tokens(&recent)?;
    options.logit_bias = (0..biased).map(|_| (cursor.u32(), cursor.f32())).collect();
    let sampler = Sampler::new(options, model.config().vocabulary)?.restore(random, &recent, oldest);
    sampler
        .filter(|_| reserved == 0)
        .ok_or_else(|| Error::format("session file: its sampler contradicts itself"))
}
