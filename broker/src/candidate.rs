//! What an app needs, and why a member cannot give it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use phantom_model::{Bytes, Capability, NodeFacts, NodeId, Policy, Site, Subject, VoMembers};

use crate::{Estimate, Left, Standing};

/// What an app asks of a node.
#[derive(Debug, Clone)]
pub struct Needs {
    /// The node it runs on: not a candidate.
    pub host: NodeId,
    /// Its home, which needs no FUSE to host it.
    pub home: NodeId,
    /// Resident memory of all its processes.
    pub resident: Bytes,
    /// Facts of the node it was started on: its CPU features may be in use.
    pub started_on: NodeFacts,
    /// Nodes where it exceeded its limits, see [`crate::Left`].
    pub left: Left,
    /// What the sub-grid's policy and its virtual organisation say of it.
    pub rules: Rules,
}

impl Needs {
    /// What must be free at a target: the image lies in memory beside the processes restored from
    /// it.
    pub fn memory(&self) -> Bytes {
        Bytes(self.resident.0.saturating_mul(2).saturating_add(RESERVE.0))
    }
}

/// One of the things that an app asks of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    /// It is not the one it runs on.
    Elsewhere,
    /// It is in the app's virtual organisation.
    Organisation,
    /// The sub-grid's policy lets the app go there.
    Policy,
    /// It answers.
    Answers,
    /// It can restore apps.
    Restores,
    /// It can show the files of the app's home.
    ShowsFiles,
    /// It is of the same architecture.
    Arch,
    /// Its CPU has all features that the app may use.
    Cpu,
    /// There is room for it.
    Memory,
}

impl Requirement {
    /// All, in the order in which they are looked at.
    pub const ALL: [Self; 9] = [
        Self::Elsewhere,
        Self::Organisation,
        Self::Policy,
        Self::Answers,
        Self::Restores,
        Self::ShowsFiles,
        Self::Arch,
        Self::Cpu,
        Self::Memory,
    ];
}

/// The policy, and what of an app it depends on.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The policy that counts.
    pub policy: Arc<Policy>,
    /// Login name of the app's user at its home.
    pub user: String,
    /// Names of the user's groups there.
    pub groups: Vec<String>,
    /// What the app's home is called.
    pub home: String,
    /// The virtual organisation it runs under.
    pub vo: Option<Organisation>,
    /// Who is in which virtual organisation, for the policy.
    pub vos: Arc<VoMembers>,
}

/// A virtual organisation, as far as it is known where the choice is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organisation {
    /// The names by which it is known here, that for people first; never empty.
    pub names: Vec<String>,
    /// The nodes in it; `None` where it is not known at all.
    pub members: Option<BTreeSet<NodeId>>,
}

impl Rules {
    fn forbid(&self, home: NodeId, node: Site) -> Option<String> {
        let vo = self.vo.as_ref().map_or(&[][..], |vo| &vo.names);
        let subject = Subject { user: &self.user, groups: &self.groups, vo };
        let home = Site { node: home, name: &self.home };
        self.policy.forbids(subject, home, node, &self.vos)
    }

    /// Why the app's virtual organisation keeps it from `node`. Its home it may always go back to.
    fn outside(&self, home: NodeId, node: NodeId) -> Option<String> {
        let vo = self.vo.as_ref().filter(|_| node != home)?;
        let name = vo.names.first().map_or("", String::as_str);
        let Some(members) = &vo.members else {
            return Some(format!(
                "is not for it: the virtual organisation {name} is not known here"
            ));
        };
        if !members.contains(&node) {
            return Some(format!("is not in the virtual organisation {name}"));
        }
        (!members.contains(&home))
            .then(|| format!("is not for it: its home is not in the virtual organisation {name}"))
    }
}

/// One member, what it says, and what is known of it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// What it said of itself; `None` when it does not answer.
    pub facts: Option<NodeFacts>,
    /// Which member.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The way to it.
    pub link: Link,
    /// How far what it says can be trusted.
    pub standing: Standing,
}

/// The way to a node, as measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Link {
    /// How fast it is, where that is known.
    pub way: Option<Estimate>,
    /// Round-trip time, while it is connected.
    pub rtt: Option<Duration>,
}

/// Memory a target must have beyond what the app holds.
const RESERVE: Bytes = Bytes(64 << 20);

impl Candidate {
    /// A member of which nothing was measured yet.
    pub fn new(node: NodeId, name: &str, facts: Option<NodeFacts>) -> Self {
        let (link, standing) = (Link::default(), Standing::default());
        Self { facts, node, name: name.to_owned(), link, standing }
    }

