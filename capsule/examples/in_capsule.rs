//! Runs a command in a capsule on a terminal of its own and prints the capsule's description:
//! `in_capsule UID HOME COMMAND [ARGUMENT]...` as root. What it puts out is copied to standard
//! output; what is typed goes to it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use phantom_capsule::os::{host, pty, spawn};
use phantom_capsule::plan::HostView;
use phantom_model::app::OsText;
use phantom_model::{AppSpec, Credentials, Limits, TermSize};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let uid: u32 = args.next().ok_or("UID")?.to_string_lossy().parse()?;
    let home = args.next().ok_or("HOME")?;
    let spec = AppSpec {
        name: "example".into(),
        argv: args.map(OsText::from).collect(),
        env: ["PATH=/usr/local/bin:/usr/bin:/bin", "TERM=xterm"].map(OsText::from).to_vec(),
        cwd: (&home).into(),
        user: Credentials {
            user: "example".into(),
            uid,
            gid: uid,
            groups: vec![uid],
            group_names: Vec::new(),
            home_dir: (&home).into(),
        },
        limits: Limits::default(),
        term_size: TermSize::default(),
        vo: None,
    };
    // Nothing serves files here.
    let host = HostView { has_fuse: false, ..host::read(&spec)? };
    let plan = phantom_capsule::plan::plan(&spec, &host, 0x7100_0000)?;
    let owner = (plan.ids.uid_outside(plan.uid), plan.ids.gid_outside(plan.gid));
    let pair = pty::open_pair(owner.0.ok_or("uid")?, owner.1.ok_or("gid")?, spec.term_size)?;
    let started = spawn::start(&plan, None, pair.slave.as_fd(), None)?;
    println!("{}", serde_json::to_string_pretty(&started.capsule)?);
    println!("slave {}", pair.slave_path.display());
    drop(pair.slave);
    let mut master = File::from(pair.master);
    let mut typed = master.try_clone()?;
    std::thread::spawn(move || std::io::copy(&mut std::io::stdin(), &mut typed));
    let mut chunk = [0; 4096];
    // A terminal whose last user has gone answers EIO.
    while let Ok(count @ 1..) = master.read(&mut chunk) {
        std::io::stdout().write_all(&chunk[..count])?;
        std::io::stdout().flush()?;
    }
    let pid = nix::unistd::Pid::from_raw(started.capsule.init_pid);
    println!("ended: {:?}", nix::sys::wait::waitpid(pid, None)?);
    Ok(())
}
