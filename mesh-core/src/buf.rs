//! Payload buffers: 4 KiB-aligned, pooled, cheap to share, without copies on the way from the network to a drive.
//!
//! A copy of a payload costs more than encrypting it, coding it and checking it together. So a payload is one [`Buf`]
//! from the ingress to the drive: slices share the memory, and what must grow has room behind it.

use core::{fmt, ops};
use std::sync::{Arc, Mutex, Weak};

use crate::limits::{ALIGNMENT_BYTES, POOL_CLASS_BYTES_MAX, POOL_CLASS_BYTES_MIN, POOL_IDLE_BYTES_MAX};

/// A view of a shared, 4 KiB-aligned piece of memory. Cloning and slicing copy nothing.
#[derive(Clone, Default)]
pub struct Buf {
    slab: Option<Arc<Slab>>,
    start: usize,
    len: usize,
}

/// Aligned memory that goes back to its pool when the last [`Buf`] over it is dropped.
struct Slab {
    memory: Vec<u8>,
    /// Where the aligned part begins in `memory`.
    origin: usize,
    room: usize,
    pool: Weak<Shelves>,
}

impl Drop for Slab {
    fn drop(&mut self) {
        if let Some(shelves) = self.pool.upgrade() {
            shelves.put(core::mem::take(&mut self.memory));
        }
    }
}

impl Slab {
    fn new(memory: Vec<u8>, pool: Weak<Shelves>) -> Self {
        let origin = memory.as_ptr().align_offset(ALIGNMENT_BYTES);
        let room = memory.len() - origin;
        Self { memory, origin, room, pool }
    }
}

impl Buf {
    /// No bytes, no memory.
    #[must_use]
    pub const fn empty() -> Self {
        Self { slab: None, start: 0, len: 0 }
    }

    /// `len` zero bytes outside any pool, aligned.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let slab = Slab::new(vec![0; len + ALIGNMENT_BYTES], Weak::new());
        Self { slab: Some(Arc::new(slab)), start: 0, len }
    }

    /// A copy of `bytes`, aligned.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::empty();
        }
        let mut buf = Self::zeroed(bytes.len());
        if let Some(target) = buf.as_mut() {
            target.copy_from_slice(bytes);
        }
        buf
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How long this view could become without moving: the memory behind its start.
    #[must_use]
    pub fn room(&self) -> usize {
        self.slab.as_ref().map_or(0, |slab| slab.room - self.start)
    }

    /// A view of a part, sharing the memory.
    ///
    /// # Panics
    /// If the range ends behind the end or begins behind its own end.
    #[must_use]
    pub fn slice(&self, range: impl ops::RangeBounds<usize>) -> Self {
        let start = match range.start_bound() {
            ops::Bound::Included(&at) => at,
            ops::Bound::Excluded(&at) => at + 1,
            ops::Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            ops::Bound::Included(&at) => at + 1,
            ops::Bound::Excluded(&at) => at,
            ops::Bound::Unbounded => self.len,
        };
        assert!(start <= end && end <= self.len, "slice {start}..{end} of a buffer of {} bytes", self.len);
        Self { slab: self.slab.clone(), start: self.start + start, len: end - start }
    }

    /// The bytes for writing, if nobody else shares the memory.
    pub fn as_mut(&mut self) -> Option<&mut [u8]> {
        let (start, len) = (self.start, self.len);
        let Some(slab) = self.slab.as_mut() else { return Some(&mut []) };
        let slab = Arc::get_mut(slab)?;
        let from = slab.origin + start;
        slab.memory.get_mut(from..from + len)
    }

    /// The bytes for writing; copies them first if the memory is shared.
    pub fn make_mut(&mut self) -> &mut [u8] {
        if self.as_mut().is_none() {
            *self = Self::copy_of(self);
        }
        self.as_mut().expect("a fresh copy is not shared")
    }

    /// Shortens the view; does nothing if it is not longer than `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Lengthens the view to `len` bytes, the new ones zero. Moves nothing if the memory is not shared and has room,
    /// else copies.
    pub fn grow_zeroed(&mut self, len: usize) {
        let old = self.len;
        if len <= old {
            return;
        }
        let movable = len > self.room() || self.slab.as_mut().is_none_or(|slab| Arc::get_mut(slab).is_none());
        if movable {
            let mut grown = Self::zeroed(len);
            grown.as_mut().expect("fresh memory is not shared")[..old].copy_from_slice(self);
            *self = grown;
        } else {
            self.len = len;
            self.as_mut().expect("checked above")[old..].fill(0);
        }
    }

    /// Whether the first byte lies on an `ALIGNMENT_BYTES` boundary, as O_DIRECT wants it.
    #[must_use]
    pub fn is_aligned(&self) -> bool {
        self.start.is_multiple_of(ALIGNMENT_BYTES)
    }

    /// The same memory as [`bytes::Bytes`], for libraries that speak it. Copies nothing.
    #[must_use]
    pub fn into_bytes(self) -> bytes::Bytes {
        if self.is_empty() { bytes::Bytes::new() } else { bytes::Bytes::from_owner(self) }
    }
}

