//! The laboratory itself: what the scenarios stand on.

use std::time::Duration;

use anyhow::ensure;
use phantom_tests::lab::{Lab, Node, Pair, Person};

#[test]
fn two_nodes_reach_each_other_and_see_only_their_own_files() -> anyhow::Result<()> {
    let Some(mut lab) = Lab::open("lab")? else { return Ok(()) };
    let a = lab.add("a", Person::at_home("ada", 1000))?;
    let b = lab.add("b", Person { name: "bob".into(), uid: 1500, has_home: false })?;
    lab.link(a, b, 1)?;
    std::fs::write(lab.node(a).home_dir().join("mine"), "x")?;
    let listed = lab.node(a).enter(&["ls", "/home/ada"])?.stdout;
    assert_eq!(listed, "mine\n");
    assert_eq!(lab.node(b).enter(&["ls", "/home"])?.stdout, "");
    assert_eq!(lab.node(b).enter(&["id", "-un", "1500"])?.stdout, "bob\n");
    // A TCP connection needs no privilege and no further tool.
    let server = "import socket; s = socket.create_server(('10.77.1.1', 9999)); print('up', flush=True); s.accept()";
    let mut server = lab.node(a).bare_terminal(&["/usr/bin/python3", "-c", server])?;
    server.expect("up", Duration::from_secs(10))?;
    let client = "import socket; socket.create_connection(('10.77.1.1', 9999), 5)";
    lab.node(b).enter(&["/usr/bin/python3", "-c", client])?;
    assert_eq!(server.wait(Duration::from_secs(10))?, 0);
    Ok(())
}

#[test]
fn members_are_asked_for_by_an_expression() -> anyhow::Result<()> {
    Pair::scenario("members_are_asked_for_by_an_expression", |pair| {
        let asked = |expr: &str| pair.home().phantom(true, &["nodes", "--where", expr]);
        let found = asked("Cpus >= 1 && !This && State == \"UP\"")?.stdout;
        ensure!(found.contains("cellar") && !found.contains("attic"), "{found}");
        let wrong = asked("Cpus >=")?;
        ensure!(wrong.code == 2 && wrong.stderr.lines().count() == 1, "{wrong:?}");
        ensure!(wrong.stderr.contains("`Cpus >=` is no expression"), "{wrong:?}");
        Ok(())
    })
}
