//! One node: a process that holds its namespaces, and ways to run things inside.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::LabConfig;
use crate::node::{Node, Output, wait_until};
use crate::terminal::Terminal;

/// A user of a node.
#[derive(Debug, Clone)]
pub struct Person {
    /// Login name.
    pub name: String,
    /// User and group id.
    pub uid: u32,
    /// Whether the person has a home directory here, with files.
    pub has_home: bool,
}

impl Person {
    /// A user with a home directory.
    pub fn at_home(name: &str, uid: u32) -> Self {
        Self { name: name.to_owned(), uid, has_home: true }
    }
}

/// One node of the laboratory.
pub struct LabNode {
    name: String,
    person: Person,
    folder: PathBuf,
    phantom: PathBuf,
    holder: Child,
    foreign_root: bool,
}

/// Where `phantom` stands inside a node with another root.
const PHANTOM_INSIDE: &str = "/usr/bin/phantom";

impl LabNode {
    pub(super) fn start(
        config: &LabConfig,
        name: &str,
        person: Person,
        root: Option<&Path>,
        folder: PathBuf,
    ) -> anyhow::Result<Self> {
        for part in ["etc", "home", "upper", "work", "root", "state"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        let home = folder.join("home").join(&person.name);
        if person.has_home {
            std::fs::create_dir_all(&home)?;
            nix::unistd::chown(&home, Some(person.uid.into()), Some(person.uid.into()))?;
            std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o750))?;
        }
        let system = root.unwrap_or(Path::new("/"));
        for (file, line) in [
            ("passwd", format!("{0}:x:{1}:{1}::/home/{0}:/bin/bash\n", person.name, person.uid)),
            ("group", format!("{0}:x:{1}:\n", person.name, person.uid)),
        ] {
            // First, so that it wins over an account of this machine with the same number.
            let text = std::fs::read_to_string(system.join("etc").join(file))?;
            std::fs::write(folder.join("etc").join(file), line + &text)?;
        }
        let toml = format!("name = \"{name}\"\nlisten = \"0.0.0.0:41610\"\n");
        std::fs::write(folder.join("etc/phantom.toml"), toml)?;
        let script = holder_script(config, root, &folder);
        let mut holder = Command::new("unshare")
            .args(["--mount", "--net", "--uts", "--propagation", "private", "sh", "-euc", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run `unshare`; install util-linux")?;
        let mut line = String::new();
        let stdout = holder.stdout.take().context("the holder has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim() != "ready" {
            let _ = holder.kill();
            let _ = holder.wait();
            bail!("its namespaces could not be set up; the messages above say why");
        }
        let phantom =
            if root.is_some() { PathBuf::from(PHANTOM_INSIDE) } else { config.phantom.clone() };
        let foreign_root = root.is_some();
        Ok(Self { name: name.to_owned(), person, folder, phantom, holder, foreign_root })
    }

    /// Its user.
    pub fn person(&self) -> &Person {
        &self.person
    }

    /// The process that holds its namespaces.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// The user's home directory as this machine sees it.
    pub fn home_dir(&self) -> PathBuf {
        self.folder.join("home").join(&self.person.name)
    }

    /// Process id of its daemon.
    pub fn daemon_pid(&self) -> anyhow::Result<i32> {
        let text = self.enter(&["cat", "/run/phantom/daemon.pid"])?.stdout;
        text.trim().parse().context("the daemon's pid file holds no number")
    }

    /// A command line that runs `args` inside, as root or as its user.
    pub fn command(&self, as_user: bool, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid().to_string(), "--mount", "--net", "--uts"]);
        if self.foreign_root {
            command.arg("--root");
        }
        command.arg("--wdns=/");
        if as_user {
            let home = if self.person.has_home {
                format!("/home/{}", self.person.name)
            } else {
                "/".to_owned()
            };
            let id = self.person.uid.to_string();
            command.args([
                "setpriv",
                "--reuid",
                &id,
                "--regid",
                &id,
                "--clear-groups",
                "env",
                "-i",
                // Not before: root may not be let in.
                &format!("--chdir={home}"),
                &format!("HOME={home}"),
                &format!("USER={}", self.person.name),
                "TERM=xterm-256color",
                "LANG=C.UTF-8",
                "SHELL=/bin/bash",
                "PATH=/usr/local/bin:/usr/bin:/bin",
            ]);
        }
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command inside as root; an exit code other than 0 is an error.
    pub fn enter(&self, args: &[&str]) -> anyhow::Result<Output> {
        let output = finish(self.command(false, args))?;
        if output.code != 0 {
            bail!("on {}: `{}` failed: {}", self.name, args.join(" "), output.stderr.trim());
        }
        Ok(output)
    }

    /// A command line that runs `phantom ARGS` inside, as root or as the user.
    pub fn phantom_command(&self, as_user: bool, args: &[&str]) -> Command {
        let mut all = vec![self.phantom_path()];
        all.extend(args);
        self.command(as_user, &all)
    }

    /// Starts any command as the user in a terminal of its own, not under Phantom.
    pub fn bare_terminal(&self, args: &[&str]) -> anyhow::Result<Terminal> {
        Terminal::spawn(self.command(true, args), 24, 80)
    }

    /// Where `phantom` stands inside.
    pub fn phantom_path(&self) -> &str {
        self.phantom.to_str().unwrap_or(PHANTOM_INSIDE)
    }

