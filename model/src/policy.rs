//! The sub-grid's policy: what its admin has set for all members, as they read it from the signed
//! document.
//!
//! ```toml
//! [defaults]
//! limits = "cpu=150%/10s,memory=2GiB"     # for apps started without limits of their own
//!
//! [[ceiling]]                             # nobody of these may set higher ones
//! who = ["group:students", "user:bob"]    # or "everybody"
//! limits = "cpu=100%"
//!
//! [[place]]                               # who may run where; the first that fits counts
//! who = ["group:students"]
//! homes = ["lab-*"]                       # nodes they start apps on; all when absent
//! nodes = ["office-*", "vo:physics"]      # nodes their apps may move to; all when absent
//! vo = "physics"                          # only apps that run under it; all when absent
//! allow = false
//!
//! [[follow]]                              # runs wherever the super-peer is
//! name = "redis"
//! command = ["/usr/bin/redis-server", "/etc/redis.conf"]
//! user = "redis"
//! state = "/var/lib/redis"                # its files, kept in the registry
//! ```
//!
//! `vo:NAME` is the virtual organisation NAME: among nodes its members, in `who` the apps that run
//! under it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::follow::{self, Follow, FollowError};
use crate::{Limit, Limits, NodeId, VoMembers, fits};

/// What stands before the name of a virtual organisation.
const VO: &str = "vo:";

/// What an admin may set, and so what is checked before it is signed and before it is obeyed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// For apps started without a limit on that resource.
    #[serde(default)]
    pub defaults: Defaults,
    /// The highest limits users may set.
    #[serde(default, rename = "ceiling")]
    pub ceilings: Vec<Ceiling>,
    /// Who may run where.
    #[serde(default, rename = "place")]
    pub places: Vec<Place>,
    /// Services that run wherever the super-peer is.
    #[serde(default, rename = "follow")]
    pub follows: Vec<Follow>,
}

/// What holds where a user sets nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// Limits.
    #[serde(default, deserialize_with = "from_text")]
    pub limits: Limits,
}

/// The highest limits some users may set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceiling {
    /// For whom.
    pub who: Vec<Who>,
    /// How high.
    #[serde(deserialize_with = "from_text")]
    pub limits: Limits,
}

/// Whether apps of some users may move to some nodes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Whose apps.
    pub who: Vec<Who>,
    /// Started on which nodes; patterns with `*`, or `vo:NAME`. All when absent.
    #[serde(default)]
    pub homes: Option<Vec<String>>,
    /// To which nodes; patterns with `*`, or `vo:NAME`. All when absent.
    #[serde(default)]
    pub nodes: Option<Vec<String>>,
    /// Under which virtual organisation they run. Under any or none when absent.
    #[serde(default)]
    pub vo: Option<String>,
    /// Whether they may.
    pub allow: bool,
}

/// Some users.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Who {
    /// All of them.
    Everybody,
    /// The user with that login name.
    User(String),
    /// The members of that group.
    Group(String),
    /// Whoever runs it, under that virtual organisation.
    Vo(String),
}

/// Whose app it is: what its home says of its user.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Login name.
    pub user: &'a str,
    /// Names of the groups.
    pub groups: &'a [String],
    /// The names by which the virtual organisation is known here that it runs under.
    pub vo: &'a [String],
}

/// A node, as places name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site<'a> {
    /// Which.
    pub node: NodeId,
    /// What it is called.
    pub name: &'a str,
}

/// The limits an app gets, and what was changed of those asked for, each a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// What holds.
    pub limits: Limits,
    /// Why it is not what was asked for.
    pub notes: Vec<String>,
}

/// A text that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// It is not TOML, or has what a policy has not.
    #[error("the policy cannot be read: {0}")]
    Syntax(String),
    /// A default is above a ceiling that holds for everybody.
    #[error(
        "the default `{default}` is above the ceiling `{ceiling}` for everybody: lower one or raise the other"
    )]
    Contradiction {
        /// The default.
        default: Limit,
        /// The ceiling.
        ceiling: Limit,
    },
    /// A rule for nobody.
    #[error(
        "a {0} without `who`: name users (`user:bob`), groups (`group:students`) or \"everybody\""
    )]
    Nobody(&'static str),
    /// Two rules of which the second never counts.
    #[error("place {second} is about the same as place {first}, and so never counts: remove one")]
    Dead {
        /// Its number, from 1.
        first: usize,
        /// Its number, from 1.
        second: usize,
    },
    /// A service that cannot be followed.
    #[error(transparent)]
    Follow(#[from] FollowError),
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let policy: Self = toml::from_str(text)
            .map_err(|error| PolicyError::Syntax(error.to_string().trim_end().to_owned()))?;
        policy.check()?;
        Ok(policy)
    }
}

