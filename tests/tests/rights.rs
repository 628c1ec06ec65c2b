//! What an app cannot reach although root builds its capsule.

use phantom_tests::lab::{Lab, Node, Person};

#[test]
fn a_working_directory_the_user_cannot_reach_is_refused() -> anyhow::Result<()> {
    let Some(mut lab) = Lab::open("rights")? else { return Ok(()) };
    let node = lab.add("a", Person::at_home("ada", 1000))?;
    let closed = lab.node(node).home_dir().with_file_name("closed");
    std::fs::create_dir_all(closed.join("open"))?;
    std::fs::write(closed.join("open/secret"), "s")?;
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    assert_eq!(lab.node(node).phantom(false, &["up", "--new"])?.code, 0);
    // Root's shell stands there; the user's program is started from it.
    let id = lab.node(node).person().uid.to_string();
    let script = format!(
        "cd /home/closed/open && exec setpriv --reuid {id} --regid {id} --clear-groups \
         \"$0\" run -- cat secret < /dev/null"
    );
    let phantom = lab.node(node).phantom_path().to_owned();
    let output = lab.node(node).command(false, &["sh", "-c", &script, &phantom]).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(stderr.contains("cannot be entered by ada"), "{stderr}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains('s'));
    Ok(())
}