impl AsRef<[u8]> for Buf {
    fn as_ref(&self) -> &[u8] {
        match &self.slab {
            Some(slab) => {
                let from = slab.origin + self.start;
                &slab.memory[from..from + self.len]
            }
            None => &[],
        }
    }
}

impl ops::Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl PartialEq for Buf {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for Buf {}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.len)
    }
}

impl From<&[u8]> for Buf {
    fn from(bytes: &[u8]) -> Self {
        Self::copy_of(bytes)
    }
}

/// A pool of aligned memory in classes, eight between two powers of two, so that a class is at most an eighth larger than
/// what is asked of it: memory that was used is touched to its end. Clones share one pool.
#[derive(Clone, Default)]
pub struct Pool(Arc<Shelves>);

#[derive(Default)]
struct Shelves(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    /// By the size of the class.
    classes: std::collections::BTreeMap<usize, Shelf>,
    bytes: usize,
}

/// What lies idle of one class.
#[derive(Default)]
struct Shelf {
    memory: Vec<Vec<u8>>,
    /// The fewest that lay here since the last trim: so many nobody has needed.
    fewest: usize,
}

impl Shelf {
    fn take(&mut self) -> Option<Vec<u8>> {
        let memory = self.memory.pop();
        self.fewest = self.fewest.min(self.memory.len());
        memory
    }
}

impl Shelves {
    fn put(&self, memory: Vec<u8>) {
        let size = memory.len().saturating_sub(ALIGNMENT_BYTES);
        if class(size) != size || !(POOL_CLASS_BYTES_MIN..=POOL_CLASS_BYTES_MAX).contains(&size) {
            return;
        }
        let Ok(mut idle) = self.0.lock() else { return };
        if idle.bytes + size <= POOL_IDLE_BYTES_MAX {
            idle.bytes += size;
            idle.classes.entry(size).or_default().memory.push(memory);
        }
    }
}

impl Pool {
    /// A buffer of `len` bytes with at least `spare` bytes of room behind them. **Its contents are unspecified** (they
    /// may be those of an earlier, unrelated payload): the taker must write every byte.
    #[must_use]
    pub fn take(&self, len: usize, spare: usize) -> Buf {
        let size = class(len + spare);
        if size > POOL_CLASS_BYTES_MAX {
            let slab = Slab::new(vec![0; len + spare + ALIGNMENT_BYTES], Weak::new());
            return Buf { slab: Some(Arc::new(slab)), start: 0, len };
        }
        let idle = self.0.0.lock().ok().and_then(|mut idle| {
            let memory = idle.classes.get_mut(&size)?.take()?;
            idle.bytes -= size;
            Some(memory)
        });
        let memory = idle.unwrap_or_else(|| vec![0; size + ALIGNMENT_BYTES]);
        Buf { slab: Some(Arc::new(Slab::new(memory, Arc::downgrade(&self.0)))), start: 0, len }
    }

    /// Gives half of what nobody has needed since the last trim back to the allocator. Called every now and then, an idle
    /// pool becomes empty.
    pub fn trim(&self) {
        self.give_up(|shelf, _| {
            let unneeded = shelf.fewest.div_ceil(2).min(shelf.memory.len());
            shelf.fewest = shelf.memory.len() - unneeded;
            unneeded
        });
    }

    /// Keeps at most so many bytes for now, and gives the rest back to the allocator.
    pub fn keep(&self, bytes: usize) {
        if self.idle_bytes() > bytes {
            self.give_up(|shelf, (size, idle)| idle.saturating_sub(bytes).div_ceil(size).min(shelf.memory.len()));
        }
    }

    /// Takes as many as `count` says from every class, the largest first, given the class's size and what lies idle.
    fn give_up(&self, count: impl Fn(&mut Shelf, (usize, usize)) -> usize) {
        // Freed once the lock is.
        let mut given_up = Vec::new();
        let Ok(mut idle) = self.0.0.lock() else { return };
        let idle = &mut *idle;
        for (&size, shelf) in idle.classes.iter_mut().rev() {
            let count = count(shelf, (size, idle.bytes));
            given_up.extend(shelf.memory.drain(shelf.memory.len() - count..));
            shelf.fewest = shelf.fewest.min(shelf.memory.len());
            idle.bytes -= count * size;
        }
    }