impl Policy {
    fn check(&self) -> Result<(), PolicyError> {
        follow::check(&self.follows)?;
        if self.ceilings.iter().any(|ceiling| ceiling.who.is_empty()) {
            return Err(PolicyError::Nobody("ceiling"));
        }
        if self.places.iter().any(|place| place.who.is_empty()) {
            return Err(PolicyError::Nobody("place"));
        }
        for ceiling in self.ceilings.iter().filter(|one| one.who.contains(&Who::Everybody)) {
            for default in self.defaults.limits.iter() {
                if let Some(highest) = ceiling.limits.get(default.resource)
                    && default.level > highest.level
                {
                    return Err(PolicyError::Contradiction { default: *default, ceiling: highest });
                }
            }
        }
        for (second, place) in self.places.iter().enumerate() {
            let same = |one: &Place| {
                one.who == place.who
                    && one.homes == place.homes
                    && one.nodes == place.nodes
                    && one.vo == place.vo
            };
            if let Some(first) = self.places[..second].iter().position(same) {
                return Err(PolicyError::Dead { first: first + 1, second: second + 1 });
            }
        }
        Ok(())
    }

    /// The limits of an app of `subject` that asked for `asked`.
    pub fn grant(&self, subject: Subject, asked: &Limits) -> Granted {
        let missing = |limit: &&Limit| asked.get(limit.resource).is_none();
        let defaults = self.defaults.limits.iter().filter(missing);
        let mut limits: Vec<Limit> = asked.iter().chain(defaults).copied().collect();
        let mut notes = Vec::new();
        let ceilings = self.ceilings.iter().filter(|ceiling| subject.is_any_of(&ceiling.who));
        for ceiling in ceilings.flat_map(|ceiling| ceiling.limits.iter()) {
            match limits.iter_mut().find(|limit| limit.resource == ceiling.resource) {
                None => limits.push(*ceiling),
                Some(limit) if limit.level > ceiling.level => {
                    notes.push(format!(
                        "the sub-grid's policy allows {} at most `{ceiling}`, not `{limit}`",
                        subject.user
                    ));
                    *limit = *ceiling;
                }
                Some(_) => {}
            }
        }
        Granted { limits: limits.into_iter().collect(), notes }
    }

    /// Why an app of `subject` that was started on the node `home` may not move to the node
    /// `node`; `None` when it may. Its home it may always go back to. `vos` says who is in which
    /// virtual organisation; in one that is not named there is nobody.
    pub fn forbids(
        &self,
        subject: Subject,
        home: Site,
        node: Site,
        vos: &VoMembers,
    ) -> Option<String> {
        let fits_one = |pattern: &str, site: Site| match pattern.strip_prefix(VO) {
            Some(vo) => vos.get(vo).is_some_and(|members| members.contains(&site.node)),
            None => fits(pattern, site.name),
        };
        let named = |patterns: &Option<Vec<String>>, site: Site| {
            patterns.as_ref().is_none_or(|all| all.iter().any(|one| fits_one(one, site)))
        };
        let place = self.places.iter().position(|place| {
            subject.is_any_of(&place.who)
                && place.vo.as_ref().is_none_or(|vo| subject.vo.contains(vo))
                && named(&place.homes, home)
                && named(&place.nodes, node)
        })?;
        let forbidden = !self.places[place].allow && home.node != node.node;
        forbidden.then(|| {
            format!(
                "the sub-grid's policy (place {}) keeps apps of {} away",
                place + 1,
                subject.user
            )
        })
    }
}