    /// Kills the daemon with SIGKILL and waits until it is gone.
    pub fn kill_daemon(&self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.daemon_pid()?);
        kill(pid, Signal::SIGKILL)?;
        wait_until("the daemon's end", Duration::from_secs(10), || {
            // A zombie's other threads may still be on their way out, with its sockets.
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
            Ok(kill(pid, None).is_err() || (is_zombie(pid) && threads <= 1))
        })
    }

    /// The daemon's log so far.
    pub fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.folder.join("state/daemon.log")).unwrap_or_default()
    }

    /// Where its daemon keeps what outlives a reboot, as this machine sees it.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The ends of the daemon's and its shims' logs.
    pub fn logs(&self) -> String {
        let mut text =
            format!("--- daemon of {} ---\n{}\n", self.name, tail(&self.daemon_log(), 60));
        let shims = self.enter(&["sh", "-c", "tail -n 30 /run/phantom/apps/*/shim.log"]);
        text.push_str(&shims.map(|output| output.stdout).unwrap_or_default());
        text
    }

    /// Removes the control groups that killed shims could not remove.
    fn remove_control_groups(&self) {
        let log = self.daemon_log();
        // Its id as the daemon tells it at its start; a node without a daemon has no groups.
        let Some(id) = log.split("node=").nth(1).and_then(|rest| rest.split_whitespace().next())
        else {
            return;
        };
        for root in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"] {
            let own = Path::new(root).join("phantom").join(id);
            let apps = std::fs::read_dir(&own).into_iter().flatten().flatten();
            for group in apps.map(|entry| entry.path()).filter(|path| path.is_dir()) {
                // A capsule whose shim a scenario killed.
                let _ = std::fs::write(group.join("cgroup.kill"), "1");
                let _ = wait_until("the end of an app's processes", Duration::from_secs(5), || {
                    Ok(std::fs::remove_dir(&group).is_ok() || !group.exists())
                });
            }
            let _ = std::fs::remove_dir(own);
        }
    }

    /// Processes whose mount namespace is this node's: daemon, shims, and what they started.
    pub fn processes(&self) -> Vec<Pid> {
        let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/uts")).ok();
        let Some(own) = space(&self.pid().to_string()) else {
            return Vec::new();
        };
        let Ok(all) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        all.flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| {
                *pid != self.pid() as i32 && space(&pid.to_string()).as_ref() == Some(&own)
            })
            .map(Pid::from_raw)
            .collect()
    }
}

impl Node for LabNode {
    fn name(&self) -> &str {
        &self.name
    }

    fn phantom(&self, as_user: bool, args: &[&str]) -> anyhow::Result<Output> {
        finish(self.phantom_command(as_user, args))
    }

    fn terminal(&self, args: &[&str]) -> anyhow::Result<Terminal> {
        Terminal::spawn(self.phantom_command(true, args), 24, 80)
    }

    fn shell(&self, script: &str) -> anyhow::Result<String> {
        let output = finish(self.command(true, &["sh", "-euc", script]))?;
        ensure!(output.code == 0, "on {}: `{script}`: {}", self.name, output.stderr.trim());
        Ok(output.stdout)
    }
}

impl Drop for LabNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // The uts namespace is the node's own, so these are its processes and no others.
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let processes = self.processes();
            if processes.is_empty() || Instant::now() > end {
                break;
            }
            for pid in processes {
                let _ = kill(pid, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
        self.remove_control_groups();
    }
}

/// The script that makes a node's view and holds it until its input closes.
fn holder_script(config: &LabConfig, root: Option<&Path>, folder: &Path) -> String {
    let folder = folder.display();
    let phantom = config.phantom.display();
    let mut script = String::from("ip link set lo up\n");
    if let Some(root) = root {
        let root = root.display();
        script += &format!(
            "mount -t overlay overlay -o lowerdir={root},upperdir={folder}/upper,workdir={folder}/work {folder}/root\n\
             cd {folder}/root\n\
             mount -t proc proc proc; mount --rbind /sys sys; mount --rbind /dev dev\n\
             mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs tmp; chmod 1777 tmp\n\
             mkdir -p run/phantom var/lib/phantom etc/phantom home usr/local/lib/phantom\n\
             mount --bind {folder}/home home; mount --bind {folder}/state var/lib/phantom\n\
             touch usr/bin/phantom; mount --bind {phantom} usr/bin/phantom\n\
             cp {folder}/etc/passwd {folder}/etc/group etc/; cp {folder}/etc/phantom.toml etc/phantom/\n"
        );
        if let Some(criu) = config.criu.as_deref().and_then(Path::parent) {
            let criu = criu.display();
            script += &format!(
                "mkdir -p usr/local/lib/phantom/criu; mount --bind {criu} usr/local/lib/phantom/criu\n"
            );
        }
        script += "mkdir -p .old; pivot_root . .old; cd /; umount -l /.old\n";
    } else {
        script += &format!(
            "mount -t tmpfs tmpfs /run; mkdir -p /run/phantom /var/lib/phantom /etc/phantom\n\
             mount --bind {folder}/state /var/lib/phantom\n\
             mount -t tmpfs tmpfs /etc/phantom; cp {folder}/etc/phantom.toml /etc/phantom/\n\
             mount --bind {folder}/etc/passwd /etc/passwd; mount --bind {folder}/etc/group /etc/group\n\
             mount --bind {folder}/home /home\n"
        );
    }
    script += "hostname phantom-lab || true\necho ready\nexec cat\n";
    script
}

fn finish(mut command: Command) -> anyhow::Result<Output> {
    Ok(output(command.output().context("cannot run `nsenter`; install util-linux")?))
}

/// What a finished command printed, as text.
pub(super) fn output(output: std::process::Output) -> Output {
    use std::os::unix::process::ExitStatusExt;
    Output {
        code: output.status.code().unwrap_or(128 + output.status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Whether nothing of a process is left but its exit status: its first thread may have ended while
/// others still hold its files.
fn is_zombie(pid: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |tasks| tasks.count());
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('Z')))
        && threads <= 1
}

/// The last lines of a text.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
