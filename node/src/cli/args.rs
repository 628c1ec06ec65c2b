//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use phantom_discovery::machine::query::MAX_WANTED;
use phantom_model::Limits;

use crate::api::types::Reach;

/// Live programs move to better machines while their users keep typing.
#[derive(Debug, Parser)]
#[command(name = "phantom", version, max_term_width = 100)]
pub struct Cli {
    /// Configuration file, in place of /etc/phantom/phantom.toml.
    ///
    /// A file named here must exist; the usual one need not, for everything has a default. The
    /// daemon reads it when it starts: changes need `sudo phantom down && sudo phantom up`. A
    /// daemon started by `up` reads the file named here, which takes an absolute path. Other
    /// commands find the daemon's socket by it (`run_dir`).
    #[arg(long, global = true, env = "PHANTOM_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell what this machine can do for Phantom, and how to mend what it cannot.
    Doctor,
    /// Take part: start the daemon, ask the sub-grid on this network to let this machine in, or
    /// found one where there is none (needs root).
    Up(Up),
    /// Stop the daemon; running apps keep running (needs root).
    Down,
    /// Make a token with which one more node can join (needs root).
    Invite(Invite),
    /// List machines that ask to be let in.
    Requests,
    /// Let in the machine that shows this code (needs root).
    Accept(Code),
    /// Do not let in the machine that shows this code (needs root).
    Deny(Code),
    /// Put a member out of the sub-grid (needs root).
    Remove(Member),
    /// Give a member the right to let others in and to remove them (needs root).
    ///
    /// Works only where the sub-grid was founded, for it takes the sub-grid's key. The member can
    /// then `invite`, `accept`, `deny` and `remove`; it cannot delegate, nor change the policy.
    /// With `--withdraw` the right is taken back: whom it has let in stays in, whom it has removed
    /// stays out.
    Delegate(Delegate),
    /// Show or change the sub-grid's policy: default limits, ceilings, who may run where (`edit`
    /// needs root).
    #[command(subcommand)]
    Policy(Policy),
    /// Make or change virtual organisations, or list them (all but `list` need root).
    #[command(subcommand)]
    Vo(Vo),
    /// Forget the sub-grid, or give up asking to be let in; this machine can then found or join
    /// another (needs root).
    ///
    /// Apps that run at home keep running. It is refused while an app of this machine is away or
    /// moving, and while an app of another machine runs here: bring the one back, and have the
    /// other moved or ended by its user.
    Leave,
    /// List the members of the sub-grid.
    Nodes(Nodes),
    /// Tell who answers for the sub-grid, and whether it can decide.
    ///
    /// The members elect one of them as super-peer, the one that can be counted on most: it keeps the
    /// registry of what every node has, and answers queries. When it goes, another takes over within
    /// seconds. Decisions take a majority of the electors; without one the members go on, but
    /// nothing that must not happen twice is decided. Services of the policy's `[[follow]]` run
    /// where the super-peer is; told of each: where and since when, when its state was saved, how it
    /// last ended, or why it does not run.
    Subgrid,
    /// Found a region of sub-grids under a DNS name, and say who belongs to it.
    ///
    /// Sub-grids of a region ask each other for what they do not have themselves (`phantom nodes
    /// --scope region`). One of their super-peers, the region-peer, answers for the region, and keeps
    /// its entry in the DNS, by which everybody finds it. docs/regions-dns.md shows how to set up the
    /// DNS.
    #[command(subcommand)]
    Region(Region),
    /// Register this sub-grid with a region, or take it out.
    #[command(subcommand)]
    Site(Site),
    /// Run a command so that it can move.
    #[command(override_usage = "phantom run [OPTIONS] -- <CMD>...")]
    Run(Run),
    /// Bring a running app to this terminal.
    Attach(App),
    /// List running apps.
    Ps,
    /// Tell whether an app could move now, where to, and if not, why.
    ///
    /// Names what the app cannot take along, such as an open connection or a device, and the limit
    /// it last exceeded. For each node: what the app would get there, or why it cannot go there.
    /// While the kernel monitor is on, also what the app uses now, how fast its memory grows, and
    /// when it will reach a limit. The app is not stopped for it. Ask where the app was started.
    Explain(App),
    /// Tell why an app stays or goes, or why nodes meet an expression or do not.
    ///
    /// Takes apart what is asked of a node: which part fails on how many nodes, and what would make
    /// more of them match. Of an app, that is what a move of it asks of the other nodes, and what it
    /// would win or lose. Of a ClassAd expression, as `phantom nodes --where` takes it, the super-peer
    /// tells of all nodes of the sub-grid.
    Why(Why),
    /// Show an app's life, one line an event.
    Log(App),
    /// Move an app now.
    Migrate(Migrate),
    /// Send a signal to an app.
    Kill(Kill),
    /// Tell whether the kernel monitor is on, or attach or detach it (`on` and `off` need root).
    ///
    /// The monitor measures apps in the kernel and tells when one exceeds a limit. `off` takes it
    /// out of the kernel: limits on what an app uses are not watched then; moves by hand work.
    /// `on` puts it back. When the daemon starts, the monitor starts with it, unless the
    /// configuration has `qos = false`. Told besides: how much of the last 10 s programs here
    /// waited for a CPU, for memory and for a disk, and which of `[[watch]]` exceed a limit.
    Qos(Qos),
    /// Run the daemon in the foreground (what a service manager starts; needs root).
    Daemon(Daemon),
    /// Hold one app (started by the daemon).
    #[command(hide = true)]
    Shim(Shim),
    /// Hold one followed service (started by the daemon).
    #[command(hide = true)]
    Guard(Guard),
    /// Serve one app's files to where it runs (started by a shim).
    #[command(hide = true)]
    ServeFiles(ServeFiles),
    /// Read files below a mount, whose names come on standard input (started by a shim).
    #[command(hide = true)]
    ReadAhead(ReadAhead),
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Token from `phantom invite` on a member.
    #[arg(long, value_name = "TOKEN")]
    pub join: Option<String>,
    /// Ask this machine, where the network carries no multicast: name or address; may be repeated.
    ///
    /// It must be a member of a sub-grid, and its daemon must run. PORT is its UDP port for
    /// finding others; by default the `discovery_port` of the configuration here, 41611. Only the
    /// machines named are asked, not the local network, and if none answers no sub-grid is
    /// founded. Where this machine is a member already, nobody is asked.
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with = "join")]
    pub peer: Vec<String>,
    /// Which sub-grid, where there are several: the beginning of its id, or the name of a member.
    #[arg(long, value_name = "ID|NODE", conflicts_with = "join")]
    pub subgrid: Option<String>,
    /// Found a sub-grid without looking for one.
    #[arg(long, conflicts_with_all = ["join", "peer", "subgrid"])]
    pub new: bool,
    /// Do not wait until the request is accepted; it stands all the same.
    #[arg(long)]
    pub no_wait: bool,
}

