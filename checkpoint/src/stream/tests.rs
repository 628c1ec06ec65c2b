use std::fs;
use std::io::Write;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cancel::Cancel;

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_growing_image_arrives_whole() {
    let source = tempfile::tempdir().unwrap();
    let target = tempfile::tempdir().unwrap();
    let (mut reader, completion) =
        ImageReader::follow(source.path(), LIMIT, &Cancel::never()).unwrap();
    let directory = source.path().to_owned();
    let dump = std::thread::spawn(move || {
        let mut pages = fs::File::create(directory.join("pages-1.img")).unwrap();
        for number in 0..40u8 {
            pages.write_all(&vec![number; 100_000]).unwrap();
        }
        fs::write(directory.join("core-1.img"), b"core").unwrap();
        fs::write(directory.join("tty-data.img"), b"").unwrap();
        fs::write(directory.join("stats-dump"), b"not sent").unwrap();
        completion.complete();
    });
    let writer = ImageWriter::new(target.path(), 8_000_000);
    while let Some(extent) = reader.next_extent().unwrap() {
        writer.write(&extent.file, extent.offset, &extent.bytes).unwrap();
    }
    dump.join().unwrap();
    let manifest = reader.into_manifest();
    assert_eq!(manifest.total_bytes(), 4_000_004);
    writer.finish(&manifest).unwrap();
    let arrived = |name: &str| fs::read(target.path().join(name)).unwrap();
    let pages: Vec<u8> = (0..40u8).flat_map(|number| vec![number; 100_000]).collect();
    assert!(arrived("pages-1.img") == pages, "the pages changed on the way");
    assert_eq!(arrived("core-1.img"), b"core");
    assert_eq!(arrived("tty-data.img"), b"");
    // What was sent takes no memory here any more.
    let left = fs::read(source.path().join("pages-1.img")).unwrap();
    assert_eq!((left.len(), left.iter().any(|byte| *byte != 0)), (pages.len(), false));
    assert!(!target.path().join("stats-dump").exists());
}

#[test]
fn a_failed_dump_ends_the_stream() {
    let source = tempfile::tempdir().unwrap();
    let (mut reader, completion) =
        ImageReader::follow(source.path(), LIMIT, &Cancel::never()).unwrap();
    drop(completion);
    assert!(reader.next_extent().unwrap_err().is_cancelled());
}

#[test]
fn hostile_pieces_are_refused() {
    let target = tempfile::tempdir().unwrap();
    let writer = ImageWriter::new(target.path(), 1000);
    let refused = |file: &str, offset: u64, bytes: &[u8]| {
        writer.write(file, offset, bytes).unwrap_err().to_string()
    };
    assert!(refused("../core-1.img", 0, b"x").contains("not expected"));
    assert!(refused("core-1.img", 1000, b"x").contains("larger than"));
    assert!(refused("core-1.img", u64::MAX, b"x").contains("larger than"));
    assert!(refused("core-1.img", 0, b"").contains("0 bytes"));
    writer.write("core-1.img", 10, b"0123456789").unwrap();
    for offset in [5, 10, 15, 19] {
        assert!(refused("core-1.img", offset, b"012345").contains("overlap"), "{offset}");
    }
    writer.write("core-1.img", 20, b"x").unwrap();
    let file = |size| ImageFile { name: "core-1.img".into(), size, digest: Some([0; 32]) };
    let manifest = ImageManifest { files: vec![file(21)] };
    assert!(writer.finish(&manifest).unwrap_err().to_string().contains("whole"));
}

#[test]
fn a_link_in_place_of_a_file_is_not_followed() {
    let target = tempfile::tempdir().unwrap();
    let outside = target.path().join("outside");
    fs::write(&outside, b"old").unwrap();
    std::os::unix::fs::symlink(&outside, target.path().join("core-1.img")).unwrap();
    let writer = ImageWriter::new(target.path(), 1000);
    assert!(writer.write("core-1.img", 0, b"new").is_err());
    assert_eq!(fs::read(&outside).unwrap(), b"old");
}

use phantom_model::handoff::{ImageFile, ImageManifest};

proptest! {
    /// In whatever order the pieces come, the file is complete exactly when all have come.
    #[test]
    fn order_does_not_matter(mut cuts in prop::collection::btree_set(1u64..2000, 0..20),
                             order in any::<u64>(), missing in prop::option::of(0usize..20)) {
        let content: Vec<u8> = (0..2000u32).map(|number| number as u8).collect();
        cuts.insert(0);
        let mut pieces: Vec<(u64, u64)> = cuts
            .iter()
            .zip(cuts.iter().skip(1).chain([&2000]))
            .map(|(&start, &end)| (start, end))
            .collect();
        let mut seed = order;
        for index in (1..pieces.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            pieces.swap(index, (seed >> 33) as usize % (index + 1));
        }
        let missing = missing.filter(|&index| index < pieces.len());
        if let Some(index) = missing {
            pieces.remove(index);
        }
        let target = tempfile::tempdir().unwrap();
        let writer = ImageWriter::new(target.path(), 2000);
        for &(start, end) in &pieces {
            writer.write("core-1.img", start, &content[start as usize..end as usize]).unwrap();
        }
        let file = ImageFile {
            name: "core-1.img".into(),
            size: 2000,
            digest: Some(*blake3::hash(&content).as_bytes()),
        };
        let finished = writer.finish(&ImageManifest { files: vec![file] });
        prop_assert_eq!(finished.is_ok(), missing.is_none());
    }
}