    /// How many bytes lie idle in the pool.
    #[must_use]
    pub fn idle_bytes(&self) -> usize {
        self.0.0.lock().map_or(0, |idle| idle.bytes)
    }
}

/// Memory above this comes in finer classes.
const LARGE_BYTES: usize = 1 << 20;

/// The smallest class that has room for so many bytes.
const fn class(bytes: usize) -> usize {
    if bytes <= POOL_CLASS_BYTES_MIN {
        return POOL_CLASS_BYTES_MIN;
    }
    // Of large ones, which weigh, less is left over.
    let parts = if bytes > LARGE_BYTES { 64 } else { 16 };
    let step = bytes.next_power_of_two() / parts;
    bytes.next_multiple_of(if step > ALIGNMENT_BYTES { step } else { ALIGNMENT_BYTES })
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} B idle)", self.idle_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_memory_and_forbid_writing() {
        let mut whole = Buf::copy_of(b"abcdef");
        let part = whole.slice(2..4);
        assert_eq!(&part[..], b"cd");
        assert!(whole.as_mut().is_none());
        drop(part);
        assert!(whole.as_mut().is_some());
    }

    #[test]
    fn memory_returns_to_the_pool_and_is_aligned() {
        let pool = Pool::default();
        let buf = pool.take(100_000, 4096);
        assert!(buf.is_aligned());
        assert!(buf.room() >= 104_096);
        assert_eq!((buf.as_ptr() as usize) % ALIGNMENT_BYTES, 0);
        drop(buf);
        assert_eq!(pool.idle_bytes(), 106_496);
        let again = pool.take(106_496, 0);
        assert_eq!(pool.idle_bytes(), 0);
        assert_eq!(again.len(), 106_496);
    }

    #[test]
    fn a_class_is_at_most_an_eighth_larger_than_what_is_asked_of_it() {
        assert_eq!([0, 1, 4096, 4097, 65_537].map(class), [4096, 4096, 4096, 8192, 73_728]);
        for bytes in (32_768..=POOL_CLASS_BYTES_MAX).step_by(4093) {
            let size = class(bytes);
            assert!(size >= bytes && (size - bytes) * 8 <= bytes && class(size) == size, "{bytes}: {size}");
        }
        assert_eq!(class(POOL_CLASS_BYTES_MAX), POOL_CLASS_BYTES_MAX);
    }

    #[test]
    fn what_nobody_needs_is_given_up_and_what_is_used_stays() {
        let pool = Pool::default();
        drop((0..8).map(|_| pool.take(4096, 0)).collect::<Vec<_>>());
        pool.trim();
        assert_eq!(pool.idle_bytes(), 8 * 4096, "all were in use until now");
        // Three at a time are in use between any two trims.
        let left: Vec<usize> = (0..6)
            .map(|_| {
                drop((0..3).map(|_| pool.take(4096, 0)).collect::<Vec<_>>());
                pool.trim();
                pool.idle_bytes() / 4096
            })
            .collect();
        assert_eq!(left, [5, 4, 3, 3, 3, 3]);
        let idle: Vec<usize> = (0..4)
            .map(|_| {
                pool.trim();
                pool.idle_bytes() / 4096
            })
            .collect();
        assert_eq!(idle, [1, 0, 0, 0]);
    }

    #[test]
    fn a_pool_keeps_as_much_as_it_is_told() {
        let pool = Pool::default();
        drop((pool.take(4096, 0), pool.take(8192, 0), pool.take(8192, 0)));
        pool.keep(usize::MAX);
        assert_eq!(pool.idle_bytes(), 5 * 4096);
        pool.keep(3 * 4096);
        assert_eq!(pool.idle_bytes(), 3 * 4096);
        pool.keep(1);
        assert_eq!(pool.idle_bytes(), 0);
    }

    #[test]
    fn growing_zeroes_what_is_new() {
        let pool = Pool::default();
        let mut dirty = pool.take(8192, 0);
        dirty.make_mut().fill(7);
        drop(dirty);
        let mut buf = pool.take(10, 100);
        buf.make_mut().fill(1);
        buf.grow_zeroed(20);
        assert_eq!(&buf[..], &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let shared = buf.clone();
        buf.grow_zeroed(30);
        assert_eq!((shared.len(), buf.len(), buf[29]), (20, 30, 0));
    }
}
