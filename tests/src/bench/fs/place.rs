//! Where files are worked on: Phantom's mount, the local disk, sshfs.

use std::fmt;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use nix::mount::{MntFlags, umount2};
use phantom_fs::cache::Cache;
use phantom_fs::client::{Client, ClientConfig};
use phantom_fs::fuse::{Mount, Owners};
use phantom_fs::server::{SelfFds, Server, ServerConfig};
use phantom_model::{AppId, Epoch};

use crate::bench::mounts::bind_system;

/// How long sshd and sshfs may take to be there.
const START: Duration = Duration::from_secs(10);

/// Somewhere to work.
pub trait Place {
    /// What rows call it.
    fn name(&self) -> &'static str;
    /// The directory as the work sees it.
    fn path(&self) -> &Path;
    /// The same directory at home.
    fn home(&self) -> &Path;
}

/// What carries the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// A local socket pair.
    Unix,
    /// TCP on loopback, with a relay at each end as the daemons are.
    Tcp,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stream::Unix => "a local socket",
            Stream::Tcp => "TCP",
        })
    }
}

/// A directory of the local disk.
pub struct Local(tempfile::TempDir);

impl Local {
    /// In `dir`.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix("local-").tempdir_in(dir)?))
    }
}

impl Place for Local {
    fn name(&self) -> &'static str {
        "local disk"
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn home(&self) -> &Path {
        self.0.path()
    }
}

/// A home served by this process and mounted by it.
pub struct Phantom {
    mount: Mount,
    server: Server,
    home: PathBuf,
    _dir: tempfile::TempDir,
}

impl Phantom {
    /// Serves `home`, or an empty directory of its own. The cache is in `dir` and stays there.
    pub fn new(dir: &Path, home: Option<&Path>, stream: Stream) -> anyhow::Result<Self> {
        let own = tempfile::Builder::new().prefix("phantom-").tempdir_in(dir)?;
        let away = own.path().join("away");
        fs::create_dir(&away)?;
        let home = match home {
            Some(home) => home.to_owned(),
            None => {
                let home = own.path().join("home");
                fs::create_dir(&home)?;
                home
            }
        };
        let app = AppId(1);
        let root = fs::File::open(&home)?.into();
        let server = Server::new(root, SelfFds::open()?, ServerConfig::new(app))?;
        let serving = server.clone();
        let transport = move |_| connect(&serving, stream);
        let cache = Cache::open(&dir.join("cache"), 1 << 30)?;
        let config = ClientConfig::new(app, Epoch::FIRST);
        let client = Client::connect(transport, config, Some(Arc::new(cache)))?;
        let mount = Mount::new(client, &away, Owners::identity(), 8)?;
        Ok(Self { mount, server, home, _dir: own })
    }
}

impl Place for Phantom {
    fn name(&self) -> &'static str {
        "Phantom"
    }

    fn path(&self) -> &Path {
        self.mount.path()
    }

    fn home(&self) -> &Path {
        &self.home
    }
}

impl Drop for Phantom {
    fn drop(&mut self) {
        self.server.close();
    }
}

fn connect(server: &Server, stream: Stream) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let server = server.clone();
    match stream {
        Stream::Unix => {
            std::thread::spawn(move || server.serve(theirs));
        }
        Stream::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let near = TcpStream::connect(listener.local_addr()?)?;
            let (far, _) = listener.accept()?;
            let (at_home, served) = UnixStream::pair()?;
            for stream in [&near, &far] {
                stream.set_nodelay(true)?;
            }
            relay(theirs, near)?;
            relay(at_home, far)?;
            std::thread::spawn(move || server.serve(served));
        }
    }
    Ok(ours)
}

/// Passes bytes on both ways until either side ends.
fn relay(local: UnixStream, remote: TcpStream) -> io::Result<()> {
    let (from_local, to_remote) = (local.try_clone()?, remote.try_clone()?);
    std::thread::spawn(move || {
        let _ = pass_on(from_local, &to_remote);
        let _ = to_remote.shutdown(std::net::Shutdown::Both);
    });
    std::thread::spawn(move || {
        let _ = pass_on(remote, &local);
        let _ = local.shutdown(std::net::Shutdown::Both);
    });
    Ok(())
}

