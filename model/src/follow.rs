//! Services that run wherever the super-peer is: `[[follow]]` of the sub-grid's policy.

use std::path::{Component, Path};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::{Window, fits};

/// So many services at most; their states share the group's small memory.
pub const MAX_FOLLOWS: usize = 16;
const MAX_NAME_CHARS: usize = 40;
const MAX_ARGUMENTS: usize = 64;
const MAX_TEXT_BYTES: usize = 4096;

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follow {
    /// What it is called.
    pub name: String,
    /// The program with its whole path, and its arguments. It must stay in the foreground.
    pub command: Vec<String>,
    /// Whose rights it has: a login name on each node; `root` only if said so.
    pub user: String,
    /// The folder whose files go with it, with its whole path.
    #[serde(default)]
    pub state: Option<String>,
    /// Nodes that may run it; patterns with `*`. All when absent.
    #[serde(default)]
    pub nodes: Option<Vec<String>>,
    /// How often its files are looked at.
    #[serde(default = "usual_save", deserialize_with = "from_text")]
    pub save: Window,
    /// How long it may take to end by itself before it is killed.
    #[serde(default = "usual_stop", deserialize_with = "from_text")]
    pub stop: Window,
}

/// A service that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FollowError {
    /// Its name.
    #[error(
        "`{0}` is no name for a followed service: letters, digits, `-`, `_` and `.`, at most 40, the first no `.`"
    )]
    Name(String),
    /// There are two of it.
    #[error("there are two followed services `{0}`: rename one")]
    Twice(String),
    /// There are too many.
    #[error("at most {MAX_FOLLOWS} services can be followed")]
    Many,
    /// What to run.
    #[error(
        "the command of `{0}` does not begin with the whole path of a program: write it like `command = [\"/usr/bin/redis-server\", \"/etc/redis.conf\"]`"
    )]
    Command(String),
    /// Whose rights.
    #[error("`{0}` has no user: write a login name, like `user = \"redis\"`")]
    User(String),
    /// Which folder.
    #[error(
        "`{0}`: its `state` is not the whole path of a folder of its own, like `/var/lib/redis`"
    )]
    State(String),
    /// How often, how long.
    #[error("`{0}`: `save` is at least 1s, and `stop` at most 5m")]
    Times(String),
}

impl Follow {
    /// Whether a node of this name may run it.
    pub fn may_run_on(&self, node: &str) -> bool {
        self.nodes.as_ref().is_none_or(|all| all.iter().any(|one| fits(one, node)))
    }

    fn check(&self) -> Result<(), FollowError> {
        let Self { name, command, user, state, .. } = self;
        let usable = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty()
            || name.len() > MAX_NAME_CHARS
            || name.starts_with('.')
            || !name.chars().all(usable)
        {
            return Err(FollowError::Name(name.chars().take(MAX_NAME_CHARS).collect()));
        }
        let is_text = |text: &str| text.len() <= MAX_TEXT_BYTES && !text.contains('\0');
        let sound = command.len() <= MAX_ARGUMENTS && command.iter().all(|text| is_text(text));
        if !sound || !command.first().is_some_and(|program| is_whole(program)) {
            return Err(FollowError::Command(name.clone()));
        }
        if user.is_empty() || !is_text(user) || user.contains([':', '\n']) {
            return Err(FollowError::User(name.clone()));
        }
        // Two levels at least: nobody means to have `/etc` carried about.
        let is_folder = |path: &str| {
            is_text(path) && is_whole(path) && Path::new(path).components().count() > 2
        };
        if state.as_ref().is_some_and(|state| !is_folder(state)) {
            return Err(FollowError::State(name.clone()));
        }
        if self.save.0 < Duration::from_secs(1) || self.stop.0 > Duration::from_secs(300) {
            return Err(FollowError::Times(name.clone()));
        }
        Ok(())
    }
}

/// Whether all of them can be.
pub(crate) fn check(follows: &[Follow]) -> Result<(), FollowError> {
    if follows.len() > MAX_FOLLOWS {
        return Err(FollowError::Many);
    }
    for (number, follow) in follows.iter().enumerate() {
        follow.check()?;
        if follows[..number].iter().any(|other| other.name == follow.name) {
            return Err(FollowError::Twice(follow.name.clone()));
        }
    }
    Ok(())
}

/// An absolute path without `..`.
fn is_whole(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    parts.next() == Some(Component::RootDir)
        && parts.clone().count() > 0
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn usual_save() -> Window {
    Window(Duration::from_secs(5))
}

fn usual_stop() -> Window {
    Window(Duration::from_secs(10))
}

fn from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Window, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use crate::Policy;

    const REDIS: &str = r#"
        [[follow]]
        name = "redis"
        command = ["/usr/bin/redis-server", "/etc/redis.conf"]
        user = "redis"
        state = "/var/lib/redis"
        nodes = ["attic", "lab-*"]
    "#;

    #[test]
    fn a_service_is_read_with_what_is_usual() {
        let policy: Policy = REDIS.parse().unwrap();
        let redis = &policy.follows[0];
        assert_eq!((redis.save.to_string(), redis.stop.to_string()), ("5s".into(), "10s".into()));
        assert!(redis.may_run_on("attic") && redis.may_run_on("lab-3"));
        assert!(!redis.may_run_on("cellar"));
    }

    #[test]
    fn mistakes_are_named() {
        let with = |from: &str, to: &str| {
            let text = REDIS.replace(from, to);
            assert_ne!(text, REDIS);
            text.parse::<Policy>().unwrap_err().to_string()
        };
        for (from, to, words) in [
            ("\"redis\"\n        command", "\"../x\"\n        command", "`../x` is no name"),
            ("/usr/bin/redis-server", "redis-server", "command of `redis`"),
            ("/usr/bin/redis-server", "/usr/../redis-server", "command of `redis`"),
            ("user = \"redis\"", "user = \"\"", "has no user"),
            ("/var/lib/redis", "/var", "`state` is not the whole path"),
            ("/var/lib/redis", "/var/lib/..", "`state` is not the whole path"),
            ("user =", "stop = \"6m\"\nuser =", "`stop` at most 5m"),
            ("user =", "save = \"100ms\"\nuser =", "`save` is at least 1s"),
            ("user =", "restart = 1\nuser =", "unknown field `restart`"),
        ] {
            let said = with(from, to);
            assert!(said.contains(words), "{said}");
        }
        let twice = format!("{REDIS}{REDIS}").parse::<Policy>().unwrap_err().to_string();
        assert!(twice.contains("two followed services `redis`"), "{twice}");
    }
}
