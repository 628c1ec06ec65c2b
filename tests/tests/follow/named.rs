//! A stock program: BIND, a primary name server that takes updates.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use phantom_tests::lab::{Household, LabNode, Node, wait_until};

use crate::keeper::{START, decree};

const NAMED: &str = "/usr/sbin/named";
const POLICY: &str = r#"
[[follow]]
name = "names"
command = ["/usr/sbin/named", "-f", "-c", "/run/names/state/named.conf"]
user = "ada"
state = "/run/names/state"
save = "1s"
"#;
const CONF: &str = r#"
options {
    directory "/run/names/state"; pid-file none; session-keyfile none; lock-file none;
    listen-on port 5300 { 127.0.0.1; }; listen-on-v6 { none; };
    recursion no; dnssec-validation no;
};
controls { };
zone "home.test" { type primary; file "home.zone"; allow-update { 127.0.0.1; }; };
"#;
const ZONE: &str = "$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\n";

/// Asks for a name's address, or adds it: `ask NAME`, `add NAME ADDRESS`.
const CLIENT: &str = r#"
import socket, struct, sys
what, name = sys.argv[1:3]
label = lambda text: b"".join(bytes([len(part)]) + part.encode() for part in text.split(".")) + b"\0"
if what == "ask":
    message = struct.pack(">6H", 7, 0, 1, 0, 0, 0) + label(name) + struct.pack(">2H", 1, 1)
else:
    # RFC 2136: one zone, nothing required, one record to add.
    message = struct.pack(">6H", 7, 5 << 11, 1, 0, 1, 0)
    message += label("home.test") + struct.pack(">2H", 6, 1)
    message += label(name) + struct.pack(">2HIH", 1, 1, 60, 4) + socket.inet_aton(sys.argv[3])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
s.connect(("127.0.0.1", 5300))
s.send(message)
answer = s.recv(512)
code = struct.unpack(">H", answer[2:4])[0] & 15
if code != 0:
    sys.exit("refused: %d" % code)
if what == "ask":
    print(socket.inet_ntoa(answer[len(message) + 12:len(message) + 16]))
"#;

fn client(node: &LabNode, args: &[&str]) -> anyhow::Result<String> {
    let all = [&["/usr/bin/python3", "-c", CLIENT], args].concat();
    Ok(node.enter(&all)?.stdout.trim().to_owned())
}

fn wait_for_name(node: &LabNode, name: &str, address: &str) -> anyhow::Result<()> {
    let mut last = None;
    wait_until(&format!("{name} from {}", node.name()), START, || {
        let found = client(node, &["ask", name]);
        let is_it = found.as_ref().is_ok_and(|found| found == address);
        last = Some(found);
        Ok(is_it)
    })
    .with_context(|| format!("it says {last:?}"))
}

#[test]
fn a_stock_name_server_goes_on_with_all_names_when_its_machine_is_lost() -> anyhow::Result<()> {
    let test = "a_stock_name_server_goes_on_with_all_names_when_its_machine_is_lost";
    if !Command::new(NAMED).arg("-v").output().is_ok_and(|output| output.status.success()) {
        println!("SKIP {test}: no BIND (apt install bind9)");
        return Ok(());
    }
    Household::scenario_alike(test, 3, |household| {
        let first = household.wait_agreed(&[0, 1, 2], 3)?;
        // Only where it begins there is a configuration; the others get it with the state.
        let node = household.node(first);
        let write = format!(
            "mkdir -p /run/names/state && cd /run/names/state && cat > named.conf <<'END'\n{CONF}END\n\
             cat > home.zone <<'END'\n{ZONE}END\nchown -R 1000:1000 . && chmod 700 ."
        );
        node.enter(&["sh", "-c", &write])?;
        decree(household, POLICY)?;
        wait_for_name(node, "ns.home.test", "127.0.0.1")?;
        client(node, &["add", "printer.home.test", "10.1.2.3"])?;
        wait_for_name(node, "printer.home.test", "10.1.2.3")?;
        wait_until("the journal is saved", Duration::from_secs(20), || {
            let folder = node.enter(&["ls", "/run/names/state"])?.stdout;
            ensure!(folder.contains("home.zone.jnl"), "{folder}");
            let state: serde_json::Value = node.phantom_json(true, &["subgrid"])?;
            let saved = state["follows"][0]["saved_unix_s"].as_i64().unwrap_or_default();
            let changed = node.enter(&["stat", "-c", "%Y", "/run/names/state/home.zone.jnl"])?;
            Ok(saved >= changed.stdout.trim().parse::<i64>()?)
        })?;
        // The machine is lost: its daemon, the guard and the service at once.
        node.kill_daemon()?;
        node.signal_all("phantom guard", nix::sys::signal::Signal::SIGKILL);
        let left: Vec<usize> = (0..3).filter(|number| *number != first).collect();
        let second = household.wait_agreed(&left, 3)?;
        wait_for_name(household.node(second), "printer.home.test", "10.1.2.3")?;
        client(household.node(second), &["add", "scanner.home.test", "10.1.2.4"])?;
        wait_for_name(household.node(second), "scanner.home.test", "10.1.2.4")?;
        ensure!(node.processes_with(NAMED).is_empty(), "it died with its guard");
        Ok(())
    })
}