/// What to explain.
#[derive(Debug, Args)]
pub struct Why {
    /// An app by name or id, or a ClassAd expression such as 'Idle >= 2 && Memory > 8192'.
    #[arg(value_name = "APP|EXPR")]
    pub of: String,
}

/// The code of a request.
#[derive(Debug, Args)]
pub struct Code {
    /// The six digits that the other machine shows.
    #[arg(required = true, num_args = 1..=2)]
    pub code: Vec<String>,
}

/// What to do with the policy.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Print the version that counts here.
    ///
    /// The newest this node has heard of: a line with its number and when it was signed, then the
    /// text in TOML. `[defaults]` are limits of apps that were started without, `[[ceiling]]` the
    /// highest ones that users and groups may have, `[[place]]` whose apps may move to which
    /// nodes, `[[follow]]` services that run wherever the super-peer is. It counts on all members, also on one that is alone.
    Show,
    /// Change it in $EDITOR, sign it, and tell all members (where the sub-grid was founded; needs
    /// root).
    Edit {
        /// Take the text from this file instead; `-` is standard input.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// List the versions this node has seen, with what changed.
    History,
}

/// What to do with a region.
#[derive(Debug, Subcommand)]
pub enum Region {
    /// Found a region, with this sub-grid as its first site (needs root).
    ///
    /// Its key is made on this machine and stays here: only here sub-grids can be let in and put out.
    Init {
        /// Its name: grid://campus.example.org, with a domain whose DNS you can have changed.
        #[arg(value_name = "URI")]
        uri: String,
        /// What this sub-grid is called in it; the name of this node when absent.
        #[arg(long)]
        name: Option<String>,
    },
    /// Let in a sub-grid that has registered (needs root, and the region's key).
    Approve {
        /// Its name, or the beginning of its id.
        site: String,
    },
    /// Tell who belongs to the region, who asks to, and how its entry in the DNS stands.
    List,
    /// Put a sub-grid out (needs root, and the region's key).
    Remove {
        /// Its name, or the beginning of its id.
        site: String,
    },
    /// Ask another region for what this one does not have (needs root, and the region's key).
    ///
    /// The other region answers when its admin has named this one as well.
    Peer {
        /// Its name: grid://other.example.org.
        #[arg(value_name = "URI")]
        uri: String,
        /// Ask it no longer.
        #[arg(long)]
        withdraw: bool,
    },
    /// Give the region another key (needs root, and the region's key).
    ///
    /// The key before signs for it, so sites and their nodes follow. The former key stays on this
    /// machine, for those that hear of it late.
    Rotate,
}

