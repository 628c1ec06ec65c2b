//! From the bytes of an image file to its messages. Nothing here panics or allocates more than the
//! file's own size, whatever the bytes are.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use prost::Message;

use super::ImageError;
use super::name::{FileKind, FileName};

/// Longest file that is decoded; page data is never decoded.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most messages in one file.
const MAX_MESSAGES: usize = 200_000;

/// First word of most image files, little-endian.
const COMMON_MAGIC: u32 = 0x5456_4319;

/// The second word of a file of this kind (the first one of an inventory).
fn magic(kind: FileKind) -> Option<u32> {
    Some(match kind {
        FileKind::Inventory => 0x5831_3116,
        FileKind::Pstree => 0x5027_3030,
        FileKind::Seccomp => 0x6441_3049,
        FileKind::Files => 0x5630_3138,
        FileKind::FdInfo => 0x5621_3732,
        FileKind::Ids => 0x5443_2030,
        FileKind::Core => 0x5505_3847,
        FileKind::Mm => 0x5749_2820,
        FileKind::Fs => 0x5140_3912,
        FileKind::TtyInfo => 0x5945_3036,
        FileKind::UtsNs => 0x5447_3203,
        FileKind::UserNs => 0x5547_4906,
        FileKind::Mountpoints => 0x5556_3928,
        FileKind::NetNs => 0x5593_3752,
        FileKind::PidNs => 0x6115_7326,
        FileKind::RemapPaths => 0x5913_3954,
        FileKind::GhostFile => 0x5258_3605,
        FileKind::MemfdInodes => 0x4845_3499,
        _ => return None,
    })
}

/// The messages of one file.
pub struct Messages<'a> {
    name: &'a FileName,
    rest: &'a [u8],
    count: usize,
}

impl<'a> Messages<'a> {
    /// Checks the head of `bytes`, the content of the file `name`.
    pub fn new(name: &'a FileName, bytes: &'a [u8]) -> Result<Self, ImageError> {
        let wanted = magic(name.kind())
            .ok_or_else(|| malformed(name, "its kind is not decoded".to_owned()))?;
        let mut rest = bytes;
        let mut first = word(name, &mut rest)?;
        if name.kind() != FileKind::Inventory {
            if first != COMMON_MAGIC {
                return Err(malformed(name, format!("it starts with {first:#x}")));
            }
            first = word(name, &mut rest)?;
        }
        if first != wanted {
            return Err(malformed(name, format!("its magic is {first:#x}, not {wanted:#x}")));
        }
        Ok(Self { name, rest, count: 0 })
    }

    /// The next message; `None` at the end.
    pub fn next_message<M: Message + Default>(&mut self) -> Result<Option<M>, ImageError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.count += 1;
        if self.count > MAX_MESSAGES {
            return Err(malformed(self.name, format!("more than {MAX_MESSAGES} entries")));
        }
        let length = word(self.name, &mut self.rest)? as usize;
        if length > self.rest.len() {
            let left = self.rest.len();
            return Err(malformed(self.name, format!("an entry of {length} bytes, {left} left")));
        }
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest;
        M::decode(bytes)
            .map(Some)
            .map_err(|error| malformed(self.name, format!("entry {}: {error}", self.count)))
    }

    /// All messages of a file that holds one kind.
    pub fn all<M: Message + Default>(mut self) -> Result<Vec<M>, ImageError> {
        let mut messages = Vec::new();
        while let Some(message) = self.next_message()? {
            messages.push(message);
        }
        Ok(messages)
    }

    /// The message of a file that holds exactly one.
    pub fn one<M: Message + Default>(mut self) -> Result<M, ImageError> {
        let message = self.next_message()?;
        match (message, self.rest.is_empty()) {
            (Some(message), true) => Ok(message),
            (None, _) => Err(malformed(self.name, "it holds nothing".to_owned())),
            (_, false) => Err(malformed(self.name, "it holds more than one entry".to_owned())),
        }
    }
}

fn word(name: &FileName, rest: &mut &[u8]) -> Result<u32, ImageError> {
    let (bytes, after) = rest
        .split_first_chunk::<4>()
        .ok_or_else(|| malformed(name, "it ends in the middle of a number".to_owned()))?;
    *rest = after;
    Ok(u32::from_le_bytes(*bytes))
}

pub(super) fn malformed(name: &FileName, reason: String) -> ImageError {
    ImageError::Malformed { file: name.as_str().to_owned(), reason }
}

/// The content of an image file that is decoded.
pub fn read(directory: &Path, name: &FileName) -> Result<Vec<u8>, ImageError> {
    let path = directory.join(name.as_str());
    let error = |source| ImageError::File { action: "read", path: path.clone(), source };
    let file = File::open(&path).map_err(error)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(malformed(name, format!("it is longer than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

/// A whole file of one message kind as CRIU writes it.
pub fn encode<M: Message>(kind: FileKind, messages: &[M]) -> Option<Vec<u8>> {
    let magic = magic(kind)?;
    let mut bytes = Vec::new();
    if kind != FileKind::Inventory {
        bytes.extend_from_slice(&COMMON_MAGIC.to_le_bytes());
    }
    bytes.extend_from_slice(&magic.to_le_bytes());
    for message in messages {
        let length = u32::try_from(message.encoded_len()).ok()?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&message.encode_to_vec());
    }
    Some(bytes)
}
