//! A BIND of its own for each test: its zones, keys and files in a directory that goes with it, on a
//! port of loopback.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use phantom_discovery::dns::TsigKey;
use tempfile::TempDir;

/// How long BIND may take to start, on a machine that is busy.
const START: Duration = Duration::from_secs(60);
/// Another program may take the port between its choice and its use.
const TRIES: usize = 5;

/// A zone of the server.
pub struct Zone {
    /// Its name, without a dot at its end.
    pub name: String,
    /// Further records, in the form of zone files.
    pub records: String,
    /// The statement of who may change it.
    pub updaters: &'static str,
}

impl Zone {
    /// A zone that the key `campus` may change.
    pub fn dynamic(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            records: String::new(),
            updaters: "allow-update { key campus; };",
        }
    }

    /// A zone that nobody may change.
    pub fn fixed(name: &str, records: &str) -> Self {
        Self {
            name: name.to_owned(),
            records: records.to_owned(),
            updaters: "allow-update { none; };",
        }
    }
}

/// A running server; ends with its owner.
pub struct Bind {
    /// Where it answers.
    pub at: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Bind {
    /// Starts a server with these zones. It knows the keys `campus` and `other`.
    pub fn start(zones: &[Zone]) -> Self {
        let dir = tempfile::tempdir().expect("a directory for BIND");
        for key in ["campus", "other"] {
            fs::write(dir.path().join(format!("{key}.key")), keygen(key)).unwrap();
        }
        // A copy: where AppArmor confines named by its path, it may use none of these files.
        let program = dir.path().join("named");
        // By another process: what a thread here has open for writing, a process that another thread
        // starts just then has as well, and then it cannot be executed.
        let copied = Command::new("cp").arg(find("named")).arg(&program).status().unwrap();
        assert!(copied.success(), "named cannot be copied: {copied}");
        let mut said = String::new();
        for _ in 0..TRIES {
            let at = free_port();
            write_config(dir.path(), at, zones);
            match run(&program, dir.path()) {
                Ok(child) => return Self { at, child, dir },
                Err(log) if log.contains("address in use") => said = log,
                Err(log) => panic!("named did not start:\n{log}"),
            }
        }
        panic!("named found no free port:\n{said}");
    }

    /// Kills it and starts it again with its zones: with all changes, or, `anew`, as at first.
    pub fn restart(&mut self, zones: &[Zone], anew: bool) {
        self.stop();
        if anew {
            for Zone { name, .. } in zones {
                // There is none before the first change.
                let _ = fs::remove_file(self.dir.path().join(format!("{name}.zone.jnl")));
            }
            write_config(self.dir.path(), self.at, zones);
        }
        let started = run(&self.dir.path().join("named"), self.dir.path());
        self.child = started.unwrap_or_else(|log| panic!("named did not start again:\n{log}"));
    }

    /// The file of a key the server knows.
    pub fn key_file(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.key"))
    }

    /// A key the server knows.
    pub fn key(&self, name: &str) -> TsigKey {
        let file = self.key_file(name);
        let text = fs::read_to_string(&file).unwrap();
        TsigKey::parse(&text, &file.display().to_string()).unwrap()
    }

    /// Ends it; its port is free then.
    pub fn stop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A key as `tsig-keygen` prints it.
pub fn keygen(name: &str) -> String {
    let made = Command::new(find("tsig-keygen")).arg(name).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap()
}

/// A program of the Debian package `bind9`.
fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no `{program}` here: the tests of regions in the DNS run against a real BIND; install \
             the Debian package bind9 (`cargo xtask setup`, or `apt-get install bind9`)"
        )
    })
}

/// A port of loopback that is free for UDP and TCP now.
fn free_port() -> SocketAddr {
    for _ in 0..100 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = tcp.local_addr().unwrap();
        if UdpSocket::bind(at).is_ok() {
            return at;
        }
    }
    panic!("no port is free for UDP and TCP");
}

fn write_config(dir: &Path, at: SocketAddr, zones: &[Zone]) {
    let (path, port) = (dir.display(), at.port());
    let mut config = format!(
        "include \"{path}/campus.key\";\n\
         include \"{path}/other.key\";\n\
         controls {{}};\n\
         options {{\n\
         \tdirectory \"{path}\"; managed-keys-directory \"{path}\";\n\
         \tpid-file none; lock-file none; session-keyfile none;\n\
         \tlisten-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
         \trecursion no; dnssec-validation no; notify no; allow-transfer {{ none; }};\n\
         }};\n"
    );
    for Zone { name, records, updaters } in zones {
        let file = format!("{path}/{name}.zone");
        let zone = format!(
            "$TTL 60\n@ SOA ns.{name}. admin.{name}. 1 3600 600 86400 60\n@ NS ns.{name}.\n\
             ns.{name}. A 127.0.0.1\n{records}"
        );
        fs::write(&file, zone).unwrap();
        writeln!(config, "zone \"{name}\" {{ type primary; file \"{file}\"; {updaters} }};")
            .unwrap();
    }
    fs::write(dir.join("named.conf"), config).unwrap();
}

/// Starts named and waits until it says that it runs; else what it has printed.
fn run(program: &Path, dir: &Path) -> Result<Child, String> {
    let mut child = Command::new(program)
        .args(["-g", "-n", "1", "-c"])
        .arg(dir.join("named.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let printed = BufReader::new(child.stderr.take().unwrap());
    let (says, said) = mpsc::channel();
    // Reads on until named ends, which would wait for ever on a pipe that is full.
    std::thread::spawn(move || {
        for line in printed.lines().map_while(Result::ok) {
            let _ = says.send(line);
        }
    });
    let mut log = String::new();
    loop {
        match said.recv_timeout(START) {
            // It goes on with what of its ports it could have.
            Ok(line) if line.contains("address in use") => {
                log.push_str(&line);
                break;
            }
            Ok(line) if line.ends_with(": running") || line.ends_with(" running") => {
                return Ok(child);
            }
            Ok(line) => log.extend([&line, "\n"]),
            Err(_) => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(log)
}