/// What to do with this sub-grid as a site.
#[derive(Debug, Subcommand)]
pub enum Site {
    /// Ask a region to let this sub-grid in (needs root, where the sub-grid was founded or on a
    /// delegate).
    ///
    /// Of several regions the nearest is asked: the one whose region-peer has the shortest round
    /// trip.
    Register {
        /// Its name: grid://campus.example.org; or several.
        #[arg(value_name = "URI", required = true, num_args = 1..=16)]
        uris: Vec<String>,
        /// What this sub-grid shall be called there; the name of this node when absent.
        #[arg(long)]
        name: Option<String>,
    },
    /// Leave a region (needs root, where the sub-grid was founded or on a delegate).
    Remove {
        /// Its name: grid://campus.example.org.
        #[arg(value_name = "URI")]
        uri: String,
    },
}

/// What to do with virtual organisations.
#[derive(Debug, Subcommand)]
pub enum Vo {
    /// Make one, which belongs to this sub-grid.
    ///
    /// A virtual organisation is a set of nodes, of this sub-grid or of others. An app that was
    /// started with `run --vo NAME` moves to nodes in it only, and the policy can name it. Works on
    /// nodes that may let others in: who is in one is signed there, and told to all members.
    Create(VoMembers),
    /// Take members in.
    Add(SomeVoMembers),
    /// Put members out: apps that run there under it leave.
    Remove(SomeVoMembers),
    /// End one. Apps under it go home, and stay there.
    Dissolve {
        /// Its name.
        name: String,
    },
    /// List them, or tell of one who is in it.
    List {
        /// Its name.
        name: Option<String>,
    },
}

/// Members of a virtual organisation.
#[derive(Debug, Args)]
pub struct VoMembers {
    /// Its name: letters, digits, `.`, `-` and `_`, at most 53.
    pub name: String,
    /// A node's name, the beginning of its id or, of another sub-grid, all of it; `subgrid` (this
    /// one) or `subgrid:ID`; `grid://NAME` (a region).
    #[arg(value_name = "MEMBER")]
    pub members: Vec<String>,
}

/// At least one member of a virtual organisation.
#[derive(Debug, Args)]
pub struct SomeVoMembers {
    /// Its name.
    pub name: String,
    /// A node's name or the beginning of its id; `subgrid` (this one) or `subgrid:ID`;
    /// `grid://NAME` (a region).
    #[arg(value_name = "MEMBER", required = true)]
    pub members: Vec<String>,
}

/// Which member.
#[derive(Debug, Args)]
pub struct Member {
    /// Name of a node, or the beginning of its id.
    pub node: String,
}

/// Arguments of `delegate`.
#[derive(Debug, Args)]
pub struct Delegate {
    /// Name of a node, or the beginning of its id.
    pub node: String,
    /// Take the right back.
    #[arg(long)]
    pub withdraw: bool,
}

/// Arguments of `invite`.
#[derive(Debug, Args)]
pub struct Invite {
    /// How long the token is good for.
    #[arg(long, default_value = "1h", value_name = "TIME")]
    pub ttl: phantom_model::Window,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Name of the app; made from the command when absent.
    ///
    /// What `ps` lists and `attach`, `explain`, `log`, `migrate` and `kill` take. Letters, digits,
    /// `-`, `_` and `.`, at most 40. No two running apps of a user that were started on one
    /// machine have the same. When absent it is the name of the program: python3, and if that is
    /// taken python3-2.
    #[arg(long)]
    pub name: Option<String>,
    /// When it shall move: limits of cpu, memory, delay, net, disk and stutter, like
    /// cpu=150%/10s,memory=2GiB; cpu and memory may end in /soft.
    ///
    /// LEVEL/WINDOW, separated by commas; a window may be left out (10 s, of memory 1 s):
    ///   cpu=150%/10s       more than one and a half cores, in the mean over 10 s
    ///   memory=2GiB/1s     more memory than that for a second
    ///   delay=50%/10s      its threads waited half of the time for a CPU
    ///   net=10MiB/s/10s    more than that over the network, both ways
    ///   disk=50MiB/s/10s   more than that from and to disks
    ///   stutter=30%/10s    this machine, not the app, was held up for so much of the time
    /// cpu=150%/10s/soft, memory=2GiB/soft: the app is also held to it, from when it is exceeded
    /// until the app has moved or uses less.
    /// The sub-grid's policy sets limits that are absent here, and lowers those above a ceiling.
    #[arg(
        long,
        default_value = "",
        value_name = "LIMITS",
        hide_default_value = true,
        verbatim_doc_comment
    )]
    pub limit: Limits,
    /// Run it under this virtual organisation: it moves to members of it only.
    ///
    /// This machine must be in it, too. `phantom vo list` shows which there are.
    #[arg(long, value_name = "NAME")]
    pub vo: Option<String>,
    /// Start it without a terminal attached; `phantom attach` brings it back.
    #[arg(long)]
    pub detach: bool,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

