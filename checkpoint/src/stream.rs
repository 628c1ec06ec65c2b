//! An image on its way: read at the source while CRIU still writes it, written at the target.
//!
//! CRIU appends the pages of one process after the other to `pages-*.img` on a tmpfs. The
//! [`ImageReader`] follows these files as they grow, so that most of an image has left before the
//! dump is over; the small files are final only at the end and follow then, and the manifest with
//! all sizes and digests closes the stream.
//!
//! The [`ImageWriter`] trusts nothing: names come from a fixed set, extents may arrive in any
//! order but each byte exactly once and within the agreed total, and the manifest must account for
//! everything.

mod reader;
mod writer;

pub use reader::{Completion, ImageReader};
pub use writer::ImageWriter;

/// A piece of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Which file.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What stands there; never empty.
    pub bytes: Vec<u8>,
}

/// Most bytes in one [`Extent`].
pub const MAX_EXTENT_BYTES: usize = 1 << 20;
/// Most files in one image.
pub const MAX_FILES: usize = 20_000;

#[cfg(test)]
mod tests;
