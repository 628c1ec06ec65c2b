//! The doctor's canary on this machine.

use super::common::criu;
use phantom_checkpoint::canary::canary;

#[test]
fn the_canary_survives() {
    let Some(criu) = criu("the_canary_survives") else { return };
    let dir = tempfile::Builder::new().prefix("phckpt-").tempdir_in("/dev/shm").unwrap();
    let report = canary(&criu, dir.path()).unwrap();
    println!("{report:?}");
    assert!(report.version >= phantom_checkpoint::Version::MINIMUM);
}

#[test]
fn a_program_that_is_no_criu_is_named() {
    let Some(_) = criu("a_program_that_is_no_criu_is_named") else { return };
    let dir = tempfile::tempdir().unwrap();
    let error = canary(&phantom_checkpoint::Criu::at("/bin/true"), dir.path()).unwrap_err();
    assert!(error.to_string().contains("CRIU ended without an answer"), "{error}");
    let error = canary(&phantom_checkpoint::Criu::at("/nowhere/criu"), dir.path()).unwrap_err();
    assert!(error.to_string().contains("/nowhere/criu"), "{error}");
}