/// Arguments of `nodes`.
#[derive(Debug, Args)]
pub struct Nodes {
    /// Only those of which a ClassAd expression is true, like `Idle >= 2 && Memory > 4096`.
    ///
    /// Of each node are said: Name, Machine, Id, State ("up", "silent", "away"), This, Reachable,
    /// Cpus, Idle (cores), LoadAvg, Memory and FreeMemory (MiB), Mflops and KFlops (of a core),
    /// Bandwidth (bytes a second), RoundTrip (ms), Lacks (a list). What is not known is UNDEFINED.
    #[arg(long = "where", value_name = "EXPR")]
    pub of_which: Option<String>,
    /// Only members of this virtual organisation.
    #[arg(long, value_name = "NAME")]
    pub vo: Option<String>,
    /// Ask the super-peer, which knows all members, instead of each member; it asks further.
    ///
    /// It knows what nodes say of themselves: not This, Reachable, Bandwidth and RoundTrip, but also
    /// Arch, OpSys, Disk and FreeDisk (MiB), Kernel, PhantomVersion and Availability (of 1000). `subgrid` alone lists all
    /// members, those that are away as well. `region` and `grid`, and `subgrid` with `--count` or
    /// `--rank`, give the best nodes that are up, and how the query went: who handled it, in how
    /// many steps and messages. The exit code is 1 when there is none.
    #[arg(long, value_enum)]
    pub scope: Option<Reach>,
    /// How many nodes are needed, 1 to 12: when the sub-grid has them, nobody else is asked.
    #[arg(long, value_name = "N", requires = "scope")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_WANTED)))]
    pub count: Option<u8>,
    /// The nodes of which this ClassAd expression is highest, like `Idle * Mflops`.
    #[arg(long, value_name = "EXPR", requires = "scope")]
    pub rank: Option<String>,
    /// How long to wait, at most 60s; 5s when absent.
    #[arg(long, value_name = "TIME", requires = "scope")]
    pub within: Option<phantom_model::Window>,
}

/// Which app.
#[derive(Debug, Args)]
pub struct App {
    /// Name of the app, or the beginning of its id.
    pub app: String,
}

/// Arguments of `migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// Name of the app, or the beginning of its id.
    pub app: String,
    /// Where to: name of a node, or the beginning of its id; the best one when absent.
    pub node: Option<String>,
}

/// Arguments of `kill`.
#[derive(Debug, Args)]
pub struct Kill {
    /// Name of the app, or the beginning of its id.
    pub app: String,
    /// Signal, by name or number.
    #[arg(short, long, default_value = "TERM")]
    pub signal: String,
}

/// Arguments of `qos`.
#[derive(Debug, Args)]
pub struct Qos {
    /// Attach or detach (needs root); tells the state when absent.
    #[arg(value_parser = ["on", "off"])]
    pub state: Option<String>,
}

/// Arguments of `daemon`.
#[derive(Debug, Args)]
pub struct Daemon {
    /// File descriptor to write a line to once the API answers.
    #[arg(long, hide = true)]
    pub ready_fd: Option<i32>,
}

/// Arguments of `shim`.
#[derive(Debug, Args)]
pub struct Shim {
    /// Folder of the app.
    pub dir: PathBuf,
}

/// Arguments of `guard`.
#[derive(Debug, Args)]
pub struct Guard {
    /// Folder of the service.
    pub dir: PathBuf,
}

/// Arguments of `serve-files`.
#[derive(Debug, Args)]
pub struct ServeFiles {
    /// Whose files.
    #[arg(long)]
    pub app: phantom_model::AppId,
}

/// Arguments of `read-ahead`.
#[derive(Debug, Args)]
pub struct ReadAhead {
    /// The mount.
    pub root: PathBuf,
}