/// With a buffer as large as the daemons', not the 8 KiB of `io::copy`.
fn pass_on(mut from: impl io::Read, mut to: impl io::Write) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while let n @ 1.. = from.read(&mut buffer)? {
        to.write_all(&buffer[..n])?;
    }
    Ok(())
}

/// sshfs, with an sshd of its own.
pub struct Sshfs {
    sshd: Child,
    away: PathBuf,
    home: PathBuf,
    _dir: tempfile::TempDir,
}

impl Sshfs {
    /// What is not installed.
    pub fn missing() -> Option<&'static str> {
        let programs = [
            ("/usr/bin/sshfs", "sshfs is not installed"),
            ("/usr/sbin/sshd", "sshd (openssh-server) is not installed"),
            ("/usr/bin/ssh-keygen", "ssh-keygen (openssh-client) is not installed"),
        ];
        programs.into_iter().find(|(path, _)| !Path::new(path).exists()).map(|(_, what)| what)
    }

    /// Mounts an empty directory of its own.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let own = tempfile::Builder::new().prefix("sshfs-").tempdir_in(dir)?;
        let at = |name: &str| own.path().join(name);
        for name in ["away", "home"] {
            fs::create_dir(at(name))?;
        }
        // sshd's own, and it insists on it.
        let _ = fs::DirBuilder::new().recursive(true).mode(0o755).create("/run/sshd");
        for key in ["host", "user"] {
            let mut keygen = Command::new("/usr/bin/ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(key));
            ensure!(keygen.status()?.success(), "ssh-keygen failed");
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let show = |name: &str| at(name).display().to_string();
        let sshd = Command::new("/usr/sbin/sshd")
            .args(["-D", "-f", "/dev/null", "-p", &port.to_string(), "-h", &show("host")])
            .args(["-o", "ListenAddress=127.0.0.1", "-o", "StrictModes=no", "-o", "UsePAM=no"])
            .args(["-o", &format!("AuthorizedKeysFile={}", show("user.pub"))])
            .args(["-o", "PidFile=none", "-o", "PermitRootLogin=yes"])
            .args(["-o", "Subsystem=sftp internal-sftp"])
            .stderr(Stdio::null())
            .spawn()?;
        let sshfs = Self { sshd, away: at("away"), home: at("home"), _dir: own };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(begun.elapsed() < START, "sshd does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut mount = Command::new("/usr/bin/sshfs");
        mount.arg(format!("root@127.0.0.1:{}", sshfs.home.display())).arg(&sshfs.away);
        mount.args(["-p", &port.to_string(), "-o", "allow_other,StrictHostKeyChecking=no"]);
        mount.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]);
        let key = sshfs._dir.path().join("user");
        mount.arg("-o").arg(format!("IdentityFile={}", key.display()));
        ensure!(mount.status()?.success(), "sshfs failed");
        Ok(sshfs)
    }
}

impl Place for Sshfs {
    fn name(&self) -> &'static str {
        "sshfs"
    }

    fn path(&self) -> &Path {
        &self.away
    }

    fn home(&self) -> &Path {
        &self.home
    }
}

impl Drop for Sshfs {
    fn drop(&mut self) {
        let _ = umount2(&self.away, MntFlags::MNT_DETACH);
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

/// This machine's own system, read-only, as a capsule's home serves it.
pub struct System(PathBuf);

impl System {
    /// Bound below `dir`.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let system = Self(dir.join("system"));
        fs::create_dir(&system.0)?;
        bind_system(&system.0)?;
        Ok(system)
    }

    /// Its root.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Runs a program with `root` as its root; how long that took, in ms.
pub fn start(root: &Path, command: &[&str]) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let status = Command::new("chroot")
        .arg(root)
        .args(command)
        .stdin(Stdio::null())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .status()?;
    ensure!(status.success(), "{command:?} in {}: {status}", root.display());
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}