    /// Why this member cannot take the app; `None` when it can.
    pub fn refusal(&self, needs: &Needs) -> Option<String> {
        self.refusals(needs).into_iter().next().map(|(_, reason)| reason)
    }

    /// What of all that the app asks for this member does not give, each with its reason; of one that
    /// does not answer nothing is known that it would have to say itself.
    pub fn refusals(&self, needs: &Needs) -> Vec<(Requirement, String)> {
        let mut found = Vec::new();
        let mut refuse = |requirement, reason: Option<String>| {
            found.extend(reason.map(|reason| (requirement, reason)));
        };
        let here = self.node == needs.host;
        refuse(Requirement::Elsewhere, here.then(|| "it already runs there".to_owned()));
        refuse(Requirement::Organisation, needs.rules.outside(needs.home, self.node));
        let site = Site { node: self.node, name: &self.name };
        let forbidden = needs.rules.forbid(needs.home, site);
        refuse(Requirement::Policy, forbidden.map(|reason| format!("is not for it: {reason}")));
        let Some(facts) = &self.facts else {
            refuse(Requirement::Answers, Some("does not answer".to_owned()));
            return found;
        };
        let cannot_restore = (!facts.can(Capability::Checkpoint)).then(|| {
            let why = if facts.canary.is_empty() { "" } else { ": " };
            format!("cannot restore apps{why}{}; `phantom doctor` there says more", facts.canary)
        });
        refuse(Requirement::Restores, cannot_restore);
        let no_files = facts.node != needs.home && !facts.can(Capability::Files);
        let no_files = no_files
            .then(|| "cannot show files of other nodes (FUSE); see `phantom doctor`".to_owned());
        refuse(Requirement::ShowsFiles, no_files);
        let needed = &needs.started_on.arch;
        let other = (facts.arch != *needed)
            .then(|| format!("is a {} machine, the app needs {needed}", facts.arch));
        refuse(Requirement::Arch, other);
        let missing = missing_flags(&needs.started_on.cpu_flags, &facts.cpu_flags);
        let lacking = missing.first().map(|first| match missing.len() {
            1 => format!("its CPU lacks {first}, which the app may use"),
            n => format!("its CPU lacks {first} and {} more features the app may use", n - 1),
        });
        refuse(Requirement::Cpu, lacking);
        let wanted = needs.memory();
        let small = (facts.memory_free < wanted)
            .then(|| format!("has {} of memory free, the move needs {wanted}", facts.memory_free));
        refuse(Requirement::Memory, small);
        found
    }
}

/// Features programs choose code by. Others (`flags` names kernel and hypervisor ones too) may
/// differ without harm.
const USED_FEATURES: [&str; 27] = [
    "adx",
    "aes",
    "avx",
    "avx2",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512f",
    "avx512vl",
    "bmi1",
    "bmi2",
    "erms",
    "f16c",
    "fma",
    "fsrm",
    "lzcnt",
    "movbe",
    "pclmulqdq",
    "popcnt",
    "rdrand",
    "rdseed",
    "sha_ni",
    "sse4_1",
    "sse4_2",
    "ssse3",
    "vaes",
    "xsave",
];

