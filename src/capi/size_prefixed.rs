//! Structs that begin with their size, so that a program and a library of different versions can work together.

use super::boundary::quietly;
use super::failure::Failure;

/// A struct that begins with its size.
///
/// # Safety
/// The type is `repr(C)`, begins with a `usize` field `size`, is valid for any bytes (no references, enums or `bool`;
/// function pointers are an `Option`), and has no padding, so that all of its bytes are initialized.
pub(super) unsafe trait SizePrefixed: Copy {
    /// The values of a program that sets nothing.
    fn initial() -> Self;
}

/// Implements [`SizePrefixed`] for a type with the given bytes on 64-bit machines and the given values.
macro_rules! size_prefixed {
    ($type:ident, $bytes:literal, $($field:ident: $value:expr),* $(,)?) => {
        const _: () = assert!(size_of::<usize>() != 8 || size_of::<$type>() == $bytes);

        // SAFETY: the fields are numbers, pointers and optional functions, and the assertion above counts their bytes.
        unsafe impl crate::capi::size_prefixed::SizePrefixed for $type {
            fn initial() -> Self {
                $type { size: size_of::<Self>(), $($field: $value),* }
            }
        }
    };
}
pub(super) use size_prefixed;

/// More bytes than a struct of any version has.
const MAX_SIZE: usize = 4096;

/// Whether a struct of some version can have a size. Every version ends on a word, so that no field is ever cut.
fn is_size(size: usize) -> bool {
    let word = size_of::<usize>();
    (word..=MAX_SIZE).contains(&size) && size.is_multiple_of(word)
}

/// The size at the beginning of a struct.
///
/// # Safety
/// `pointer` is valid for reads of a `usize`.
unsafe fn size_of_given<T>(pointer: *const T, name: &'static str) -> Result<usize, Failure> {
    // SAFETY: the caller's promise; every such struct begins with its size.
    let size = unsafe { pointer.cast::<usize>().read_unaligned() };
    if is_size(size) {
        return Ok(size);
    }
    let detail = format!("found size {size}, expected {} (set it with the _init function)", size_of::<T>());
    Err(Failure::argument(name, detail))
}

/// Options as this version knows them. Fields that an older program lacks have their defaults; bytes that this version
/// does not know must be zero.
///
/// # Safety
/// Null, or valid for reads of the size at the beginning of the struct.
pub(super) unsafe fn read<T: SizePrefixed>(pointer: *const T, name: &'static str) -> Result<T, Failure> {
    let mut options = T::initial();
    if pointer.is_null() {
        return Ok(options);
    }
    // SAFETY: not null, and valid for at least the size.
    let size = unsafe { size_of_given(pointer, name) }?;
    let known = size.min(size_of::<T>());
    // SAFETY: valid for `size` bytes by the caller's promise.
    let rest = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(known), size - known) };
    if rest.iter().any(|&byte| byte != 0) {
        return Err(Failure::argument(name, "found a field that this version of the library does not know"));
    }
    // SAFETY: both are valid for `known` bytes, and any bytes make a valid `T` (the trait).
    unsafe { std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), (&raw mut options).cast::<u8>(), known) };
    Ok(options)
}

/// Writes a result to the fields that the program knows, and zeros after the fields that this version knows.
///
/// # Safety
/// Null, or valid for writes of the size at the beginning of the struct.
pub(super) unsafe fn write<T: SizePrefixed>(
    pointer: *mut T,
    value: &T,
    name: &'static str,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let size = unsafe { check(pointer, name) }?;
    // SAFETY: valid for `size` bytes, by the caller's promise.
    unsafe { fill(pointer, value, size) };
    Ok(())
}

/// Fills `size` bytes except the size itself.
///
/// # Safety
/// `pointer` is valid for writes of `size` bytes, a size that [`is_size`] accepts.
unsafe fn fill<T: SizePrefixed>(pointer: *mut T, value: &T, size: usize) {
    let (word, known) = (size_of::<usize>(), size.min(size_of::<T>()));
    let (to, from) = (pointer.cast::<u8>(), (&raw const *value).cast::<u8>());
    // SAFETY: `word <= known <= size`; `value` is initialized in every byte (the trait) and has at least `known`.
    unsafe {
        std::ptr::copy_nonoverlapping(from.add(word), to.add(word), known - word);
        std::ptr::write_bytes(to.add(known), 0, size - known);
    }
}

/// Checks, before the work is done, that its result can be written; gives the size of the struct. Null is refused.
///
/// # Safety
/// Null, or valid for reads of a `usize`.
pub(super) unsafe fn check<T: SizePrefixed>(pointer: *const T, name: &'static str) -> Result<usize, Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(name, "found null, expected a struct for the result"));
    }
    // SAFETY: not null, and the caller's promise.
    unsafe { size_of_given(pointer, name) }
}

/// The body of the `_init` functions. Ignores null and a size that no version has.
///
/// # Safety
/// Null, or valid for writes of `size` bytes.
pub(super) unsafe fn initialize<T: SizePrefixed>(pointer: *mut T, size: usize) {
    quietly((), || {
        if pointer.is_null() || !is_size(size) {
            return;
        }
        // SAFETY: not null and valid for `size` bytes, which are at least a word.
        unsafe {
            pointer.cast::<usize>().write_unaligned(size);
            fill(pointer, &T::initial(), size);
        }
    });
}
