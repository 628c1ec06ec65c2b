//! What a sub-grid's group keeps of the region it belongs to.

use phantom_model::SubgridId;
use serde::{Deserialize, Serialize};

use crate::machine::group::{Kept, Key};
use crate::machine::region::assembly::Seat;
use crate::uri::GridUri;

/// Where the group keeps which region it is.
pub const SITE: &str = "region/site";
/// The newest charter that was seen.
pub const CHARTER: &str = "region/charter";
/// What the site has promised in the region's group.
pub const GROUP: &str = "region/group";
/// Where other sites are.
pub const SEATS: &str = "region/seats";
/// The region's entry in the DNS, as it was proven last.
pub const CACHE: &str = "region/cache";

/// Which region a sub-grid belongs to, or asks to be let into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub uri: GridUri,
    /// Its public key, as it was pinned.
    pub key: [u8; 32],
    /// What the sub-grid is called there.
    pub name: String,
    /// Whether the region was founded from this sub-grid.
    pub founded: bool,
    /// What the sub-grid has signed to be let in, or go.
    pub registration: Vec<u8>,
}

impl Record {
    /// Reads what the group has kept.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }

    /// As it is kept.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain structs of numbers, strings and lists always serialize.
        postcard::to_stdvec(self).unwrap_or_default()
    }
}

/// What a site keeps of the group of one region.
type Memory<T> = (SubgridId, GridUri, Vec<(String, T)>);

/// Reads a site's memory of the group of this region; that of another is none.
pub fn read_group(bytes: &[u8], of: SubgridId, region: &GridUri) -> Kept {
    let mut kept = Kept::default();
    let Ok((subgrid, uri, list)) = postcard::from_bytes::<Memory<Vec<u8>>>(bytes) else {
        return kept;
    };
    if subgrid == of && uri == *region {
        let keyed = |(key, value): (String, Vec<u8>)| Some((key.parse::<Key>().ok()?, value));
        kept.0.extend(list.into_iter().filter_map(keyed));
    }
    kept
}

/// A site's memory of the region's group as it is kept.
pub fn group_bytes(kept: &Kept, of: SubgridId, region: &GridUri) -> Vec<u8> {
    let list = kept.0.iter().map(|(key, value)| (key.to_string(), value)).collect();
    let memory: Memory<&Vec<u8>> = (of, region.clone(), list);
    postcard::to_stdvec(&memory).unwrap_or_default()
}

/// Reads where other sites were.
pub fn read_seats(bytes: &[u8]) -> Vec<Seat> {
    postcard::from_bytes(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_groups_memory_is_read_back_by_the_site_that_wrote_it() {
        let mut kept = Kept::default();
        kept.0.insert(Key::Life, vec![1]);
        kept.0.insert(Key::Entry(12), vec![2; 3]);
        let of = SubgridId([3; 32]);
        let [here, there] =
            ["campus", "other"].map(|it| GridUri::from_name(&format!("{it}.example.org")).unwrap());
        let bytes = group_bytes(&kept, of, &here);
        assert_eq!(read_group(&bytes, of, &here), kept);
        assert_eq!(read_group(&bytes, SubgridId([4; 32]), &here), Kept::default());
        assert_eq!(read_group(&bytes, of, &there), Kept::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let region = GridUri::from_name("campus.example.org").unwrap();
            let _ = read_group(&bytes, SubgridId([0; 32]), &region);
            let _ = (Record::read(&bytes), read_seats(&bytes));
        }
    }
}