fn missing_flags(needed: &[String], present: &[String]) -> Vec<String> {
    let present: BTreeSet<&str> = present.iter().map(String::as_str).collect();
    needed
        .iter()
        .filter(|flag| USED_FEATURES.contains(&flag.as_str()) && !present.contains(flag.as_str()))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(id: u8, idle: u32) -> NodeFacts {
        NodeFacts {
            node: NodeId([id; 32]),
            name: format!("n{id}"),
            version: String::new(),
            arch: "x86_64".into(),
            kernel: "6.12".into(),
            cpu_flags: vec!["avx2".into(), "hypervisor".into()],
            cores: 4,
            idle_centicores: idle,
            mflops: 1000,
            load_centi: 0,
            memory_total: Bytes(8 << 30),
            memory_free: Bytes(4 << 30),
            capabilities: vec![Capability::Checkpoint, Capability::Files],
            canary: String::new(),
            criu_version: Some(40_200),
            criu_restores_job_control: true,
        }
    }

    fn candidate(facts: NodeFacts) -> Candidate {
        Candidate::new(facts.node, &facts.name.clone(), Some(facts))
    }

    fn needs() -> Needs {
        Needs {
            host: NodeId([1; 32]),
            home: NodeId([1; 32]),
            resident: Bytes(100 << 20),
            started_on: facts(1, 0),
            left: Left::default(),
            rules: Rules::default(),
        }
    }

    #[test]
    fn a_cpu_that_lacks_what_may_be_in_use_is_refused() {
        let mut weak = facts(3, 399);
        weak.cpu_flags.clear();
        let words = candidate(weak).refusal(&needs()).unwrap();
        assert_eq!(words, "its CPU lacks avx2, which the app may use");
        assert_eq!(candidate(facts(4, 250)).refusal(&needs()), None);
    }

    #[test]
    fn every_refusal_says_why() {
        let silent = Candidate::new(NodeId([9; 32]), "n9", None);
        assert_eq!(silent.refusal(&needs()).unwrap(), "does not answer");
        let mut small = facts(2, 0);
        small.memory_free = Bytes(200 << 20);
        assert_eq!(
            candidate(small).refusal(&needs()).unwrap(),
            "has 200 MiB of memory free, the move needs 264 MiB"
        );
        let mut other = facts(2, 0);
        other.arch = "aarch64".into();
        assert!(candidate(other).refusal(&needs()).unwrap().contains("aarch64"));
        let mut bare = facts(2, 0);
        bare.capabilities = vec![Capability::Checkpoint];
        assert!(candidate(bare).refusal(&needs()).unwrap().contains("FUSE"));
    }

    #[test]
    fn the_policy_keeps_an_app_away_from_a_node() {
        let text = "[[place]]\nwho=[\"user:bob\"]\nnodes=[\"n2\"]\nallow=false";
        let policy: Arc<Policy> = Arc::new(text.parse().unwrap());
        let rules = |user: &str| Rules {
            policy: policy.clone(),
            user: user.to_owned(),
            home: "n1".to_owned(),
            ..Rules::default()
        };
        let of = |user| Needs { rules: rules(user), ..needs() };
        let words = candidate(facts(2, 300)).refusal(&of("bob")).unwrap();
        assert!(words.contains("policy (place 1)"), "{words}");
        assert_eq!(candidate(facts(2, 300)).refusal(&of("ada")), None);
    }

    #[test]
    fn an_app_goes_to_members_of_its_virtual_organisation_only() {
        let under = |members: Option<&[u8]>| {
            let members = members.map(|all| all.iter().map(|id| NodeId([*id; 32])).collect());
            let vo = Some(Organisation { names: vec!["physics".to_owned()], members });
            Needs { rules: Rules { vo, ..Rules::default() }, ..needs() }
        };
        let refused = |node: u8, needs: &Needs| candidate(facts(node, 300)).refusal(needs);
        let both = under(Some(&[1, 2]));
        assert_eq!(refused(2, &both), None);
        assert_eq!(refused(3, &both).unwrap(), "is not in the virtual organisation physics");
        let homeless = refused(2, &under(Some(&[2]))).unwrap();
        assert!(homeless.contains("its home is not in the virtual organisation"), "{homeless}");
        assert!(refused(2, &under(None)).unwrap().contains("physics is not known here"));
        // Its home it may go back to, whatever became of the organisation.
        for members in [Some(&[2][..]), Some(&[]), None] {
            let away = Needs { host: NodeId([2; 32]), ..under(members) };
            assert_eq!(refused(1, &away), None);
        }
    }

    #[test]
    fn places_of_the_policy_may_name_virtual_organisations() {
        let text = "[[place]]\nwho=[\"everybody\"]\nnodes=[\"vo:physics\"]\nallow=false";
        let vos = VoMembers::from([("physics".to_owned(), [NodeId([2; 32])].into())]);
        let rules = Rules {
            policy: Arc::new(text.parse().unwrap()),
            home: "n1".to_owned(),
            vos: Arc::new(vos),
            ..Rules::default()
        };
        let needs = Needs { rules, ..needs() };
        assert!(candidate(facts(2, 300)).refusal(&needs).unwrap().contains("policy (place 1)"));
        assert_eq!(candidate(facts(3, 300)).refusal(&needs), None);
    }

    #[test]
    fn home_needs_no_fuse_to_take_its_own_app_back() {
        let mut home = facts(1, 0);
        home.capabilities = vec![Capability::Checkpoint];
        let needs = Needs { host: NodeId([2; 32]), ..needs() };
        assert_eq!(candidate(home).refusal(&needs), None);
    }
}
