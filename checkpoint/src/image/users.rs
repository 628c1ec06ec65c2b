//! The user namespace of an image: the one place where ids of the machine stand. The rest of an
//! image has inside ids only, so exchanging these few numbers moves a capsule to another range.

use std::fs;
use std::path::Path;

use super::ImageError;
use super::decode::{Messages, encode, malformed, read};
use super::name::{FileKind, FileName};
use super::proto;

/// Ids that stand together inside and outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdExtent {
    /// First id inside the capsule.
    pub inside: u32,
    /// The id it has on the machine.
    pub outside: u32,
    /// How many follow one another.
    pub count: u32,
}

/// The maps of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdMaps {
    /// User ids.
    pub uids: Vec<IdExtent>,
    /// Group ids.
    pub gids: Vec<IdExtent>,
}

fn extents(map: &[proto::Extent]) -> Vec<IdExtent> {
    map.iter()
        .map(|extent| IdExtent {
            inside: extent.first,
            outside: extent.lower_first,
            count: extent.count,
        })
        .collect()
}

fn messages(map: &[IdExtent]) -> Vec<proto::Extent> {
    map.iter()
        .map(|extent| proto::Extent {
            first: extent.inside,
            lower_first: extent.outside,
            count: extent.count,
        })
        .collect()
}

/// The maps in the file `name`, as they stand.
pub(super) fn read_maps(directory: &Path, name: &FileName) -> Result<IdMaps, ImageError> {
    let bytes = read(directory, name)?;
    let namespace: proto::UserNs = Messages::new(name, &bytes)?.one()?;
    Ok(IdMaps { uids: extents(&namespace.uid_map), gids: extents(&namespace.gid_map) })
}

/// Puts this machine's own range in place of the maps of the image in `directory`. Only for an
/// image that was checked: its maps are the home's then, and it has exactly one user namespace.
pub fn rewrite(directory: &Path, id: u32, maps: &IdMaps) -> Result<(), ImageError> {
    let name = FileName::parse(&format!("userns-{id}.img"))?;
    // It must be there: a new file would be a namespace the image does not have.
    read_maps(directory, &name)?;
    let namespace = proto::UserNs { uid_map: messages(&maps.uids), gid_map: messages(&maps.gids) };
    let bytes = encode(FileKind::UserNs, &[namespace])
        .ok_or_else(|| malformed(&name, "its maps are too long".to_owned()))?;
    let path = directory.join(name.as_str());
    fs::write(&path, bytes).map_err(|source| ImageError::File { action: "write", path, source })
}
