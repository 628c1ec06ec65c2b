//! Real capsules, saved and restored by the real CRIU.

mod common;

use std::path::Path;

use common::{App, PATIENCE, Place, Target, criu};
use phantom_checkpoint::dump::dump;
use phantom_checkpoint::image::{check::check, users};
use phantom_checkpoint::restore::restore;
use phantom_checkpoint::stream::{ImageReader, ImageWriter};
use phantom_checkpoint::{Cancel, Criu};

/// Saves `app` and streams the image into `images`, as two nodes would.
fn save(criu: &Criu, app: &App, place: &Place, images: &Path) {
    let (source, work) = (place.memory(), place.memory());
    app.cgroup.freeze(PATIENCE).unwrap();
    let never = Cancel::never();
    let (mut reader, completion) = ImageReader::follow(source.path(), PATIENCE, &never).unwrap();
    let plan = app.dump_plan(source.path(), work.path());
    let manifest = std::thread::scope(|scope| {
        let dumping = scope.spawn(|| {
            let result = dump(criu, &plan, &never);
            if result.is_ok() {
                completion.complete();
            }
            result
        });
        let writer = ImageWriter::new(images, 4 << 30);
        let mut failed = None;
        loop {
            match reader.next_extent() {
                Ok(Some(extent)) => {
                    writer.write(&extent.file, extent.offset, &extent.bytes).unwrap();
                }
                Ok(None) => break,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let timings = dumping.join().unwrap().unwrap();
        assert!(failed.is_none(), "{failed:?}");
        println!("{timings:?}");
        let manifest = reader.into_manifest();
        writer.finish(&manifest).unwrap();
        manifest
    });
    assert!(manifest.total_bytes() > 0);
}

#[test]
fn a_program_moves_to_another_root_and_other_ids() {
    let Some(criu) = criu("a_program_moves_to_another_root_and_other_ids") else {
        return;
    };
    let place = Place::new();
    let mut app = App::start(&place.home(), &["/bin/sh"]);
    app.screen.expect("$ ");
    app.screen.type_keys("echo private > /tmp/file; state=kept\n");
    app.screen.expect("$ ");
    let (images, work) = (place.memory(), place.memory());
    save(&criu, &app, &place, images.path());
    let checked = check(images.path(), &app.allowed()).unwrap();
    assert_eq!(checked.processes, 2);
    let mut target = Target::new(&app);
    users::rewrite(images.path(), checked.user_ns, &target.maps).unwrap();
    let plan = target.restore_plan(&app, images.path(), work.path());
    let held = restore(&criu, &plan, &Cancel::never()).unwrap();
    println!("{:?}", held.timings());
    target.pid = Some(held.root_pid());
    // The source must not have lived on in between.
    assert!(app.screen.output.is_empty());
    held.resume().unwrap();
    target.screen.type_keys("cat /tmp/file; echo $state; id -u; tty; cat /proc/self/uid_map\n");
    target.screen.expect("private\r\nkept\r\n1000\r\n/dev/console\r\n");
    let outside = target.maps.uids[0].outside.to_string();
    target.screen.expect(&outside);
}
