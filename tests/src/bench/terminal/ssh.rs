//! A throw-away sshd on loopback and a client for it.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::lab::wait_until;

const SSHD: &str = "/usr/sbin/sshd";

/// A running server; dropping it ends it.
pub struct Server {
    child: Child,
    keys: TempDir,
    port: u16,
}

impl Server {
    /// Starts it with keys of its own.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn start() -> anyhow::Result<Self> {
        for program in [SSHD, "/usr/bin/ssh", "/usr/bin/ssh-keygen"] {
            ensure!(Path::new(program).is_file(), "{program} is not installed");
        }
        let keys = tempfile::Builder::new().prefix("phantom-bench-ssh-").tempdir()?;
        let host_key = keys.path().join("host");
        let user_key = keys.path().join("user");
        for key in [&host_key, &user_key] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(key)
                .stdin(Stdio::null())
                .output()?;
            ensure!(made.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&made.stderr));
        }
        std::fs::create_dir_all("/run/sshd").context("sshd needs /run/sshd")?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(SSHD)
            .args(["-D", "-e", "-f", "/dev/null", "-h"])
            .arg(&host_key)
            .args(["-p", &port.to_string(), "-o", "ListenAddress=127.0.0.1"])
            .args(["-o", "StrictModes=no", "-o", "PidFile=none", "-o", "PermitRootLogin=yes", "-o"])
            .arg(format!("AuthorizedKeysFile={}.pub", user_key.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start sshd")?;
        let mut server = Self { child, keys, port };
        server.wait()?;
        Ok(server)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        wait_until("sshd's port", Duration::from_secs(10), || {
            if let Some(status) = self.child.try_wait()? {
                bail!("sshd ended: {status}");
            }
            Ok(TcpStream::connect(("127.0.0.1", self.port)).is_ok())
        })?;
        let tried = self.base().args(["-T", "root@127.0.0.1", "true"]).output()?;
        ensure!(tried.status.success(), "{}", String::from_utf8_lossy(&tried.stderr).trim());
        Ok(())
    }

    fn base(&self) -> Command {
        let mut command = Command::new("ssh");
        command
            .args(["-F", "/dev/null", "-p", &self.port.to_string(), "-i"])
            .arg(self.keys.path().join("user"))
            .args(["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"])
            .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "LogLevel=ERROR"]);
        command
    }

    /// A client that runs `script` on a terminal there.
    pub fn client(&self, script: &str) -> Command {
        let mut command = self.base();
        command.args(["-tt", "root@127.0.0.1", script]);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