impl Policy {
    /// The virtual organisations it names.
    pub fn vos(&self) -> BTreeSet<&str> {
        let ceilings = self.ceilings.iter().flat_map(|ceiling| &ceiling.who);
        let places = self.places.iter().flat_map(|place| &place.who);
        let who = ceilings.chain(places).filter_map(|who| match who {
            Who::Vo(name) => Some(name.as_str()),
            _ => None,
        });
        let sites = self.places.iter().flat_map(|place| place.homes.iter().chain(&place.nodes));
        let sites = sites.flatten().filter_map(|pattern| pattern.strip_prefix(VO));
        let under = self.places.iter().filter_map(|place| place.vo.as_deref());
        who.chain(sites).chain(under).collect()
    }
}

impl Subject<'_> {
    fn is_any_of(&self, who: &[Who]) -> bool {
        who.iter().any(|one| match one {
            Who::Everybody => true,
            Who::User(name) => name == self.user,
            Who::Group(name) => self.groups.contains(name),
            Who::Vo(name) => self.vo.contains(name),
        })
    }
}

impl TryFrom<String> for Who {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "everybody" => Ok(Who::Everybody),
            Some(("user", name)) if !name.is_empty() => Ok(Who::User(name.to_owned())),
            Some(("group", name)) if !name.is_empty() => Ok(Who::Group(name.to_owned())),
            Some(("vo", name)) if !name.is_empty() => Ok(Who::Vo(name.to_owned())),
            _ => Err(format!(
                "`{text}` is nobody: write `user:bob`, `group:students`, `vo:physics` or `everybody`"
            )),
        }
    }
}

impl From<Who> for String {
    fn from(who: Who) -> Self {
        who.to_string()
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Everybody => f.write_str("everybody"),
            Who::User(name) => write!(f, "user:{name}"),
            Who::Group(name) => write!(f, "group:{name}"),
            Who::Vo(name) => write!(f, "vo:{name}"),
        }
    }
}

