//! The state of a session as bytes: versioned, bound to its model, checked before anything is believed.
//!
//! Little-endian: the header of 64 bytes, the context of the last block (f32), the tokens of the open block (u32),
//! what the cache remembers ([`crate::cache`]), the sampler if there is one, and the CRC-32 of all that.
//! `docs/format.md` has the layout. A session that was loaded gives the logits that the saved one would have
//! given, to the bit on the same instruction set. What the token decoder has seen of the open block is not kept: it is
//! computed again from the block's tokens.
//!
//! The header alone decides how many bytes there must be, so a file that lies is refused before memory is
//! allocated for it.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use crate::cache::{Cache, CacheShape, CacheType};
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::model::{BlockDecoder, Model};
use crate::sampler::{MAX_WINDOW, Sampler, SamplerOptions};
use crate::sequence::SessionOptions;
use crate::session::Session;
use crate::threads::Team;

const MAGIC: &[u8; 8] = b"CINDERSN";
/// The only version that is read and written.
pub const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
/// Bytes of a sampler without its recent tokens.
const SAMPLER_BYTES: usize = 64;
/// More positions than anything will ever see, and small enough that counting them cannot overflow.
const MAX_BLOCKS: u64 = 1 << 48;
const CACHE_TYPES: [(u32, CacheType); 2] = [(0, CacheType::F32), (1, CacheType::F16)];

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
}

/// Takes little-endian numbers from bytes that are known to be enough.
struct Cursor<'b>(&'b [u8]);

