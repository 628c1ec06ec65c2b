use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{Lab, LabNode, Person};
use crate::node::{Node, wait_until};

/// The region's name.
pub const REGION: &str = "grid://campus.example.org";
/// Where its name server answers.
const SERVER: &str = "10.77.1.1:53";
/// How long BIND may take to start, on a machine that is busy.
const START: Duration = Duration::from_secs(60);
/// Debian's files of BIND, in memory where they are written to; for the namespaces of one node.
const DEBIAN: &str = "
mkdir -p /var/lib/bind /var/cache/bind /run/named
cp -a /etc/bind /var/lib/phantom/etc-bind
mount -t tmpfs -o mode=755 tmpfs /etc/bind
cp -a /var/lib/phantom/etc-bind/. /etc/bind/
for folder in /var/lib/bind /var/cache/bind /run/named; do
    mount -t tmpfs -o mode=775 tmpfs $folder
    chgrp bind $folder
done
ip link set lo up
";
/// How long sub-grids may take to find each other.
const MEETING: Duration = Duration::from_secs(120);

/// `phantom region list`, as far as scenarios look at it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RegionState {
    /// Its key.
    pub key: String,
    /// How the sub-grid stands with it.
    pub membership: String,
    /// Who answers for it.
    pub region_peer: Option<String>,
    /// In which name.
    pub mandate: Option<String>,
    /// Sites whose majority it takes to elect another.
    pub electors: Vec<String>,
    /// Its sites.
    pub sites: Vec<SiteState>,
    /// Who asks to be let in, or go.
    pub asking: Vec<Value>,
    /// How its entry stands.
    pub zone: String,
    /// How the region-peer was found.
    pub found: String,
    /// Other regions, and whether they are heard.
    pub peers: Vec<(String, bool)>,
}

/// A site.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SiteState {
    /// Its name.
    pub name: String,
    /// Whether it answers for the region.
    pub region_peer: bool,
    /// Whether it was heard lately.
    pub up: bool,
    /// Its members.
    pub nodes: Option<u32>,
}

/// Several sub-grids on one network, and a name server (BIND) for their region.
pub struct Campus {
    lab: Lab,
    /// The nodes of each sub-grid.
    sites: Vec<Vec<usize>>,
    bind: Option<Child>,
}

impl Campus {
    /// As [`Campus::open`], with a name server that is set up by the commands of a shell script, as
    /// root on Debian would: its addresses are put in the place of 192.0.2.53.
    pub fn open_by(test: &str, sizes: &[usize], script: &str) -> anyhow::Result<Option<Self>> {
        let Some(mut campus) = Self::machines(test, sizes)? else { return Ok(None) };
        let host = campus.lab.node(0);
        // Debian's own files, of which those that change are this test's.
        host.enter(&["sh", "-ec", DEBIAN])?;
        campus.start_bind(&["-u", "bind", "-c", "/etc/bind/named.conf"])?;
        let script = format!(
            "export PATH=$PATH:/usr/sbin:/usr/local/sbin\n{}",
            script.replace("192.0.2.53", "10.77.1.1")
        );
        let host = campus.lab.node(0);
        host.enter(&["sh", "-ec", &script])?;
        let key = host.enter(&["cat", "/etc/bind/campus.key"])?.stdout;
        campus.configure(&key)?;
        campus.join().inspect_err(|_| eprintln!("{}", campus.lab.logs()))?;
        Ok(Some(campus))
    }

    /// One sub-grid for each number, of so many machines, called s0n0, s0n1 … s1n0 …: nobody has
    /// founded a region. Their key may change the entry of the region unless `key` is another.
    pub fn open(test: &str, sizes: &[usize], key: &str) -> anyhow::Result<Option<Self>> {
        let Some(mut campus) = Self::machines(test, sizes)? else { return Ok(None) };
        campus.write_zone("")?;
        campus.start()?;
        let file = campus.lab.node(0).state_dir().join(format!("{key}.key"));
        campus.configure(&std::fs::read_to_string(file)?)?;
        campus.join().inspect_err(|_| eprintln!("{}", campus.lab.logs()))?;
        Ok(Some(campus))
    }

    fn machines(test: &str, sizes: &[usize]) -> anyhow::Result<Option<Self>> {
        let Some(mut lab) = Lab::open(test)? else { return Ok(None) };
        let mut all = vec![lab.add("dns", Person::at_home("ada", 1000))?];
        let mut sites = Vec::new();
        for (site, size) in sizes.iter().enumerate() {
            let mut nodes = Vec::new();
            for number in 0..*size {
                let name = format!("s{site}n{number}");
                nodes.push(lab.add(&name, Person::at_home("ada", 1000))?);
            }
            all.extend(&nodes);
            sites.push(nodes);
        }
        lab.lan(&all, 1)?;
        Ok(Some(Self { lab, sites, bind: None }))
    }

