//! The memory that calls are given: structs of any size, and buffers that are no longer than they are said to be.

use std::ptr::null_mut;

/// Bytes of the memory that a struct is given, whatever size it declares; the library refuses larger ones.
const STRUCT: usize = 4096;

/// What a buffer holds where nothing was written.
pub const UNTOUCHED: u8 = 0xa5;

/// Memory for a struct.
pub type Room = Box<[u64; STRUCT / 8]>;

/// Memory for a struct of any declared size.
pub fn room<T>(value: T, size: Option<usize>) -> Room {
    let mut room = Box::new([0; STRUCT / 8]);
    // SAFETY: the room is larger, and aligned for any of the structs.
    unsafe { room.as_mut_ptr().cast::<T>().write(value) };
    if let Some(size) = size {
        room[0] = size as u64;
    }
    room
}

/// A buffer with untouched bytes after it.
pub struct Buffer<T>(pub Vec<T>, usize);

impl<T: Copy> Buffer<T> {
    pub fn new(untouched: T, capacity: usize) -> Buffer<T> {
        Buffer(vec![untouched; capacity + 8], capacity)
    }

    pub fn pointer(&mut self) -> *mut T {
        if self.1 == 0 { null_mut() } else { self.0.as_mut_ptr() }
    }

    pub fn check(&self, written: usize)
    where
        T: PartialEq,
    {
        let untouched = self.0[self.1];
        assert!(written <= self.1 && self.0[written..].iter().all(|value| *value == untouched));
    }
}