impl<'b> Cursor<'b> {
    fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn number<const N: usize>(&mut self) -> [u8; N] {
        let (number, rest) = self.0.split_first_chunk().expect("the length was checked");
        self.0 = rest;
        *number
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.number())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.number())
    }

    fn size(&mut self, what: &str) -> Result<usize> {
        let value = self.u64();
        usize::try_from(value)
            .map_err(|_| Error::mismatch(what, value, "a size that this machine can address"))
    }

    fn f32(&mut self) -> f32 {
        f32::from_le_bytes(self.number())
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
        let code = cursor.u32();
        let kind = CACHE_TYPES.iter().find(|kind| kind.0 == code);
        let header = Header {
            cache_type: kind.ok_or_else(|| Error::mismatch("cache type", code, "0 (f32) or 1 (f16)"))?.1,
            fingerprint: cursor.u64(),
            model_bytes: cursor.u64(),
            cache_blocks: cursor.size("cache blocks")?,
            sink_blocks: cursor.size("pinned blocks")?,
            length: cursor.u64(),
            open: cursor.u32() as usize,
            recent: cursor.u32().checked_sub(1).map(|count| count as usize),
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
        // Only a text's first block is filled up from the left, so no sequence begins with an open block.
        let most = if header.length == 0 { 0 } else { most };
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
        Ok(header)
    }

    fn of(session: &Session, sampler: Option<&Sampler>) -> Header {
        let (cache, _, open) = session.sequence().state();
        let shape = cache.shape();
        Header {
            cache_type: cache.kind(),
            fingerprint: session.model().fingerprint(),
            model_bytes: session.model().file_bytes() as u64,
            cache_blocks: shape.sinks + shape.window,
            sink_blocks: shape.sinks,
            length: cache.length(),
            open: open.len(),
            recent: sampler.map(|sampler| sampler.state().1.len()),
        }
    }

    fn write(&self, output: &mut Vec<u8>) {
        let code = CACHE_TYPES.iter().find(|kind| kind.1 == self.cache_type).map_or(u32::MAX, |kind| kind.0);
        output.extend(MAGIC);
        output.extend(VERSION.to_le_bytes());
        output.extend(code.to_le_bytes());
        let sizes = [self.cache_blocks as u64, self.sink_blocks as u64];
        for number in [self.fingerprint, self.model_bytes, sizes[0], sizes[1], self.length] {
            output.extend(number.to_le_bytes());
        }
        output.extend((self.open as u32).to_le_bytes());
        output.extend((self.recent.map_or(0, |count| count + 1) as u32).to_le_bytes());
    }

    fn shape(&self, model: &Model) -> Result<CacheShape> {
        let window = self.cache_blocks.checked_sub(self.sink_blocks).filter(|&window| window > 0);
        let window = window.ok_or_else(|| {
            let expected = format!("more than the {} pinned ones", self.sink_blocks);
            Error::mismatch("cache blocks", self.cache_blocks, expected)
        })?;
        Ok(BlockDecoder::cache_shape(model.config(), self.sink_blocks, window))
    }

    /// Bytes of context, open block, cache, sampler.
    fn parts(&self, model: &Model) -> Result<[u64; 4]> {
        let shape = self.shape(model)?;
        let positions = Cache::remembered(&shape, self.length);
        let position = Cache::position_bytes(&shape, self.cache_type) as u64;
        let cache = positions.checked_mul(position).filter(|&bytes| bytes < 1 << 62);
        Ok([
            if self.length == 0 { 0 } else { 4 * model.config().block_decoder.hidden as u64 },
            4 * self.open as u64,
            cache.ok_or_else(|| Error::format("session file: its cache overflows"))?,
            self.recent.map_or(0, |recent| (SAMPLER_BYTES + 4 * recent) as u64),
        ])
    }

    /// Bytes of the whole file, the header and the checksum included.
    fn total(&self, model: &Model) -> Result<u64> {
        Ok(self.parts(model)?.iter().sum::<u64>() + HEADER_BYTES as u64 + 4)
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
        let (cache, context, open) = session.sequence().state();
        if header.length > 0 {
            bytes.extend_from_slice(bytemuck::cast_slice(context));
        }
        bytes.extend_from_slice(bytemuck::cast_slice(open));
        cache.write(&mut bytes);
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
            cache_blocks: self.header.cache_blocks,
            sink_blocks: self.header.sink_blocks,
            cache_type: Some(self.header.cache_type),
        }
    }

    /// The session, and its sampler if that was saved. `model` is the one that the snapshot was checked against.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, the sampler contradicts itself, or the cache cannot be allocated.
    pub fn restore(&self, model: &Arc<Model>, team: &Arc<Team>) -> Result<(Session, Option<Sampler>)> {
        let [context, open, cache, _] = self.header.parts(model)?.map(|bytes| bytes as usize);
        let mut cursor = Cursor(&self.bytes[HEADER_BYTES..]);
        let context = cursor.take(context);
        let open: Vec<u32> = numbers(cursor.take(open));
        let cache = cursor.take(cache);
        model.check_tokens(&open)?;
        let sampler =
            self.header.recent.map(|recent| read_sampler(&mut cursor, recent, model)).transpose()?;
        let mut session = Session::new(model, team, &self.options())?;
        session.sequence_mut().restore(open.into_iter(), |blocks, stream| {
            bytemuck::cast_slice_mut::<f32, u8>(stream)[..context.len()].copy_from_slice(context);
            blocks.read(self.header.length, cache);
        });
        Ok((session, sampler))
    }
}

fn numbers(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
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
}

fn read_sampler(cursor: &mut Cursor, recent: usize, model: &Model) -> Result<Sampler> {
    let [temperature, top_p, min_p, repetition_penalty] = std::array::from_fn(|_| cursor.f32());
    let options = SamplerOptions {
        temperature,
        top_p,
        min_p,
        repetition_penalty,
        top_k: cursor.size("top-k")?,
        repetition_window: cursor.size("repetition window")?,
        seed: cursor.u64(),
    };
    let (random, oldest, reserved) = (cursor.u64(), cursor.size("oldest recent token")?, cursor.u64());
    let recent = numbers(cursor.take(4 * recent));
    model.check_tokens(&recent)?;
    let sampler = Sampler::new(options, model.config().vocabulary)?.restore(random, &recent, oldest);
    sampler
        .filter(|_| reserved == 0)
        .ok_or_else(|| Error::format("session file: its sampler contradicts itself"))
}