    /// Gives all machines the key, and says who is to be asked.
    fn configure(&self, key: &str) -> anyhow::Result<()> {
        for number in self.sites.iter().flatten() {
            let node = self.lab.node(*number);
            std::fs::create_dir_all(node.state_dir())?;
            std::fs::write(node.state_dir().join("dns.key"), key)?;
            let dns = format!("{{ servers = [\"{SERVER}\"], key = \"/var/lib/phantom/dns.key\" }}");
            node.configure("dns", Some(&dns))?;
        }
        Ok(())
    }

    /// Runs a scenario; when it fails, the nodes' logs are printed.
    pub fn scenario(
        test: &str,
        sizes: &[usize],
        body: impl FnOnce(&mut Campus) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(mut campus) = Self::open(test, sizes, "campus")? else { return Ok(()) };
        body(&mut campus).inspect_err(|_| eprintln!("{}", campus.lab.logs()))
    }

    fn join(&self) -> anyhow::Result<()> {
        for nodes in &self.sites {
            let founder = self.lab.node(nodes[0]);
            founder.up(&["--new"])?;
            for number in &nodes[1..] {
                founder.let_in(self.lab.node(*number))?;
            }
        }
        for site in 0..self.sites.len() {
            self.super_peer(site)?;
        }
        Ok(())
    }

    /// One machine of a sub-grid.
    pub fn node(&self, site: usize, number: usize) -> &LabNode {
        self.lab.node(self.sites[site][number])
    }

    /// Waits until a sub-grid has a super-peer that decides; its number.
    pub fn super_peer(&self, site: usize) -> anyhow::Result<usize> {
        let mut found = None;
        wait_until("a super-peer of each sub-grid", MEETING, || {
            found = (0..self.sites[site].len()).find(|number| {
                let state = self.node(site, *number).phantom_json::<Value>(true, &["subgrid"]);
                state.is_ok_and(|state| state["this"] == true && state["decides"] == true)
            });
            Ok(found.is_some())
        })?;
        found.context("there is none")
    }

    /// Runs a command on the first machine of a sub-grid as root; it must do.
    pub fn admin(&self, site: usize, args: &[&str]) -> anyhow::Result<String> {
        let output = self.node(site, 0).phantom(false, args)?;
        ensure!(output.code == 0, "`phantom {}`: {}", args.join(" "), output.stderr);
        Ok(output.stdout)
    }

    /// The same, which must be refused; the words.
    pub fn refused(&self, site: usize, args: &[&str]) -> anyhow::Result<String> {
        let output = self.node(site, 0).phantom(false, args)?;
        ensure!(output.code != 0, "`phantom {}` was not refused", args.join(" "));
        Ok(output.stderr)
    }

    /// How the region stands, as a machine knows.
    pub fn state(&self, site: usize, number: usize) -> anyhow::Result<RegionState> {
        self.node(site, number).phantom_json(true, &["region", "list"])
    }

    /// Waits until the region looks so from a machine.
    pub fn wait(
        &self,
        what: &str,
        (site, number): (usize, usize),
        is_so: impl Fn(&RegionState) -> bool,
    ) -> anyhow::Result<RegionState> {
        let mut last = None;
        wait_until(what, MEETING, || {
            last = self.state(site, number).ok();
            Ok(last.as_ref().is_some_and(&is_so))
        })
        .with_context(|| format!("s{site}n{number} says {last:#?}"))?;
        last.context("it says nothing")
    }

    /// Waits until all sub-grids, called site0 and on, agree on one that answers for the region; its
    /// number.
    pub fn region_peer(&self) -> anyhow::Result<usize> {
        let mut found = None;
        wait_until("agreement on a region-peer", MEETING, || {
            let states = (0..self.sites.len()).map(|site| self.state(site, 0).ok());
            let Some(states) = states.collect::<Option<Vec<_>>>() else { return Ok(false) };
            let answers = |state: &RegionState| {
                let site = state.sites.iter().find(|site| site.region_peer);
                site.map(|site| (site.name.clone(), state.mandate.clone()))
            };
            let said: Vec<_> = states.iter().map(answers).collect();
            let agreed = said.iter().all(|one| one.is_some() && *one == said[0]);
            let name = said[0].clone().filter(|_| agreed).map(|(name, _)| name);
            found = name.and_then(|name| name.strip_prefix("site")?.parse().ok());
            Ok(found.is_some())
        })?;
        found.context("there is none")
    }