fn from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Limits, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: &str = r#"
        [defaults]
        limits = "cpu=150%/10s"

        [[ceiling]]
        who = ["everybody"]
        limits = "cpu=300%"

        [[ceiling]]
        who = ["group:students"]
        limits = "cpu=100%/5s,memory=1GiB"

        [[place]]
        who = ["user:eve"]
        nodes = ["lab-1"]
        allow = true

        [[place]]
        who = ["group:students"]
        homes = ["lab-*"]
        nodes = ["office-*", "*boss*"]
        allow = false
    "#;

    fn policy() -> Policy {
        POLICY.parse().unwrap()
    }

    /// Nodes of different names are different ones.
    fn site(name: &str) -> Site<'_> {
        let mut node = [0; 32];
        node[..name.len()].copy_from_slice(name.as_bytes());
        Site { node: NodeId(node), name }
    }

    fn limits(text: &str) -> Limits {
        text.parse().unwrap()
    }

    #[test]
    fn defaults_fill_in_and_ceilings_lower() {
        let students = ["students".to_owned()];
        let (ada, eve) = (
            Subject { user: "ada", groups: &[], vo: &[] },
            Subject { user: "eve", groups: &students, vo: &[] },
        );
        let granted = policy().grant(ada, &limits(""));
        assert_eq!((granted.limits.to_string().as_str(), granted.notes.len()), ("cpu=150%/10s", 0));
        let granted = policy().grant(ada, &limits("cpu=800%,memory=4GiB"));
        assert_eq!(granted.limits.to_string(), "cpu=300%/10s,memory=4GiB/1s");
        assert_eq!(
            granted.notes,
            ["the sub-grid's policy allows ada at most `cpu=300%/10s`, not `cpu=800%/10s`"]
        );
        let granted = policy().grant(eve, &limits("cpu=50%"));
        assert_eq!(granted.limits.to_string(), "cpu=50%/10s,memory=1GiB/1s");
        assert_eq!(policy().grant(eve, &limits("")).limits, limits("cpu=100%/5s,memory=1GiB"));
        assert_eq!(Policy::default().grant(eve, &limits("cpu=9%")).limits, limits("cpu=9%"));
    }

    #[test]
    fn the_first_place_that_fits_counts_and_home_is_always_open() {
        let students = ["students".to_owned()];
        let (ada, eve) = (
            Subject { user: "ada", groups: &[], vo: &[] },
            Subject { user: "eve", groups: &students, vo: &[] },
        );
        let forbids = |subject, home, node| {
            policy().forbids(subject, site(home), site(node), &VoMembers::new())
        };
        assert_eq!(forbids(ada, "lab-1", "office-2"), None);
        let words = forbids(eve, "lab-1", "office-2").unwrap();
        assert_eq!(words, "the sub-grid's policy (place 2) keeps apps of eve away");
        assert!(forbids(eve, "lab-1", "the-boss-desk").is_some());
        assert_eq!(forbids(eve, "home", "office-2"), None);
        assert_eq!(forbids(eve, "lab-7", "lab-1"), None);
        assert_eq!(forbids(eve, "office-2", "office-2"), None, "its home");
    }

    #[test]
    fn virtual_organisations_are_nodes_apps_and_a_condition() {
        let text = r#"
            [[ceiling]]
            who = ["vo:physics"]
            limits = "cpu=100%"

            [[place]]
            who = ["everybody"]
            vo = "physics@0707070707"
            nodes = ["vo:physics", "shed"]
            allow = true

            [[place]]
            who = ["vo:physics"]
            homes = ["vo:nobody"]
            allow = false

            [[place]]
            who = ["everybody"]
            nodes = ["vo:physics"]
            allow = false
        "#;
        let policy: Policy = text.parse().unwrap();
        assert_eq!(
            policy.vos().into_iter().collect::<Vec<_>>(),
            ["nobody", "physics", "physics@0707070707"]
        );
        let names = ["physics".to_owned(), "physics@0707070707".to_owned()];
        let under = Subject { user: "ada", groups: &[], vo: &names };
        let free = Subject { vo: &[], ..under };
        let members = [site("lab").node, site("attic").node].into();
        let vos = VoMembers::from([("physics".to_owned(), members)]);
        let forbids = |subject, node| policy.forbids(subject, site("attic"), site(node), &vos);
        assert_eq!(forbids(under, "lab"), None, "place 1");
        assert!(forbids(free, "lab").unwrap().contains("place 3"));
        assert_eq!(forbids(free, "barn"), None, "no member");
        assert_eq!(forbids(free, "attic"), None, "its home");
        assert_eq!(policy.grant(under, &limits("cpu=200%")).limits, limits("cpu=100%"));
        assert_eq!(policy.grant(free, &limits("cpu=200%")).limits, limits("cpu=200%"));
        let unknown = policy.forbids(free, site("attic"), site("lab"), &VoMembers::new());
        assert_eq!(unknown, None, "nobody is known to be in it");
        assert_eq!("vo:x".to_owned().try_into(), Ok(Who::Vo("x".to_owned())));
        assert!(Who::try_from("vo:".to_owned()).is_err());
    }

    #[test]
    fn contradictions_and_mistakes_are_named() {
        for (text, words) in [
            ("[defaults]\nlimits = \"cpu=15x\"", "not a share of a core"),
            ("[default]\n", "unknown field `default`"),
            ("[[ceiling]]\nwho = [\"bob\"]\nlimits = \"cpu=1%\"", "`bob` is nobody"),
            ("[[ceiling]]\nwho = []\nlimits = \"cpu=1%\"", "a ceiling without `who`"),
            (
                "[defaults]\nlimits = \"cpu=200%\"\n[[ceiling]]\nwho = [\"everybody\"]\nlimits = \"cpu=100%\"",
                "the default `cpu=200%/10s` is above the ceiling `cpu=100%/10s`",
            ),
            (
                "[[place]]\nwho=[\"everybody\"]\nallow=true\n[[place]]\nwho=[\"everybody\"]\nallow=false",
                "place 2 is about the same as place 1",
            ),
        ] {
            let said = text.parse::<Policy>().unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
        assert_eq!("".parse::<Policy>().unwrap(), Policy::default());
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,200}") {
            let _ = text.parse::<Policy>();
        }

        #[test]
        fn nothing_granted_is_above_a_ceiling(cpu in 1u32..2000, student in any::<bool>()) {
            let groups = if student { vec!["students".to_owned()] } else { vec![] };
            let subject = Subject { user: "eve", groups: &groups, vo: &[] };
            let granted = policy().grant(subject, &limits(&format!("cpu={cpu}%")));
            let level = granted.limits.iter().next().unwrap().level;
            let highest = if student { 100 } else { 300 };
            prop_assert!(level <= highest);
            prop_assert!(level <= u64::from(cpu));
        }
    }
}