    /// Founds the region from the first sub-grid, and lets the others in.
    pub fn found_region(&self) -> anyhow::Result<()> {
        self.admin(0, &["region", "init", REGION, "--name", "site0"])?;
        self.wait("an entry in the DNS", (0, 0), |it| it.zone.starts_with("written"))?;
        for site in 1..self.sites.len() {
            self.let_in(site)?;
        }
        Ok(())
    }

    /// Registers a sub-grid, and lets it in.
    pub fn let_in(&self, site: usize) -> anyhow::Result<()> {
        let name = format!("site{site}");
        self.admin(site, &["site", "register", REGION, "--name", &name])?;
        self.wait("its request", (0, 0), |it| {
            it.asking.iter().any(|asking| asking["name"] == name.as_str())
        })?;
        self.admin(0, &["region", "approve", &name])?;
        self.wait("the region's word", (site, 0), |it| {
            it.membership == "site" && it.region_peer.is_some()
        })?;
        self.wait("its first report", (0, 0), |it| {
            it.sites.iter().any(|site| site.name == name && site.up && site.nodes.is_some())
        })
        .map(drop)
    }

    /// Answers of `phantom nodes` of any scope.
    pub fn query(&self, site: usize, args: &[&str]) -> anyhow::Result<Value> {
        let output = self.node(site, 0).phantom(true, &[&["nodes", "--json"], args].concat())?;
        serde_json::from_str(&output.stdout).with_context(|| output.stderr)
    }

    /// Gives the region's zone other records beside its own; what was changed since is gone. There is
    /// another zone, other.example.org.
    pub fn write_zone(&mut self, records: &str) -> anyhow::Result<()> {
        self.stop_bind();
        let dir = self.lab.node(0).state_dir();
        std::fs::create_dir_all(&dir)?;
        for key in ["campus", "other"] {
            let file = dir.join(format!("{key}.key"));
            if !file.exists() {
                let made = self.lab.node(0).enter(&["tsig-keygen", key])?;
                std::fs::write(file, made.stdout)?;
            }
        }
        let at = "/var/lib/phantom";
        let mut config = format!(
            "include \"{at}/campus.key\";\ninclude \"{at}/other.key\";\ncontrols {{}};\n\
             options {{ directory \"{at}\"; managed-keys-directory \"{at}\"; pid-file none; \
             lock-file none; session-keyfile none; listen-on port 53 {{ 10.77.1.1; }}; \
             listen-on-v6 {{ none; }}; recursion no; dnssec-validation no; notify no; }};\n"
        );
        for (name, records) in [("campus", records), ("other", "")] {
            let zone = format!("{name}.example.org");
            let text = format!(
                "$TTL 5\n@ SOA ns.{zone}. admin.{zone}. 1 3600 600 86400 5\n\
                 @ NS ns.{zone}.\nns.{zone}. A 10.77.1.1\n{records}"
            );
            std::fs::write(dir.join(format!("{zone}.zone")), text)?;
            // There is none before the first change.
            let _ = std::fs::remove_file(dir.join(format!("{zone}.zone.jnl")));
            config += &format!(
                "zone \"{zone}\" {{ type primary; file \"{at}/{zone}.zone\"; update-policy {{ \
                 grant campus name _phantom._udp.{zone}. URI SRV TXT; }}; }};\n"
            );
        }
        std::fs::write(dir.join("named.conf"), config)?;
        Ok(())
    }

    /// Starts the name server of [`Campus::write_zone`].
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.start_bind(&["-c", "/var/lib/phantom/named.conf"])
    }

    fn start_bind(&mut self, args: &[&str]) -> anyhow::Result<()> {
        let host = self.lab.node(0);
        // A copy: where AppArmor confines named by its path, it may use none of these files.
        let copied =
            "cp $(PATH=$PATH:/usr/sbin:/usr/local/sbin command -v named) /var/lib/phantom/";
        host.enter(&["sh", "-c", copied]).context("no `named`: install the package bind9")?;
        let args = [&["/var/lib/phantom/named", "-g", "-n", "1"], args].concat();
        let mut child = host
            .command(false, &args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start named")?;
        let printed = BufReader::new(child.stderr.take().context("named prints nothing")?);
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
                Ok(line) if line.ends_with(" running") => break,
                Ok(line) => log.extend([&line, "\n"]),
                Err(_) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    bail!("named does not run:\n{log}");
                }
            }
        }
        self.bind = Some(child);
        Ok(())
    }

    /// Ends it.
    pub fn stop_bind(&mut self) {
        if let Some(mut child) = self.bind.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Campus {
    fn drop(&mut self) {
        self.stop_bind();
    }
}
